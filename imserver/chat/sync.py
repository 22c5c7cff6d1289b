"""SYNC and SYNC_KEY: what a device missed (protocol.md, Timelines and sync keys)."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.interfaces import IConnection, ISyncKeys, ITimelines, Unavailable
from imserver.metrics import Metrics
from imserver.model import SAFE_INTEGER, SYNC_ENTRIES, Entry, Unit, user_timeline
from imserver.protocol.commands import Flag
from imserver.protocol.frame import Frame
from imserver.protocol.messages import Message, Sync, SyncBegin, SyncEnd, SyncKey, SyncNotify, stored_frame


class SyncClient:
    _log = Logger()

    def __init__(self, timelines: ITimelines, sync_keys: ISyncKeys, metrics: Metrics) -> None:
        self._timelines = timelines
        self._sync_keys = sync_keys
        self._metrics = metrics

    def sync(self, connection: IConnection, _frame: Frame, message: Sync) -> Deferred[None]:
        return Deferred.fromCoroutine(self._sync(connection, message.key))

    async def _sync(self, connection: IConnection, key: int) -> None:
        timeline = user_timeline(connection.user)
        try:
            end = await self._timelines.head(timeline)
            if key <= 0:
                # A saved key beyond the end (a restored backup) must not hide what comes next.
                key = min(await self._sync_keys.saved_key(connection.user), end)
        except Unavailable:
            connection.enqueue_many((_unit(SyncBegin(key)), _unit(SyncEnd(key))))
            return
        connection.enqueue(_unit(SyncBegin(key)))
        if key >= end:
            connection.enqueue(_unit(SyncEnd(end)))
            return
        last, left = key, SYNC_ENTRIES
        more = True
        while more and left:
            try:
                entries = await self._timelines.read(timeline, last, left)
            except Unavailable:
                # What was sent counts; the client is to come back for the rest.
                connection.enqueue_many((_unit(SyncEnd(last)), _unit(SyncNotify(last + 1))))
                return
            if connection.closed:
                return
            if not entries:
                break
            connection.enqueue_many(_synced(entries, connection.device))
            self._metrics.sync_entries.inc(by=len(entries))
            last = entries[-1].key
            left -= len(entries)
            more = last < end
            drained = connection.drained()
            if more and drained is not None:
                await drained
                if connection.closed:
                    return
        if more and left:  # retention took what was left
            last = end
        connection.enqueue(_unit(SyncEnd(last)))
        if last < end:
            connection.enqueue(_unit(SyncNotify(last + 1)))

    def sync_key(self, connection: IConnection, _frame: Frame, message: SyncKey) -> Deferred[None] | None:
        if not 0 < message.key < SAFE_INTEGER:
            self._metrics.ignored.inc("sync_key")
            return None
        return self._sync_keys.save_key(connection.user, message.key).addErrback(self._not_saved)

    def _not_saved(self, failure: Failure) -> None:
        failure.trap(Unavailable)
        # The client loses nothing: it has the key itself, and another device merely gets more than it needs.
        self._log.warn("a sync key was not saved: {reason}", reason=failure.getErrorMessage())


def _unit(message: Message) -> Unit:
    return Unit((message.frame(),))


def _synced(entries: Sequence[Entry], device: int) -> list[Unit]:
    """The entries as this device gets them: SELF on those that it sent itself."""
    units = []
    for entry in entries:
        flag = entry.flag | Flag.SELF if device and entry.device == device else entry.flag
        units.append(Unit((stored_frame(entry.command, flag, entry.body),)))
    return units
