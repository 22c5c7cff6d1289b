"""Ctrl-C and SIGTERM: what was begun is ended in good order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred


@contextmanager
def stopped_by_signal(reactor: Any, stop: Callable[[], object]) -> Iterator[None]:
    """While the block runs, a signal calls `stop`; the reactor goes on until the block is left."""
    left: Deferred[None] = Deferred()
    interrupted = False

    def on_signal() -> Deferred[None]:
        nonlocal interrupted
        interrupted = True
        stop()
        return left

    trigger = reactor.addSystemEventTrigger("before", "shutdown", on_signal)
    try:
        yield
    finally:
        if not interrupted:
            reactor.removeSystemEventTrigger(trigger)
        left.callback(None)
