"""SYNC, SYNC_GROUP and the keys: what a device missed (protocol.md, Timelines and sync keys)."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger

from imserver.chat.compose import is_id
from imserver.interfaces import IConnection, IGroups, ISyncKeys, ITimelines, Unavailable
from imserver.metrics import Metrics
from imserver.model import (
    GROUP_TIMELINE,
    SYNC_ENTRIES,
    Entry,
    Group,
    TimelineKey,
    Unit,
    UserKey,
    group_timeline,
    user_timeline,
)
from imserver.protocol.commands import Flag
from imserver.protocol.frame import Frame
from imserver.protocol.messages import (
    GroupSyncKey,
    Message,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
    SyncGroupNotify,
    SyncKey,
    SyncNotify,
    sender_of,
    stored_frame,
)


class _Words(NamedTuple):
    """In which commands a timeline is answered, each with a key."""

    begin: Callable[[int], Message]
    end: Callable[[int], Message]
    notify: Callable[[int], Message]


_OWN = _Words(SyncBegin, SyncEnd, SyncNotify)


def _of_group(group_id: int) -> _Words:
    return _Words(
        partial(SyncGroupBegin, group_id), partial(SyncGroupEnd, group_id), partial(SyncGroupNotify, group_id)
    )


class _Place(NamedTuple):
    """In a timeline."""

    #: The key after which the client wants the entries.
    key: int
    #: The timeline's.
    end: int
    #: What the client says to have.
    held: int


class SyncClient:
    _log = Logger()

    def __init__(self, timelines: ITimelines, sync_keys: ISyncKeys, groups: IGroups, metrics: Metrics) -> None:
        self._timelines = timelines
        self._sync_keys = sync_keys
        self._groups = groups
        self._metrics = metrics

    def sync(self, connection: IConnection, _frame: Frame, message: Sync) -> Deferred[None]:
        return Deferred.fromCoroutine(self._sync(connection, message.key))

    async def _sync(self, connection: IConnection, key: int) -> None:
        timeline = user_timeline(connection.user)
        connection.watch_pushes(timeline)
        place = await self._place(connection.user, timeline, key)
        if place is None:
            _answer_nothing(connection, _OWN, key)
        else:
            await self._answer(connection, _OWN, timeline, place)

    def sync_group(self, connection: IConnection, _frame: Frame, message: SyncGroup) -> Deferred[None] | None:
        group = self._groups.group(connection.appid, message.group)
        if isinstance(group, Deferred) or _joined(group, connection.uid) is not None:
            return Deferred.fromCoroutine(self._sync_group(connection, message, group))
        _answer_nothing(connection, _of_group(message.group), message.key)
        return None

    async def _sync_group(
        self, connection: IConnection, message: SyncGroup, found: Group | Deferred[Group | None] | None
    ) -> None:
        words = _of_group(message.group)
        timeline = group_timeline(connection.appid, message.group)
        connection.watch_pushes(timeline)
        # Asked for while the group is found: the deadlines one after the other would be more than the client waits.
        asked = Deferred.fromCoroutine(self._place(connection.user, timeline, message.key))
        try:
            group = await found if isinstance(found, Deferred) else found
        except Unavailable:
            group = None
        joined = _joined(group, connection.uid)
        place = await asked if joined is not None else None
        if joined is None or place is None:
            _answer_nothing(connection, words, message.key)
        else:
            await self._answer(connection, words, timeline, place, joined)

    async def _place(self, user: UserKey, timeline: TimelineKey, key: int) -> _Place | None:
        """Where to go on; None: that cannot be known now."""
        group = timeline.owner if timeline.kind == GROUP_TIMELINE else 0
        try:
            if key > 0:
                return _Place(key, await self._timelines.head(timeline), key)
            # Together, as above.
            saved, end = await gatherResults(
                [self._sync_keys.saved_key(user, group), self._timelines.head(timeline)], consumeErrors=True
            )
        except Unavailable:
            return None
        except FirstError as error:
            error.subFailure.trap(Unavailable)
            return None
        # A saved key beyond the end (a restored backup) must not hide what comes next.
        return _Place(min(saved, end), end, key)

    async def _answer(
        self, connection: IConnection, words: _Words, timeline: TimelineKey, place: _Place, created_after: int = 0
    ) -> None:
        """The entries after a place, a page at a time as the client takes them, between BEGIN and END. Those created up
        to `created_after` are not for this client."""
        key, end, _held = place
        pushed = connection.pushed_meanwhile()
        connection.enqueue(_unit(words.begin(key)))
        if key >= end:
            connection.enqueue(_unit(words.end(_end_now(place, pushed))))
            return
        last, left = key, SYNC_ENTRIES
        more = True
        while more and left:
            try:
                entries = await self._timelines.read(timeline, last, left, created_after)
            except Unavailable:
                # What was sent counts, and the client is to come back for the rest. Where nothing was sent it is not
                # told to, or it would come back at once, for as long as the database is away.
                connection.enqueue(_unit(words.end(last)))
                if last > key:
                    connection.enqueue(_unit(words.notify(last + 1)))
                return
            if connection.closed:
                return
            if not entries:
                break
            connection.enqueue_many(_synced(entries, timeline, connection))
            self._metrics.sync_entries.inc(by=len(entries))
            last = entries[-1].key
            left -= len(entries)
            more = last < end
            drained = connection.drained()
            if more and drained is not None:
                await drained
                if connection.closed:
                    return
        if more and left:  # what was left is not for this client, or retention took it
            last = end
        connection.enqueue(_unit(words.end(last)))
        if last < end:
            connection.enqueue(_unit(words.notify(last + 1)))

    def sync_key(self, connection: IConnection, _frame: Frame, message: SyncKey) -> Deferred[None] | None:
        if not is_id(message.key):
            self._metrics.ignored.inc("sync_key")
            return None
        return Deferred.fromCoroutine(self._save_key(connection.user, message.key))

    async def _save_key(self, user: UserKey, key: int) -> None:
        try:
            await self._sync_keys.save_key(user, key)
        except Unavailable as error:
            self._not_saved(error)

    def group_sync_key(self, connection: IConnection, _frame: Frame, message: GroupSyncKey) -> Deferred[None] | None:
        if not is_id(message.key):
            self._metrics.ignored.inc("sync_key")
            return None
        group = self._groups.group(connection.appid, message.group)
        return Deferred.fromCoroutine(self._save_group_key(connection, message, group))

    async def _save_group_key(
        self, connection: IConnection, message: GroupSyncKey, found: Group | Deferred[Group | None] | None
    ) -> None:
        try:
            group = await found if isinstance(found, Deferred) else found
            if _joined(group, connection.uid) is None:
                self._metrics.ignored.inc("group")
            else:
                await self._sync_keys.save_key(connection.user, message.key, message.group)
        except Unavailable as error:
            self._not_saved(error)

    def _not_saved(self, reason: Unavailable) -> None:
        # The client loses nothing: it has the key itself, and another device merely gets more than it needs.
        self._log.warn("a sync key was not saved: {reason}", reason=reason)


def _joined(group: Group | None, uid: int) -> int | None:
    """When the user joined this group, in seconds since 1970; None: they have no business with its timeline."""
    if group is None or not group.is_super:
        return None
    member = group.members.get(uid)
    return None if member is None else member.joined


def _end_now(place: _Place, pushed: Collection[int]) -> int:
    """The end for a client that misses nothing: it took what was pushed to it since the end was asked for, and would go
    back to a lower one."""
    end = place.end
    if place.held == end:
        while end + 1 in pushed:
            end += 1
    return end


def _answer_nothing(connection: IConnection, words: _Words, key: int) -> None:
    """The client keeps its key, and asks again later."""
    connection.enqueue_many((_unit(words.begin(key)), _unit(words.end(key))))


def _unit(message: Message) -> Unit:
    return Unit((message.frame(),))


def _synced(entries: Sequence[Entry], timeline: TimelineKey, connection: IConnection) -> list[Unit]:
    """The entries as this device gets them: SELF on those that it sent itself."""
    device, uid = connection.device, connection.uid
    in_group = timeline.kind == GROUP_TIMELINE
    units = []
    for entry in entries:
        flag = entry.flag | Flag.SUPER_GROUP if in_group else entry.flag
        # Users who share a phone share its number; their own timelines tell them apart, that of a group does not.
        if device and entry.device == device and (not in_group or sender_of(entry.body) == uid):
            flag |= Flag.SELF
        units.append(Unit((stored_frame(entry.command, flag, entry.body),)))
    return units
