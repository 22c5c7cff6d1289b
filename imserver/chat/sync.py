"""SYNC and SYNC_KEY: what a device missed (protocol.md, Timelines and sync keys)."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.interfaces import IConnection, ISyncKeys, ITimelines, Unavailable
from imserver.metrics import Metrics
from imserver.model import SAFE_INTEGER, SYNC_ENTRIES, Entry, TimelineKey, Unit, UserKey, user_timeline
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
            if key > 0:
                end = await self._timelines.head(timeline)
            else:
                key, end = await self._saved_key_and_end(connection.user, timeline)
        except Unavailable:
            connection.enqueue_many((_unit(SyncBegin(key)), _unit(SyncEnd(key))))
            return
        connection.enqueue(_unit(SyncBegin(key)))
        if key >= end:
            connection.enqueue(_unit(SyncEnd(end)))
        else:
            await self._send_entries(connection, timeline, key, end)

    async def _send_entries(self, connection: IConnection, timeline: TimelineKey, key: int, end: int) -> None:
        """The entries after `key`, a page at a time as the client takes them, and SYNC_END."""
        last, left = key, SYNC_ENTRIES
        more = True
        while more and left:
            try:
                entries = await self._timelines.read(timeline, last, left)
            except Unavailable:
                # What was sent counts, and the client is to come back for the rest. Where nothing was sent it is not
                # told to, or it would come back at once, for as long as the database is away.
                connection.enqueue(_unit(SyncEnd(last)))
                if last > key:
                    connection.enqueue(_unit(SyncNotify(last + 1)))
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

    async def _saved_key_and_end(self, user: UserKey, timeline: TimelineKey) -> tuple[int, int]:
        """Both are asked for at once: their deadlines one after the other would be more than the client waits."""
        both = gatherResults([self._sync_keys.saved_key(user), self._timelines.head(timeline)], consumeErrors=True)
        try:
            saved, end = await both
        except FirstError as error:
            error.subFailure.raiseException()
        # A saved key beyond the end (a restored backup) must not hide what comes next.
        return min(saved, end), end

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
