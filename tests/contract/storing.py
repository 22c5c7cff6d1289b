"""Storing, for tests that wait for it."""

from twisted.internet.defer import Deferred

from imserver.interfaces import ITimelines, Unavailable
from imserver.model import NewMessage, Stored


def store(timelines: ITimelines, message: NewMessage) -> Deferred[Stored]:
    """Fires with what `ITimelines.store` says; fails where it raises."""
    stored: Deferred[Stored] = Deferred()
    try:
        timelines.store(message, stored.callback)
    except Unavailable:
        stored.errback()
    return stored
