"""Timelines on the SQL database (protocol.md, Timelines and sync keys)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, select
from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.database import schema
from imserver.database.lanes import ReadLane, WriteLane
from imserver.interfaces import ITimelines, WallClock
from imserver.model import EMPTY_TIMELINE, Entry, NewMessage, Stored, TimelineKey
from imserver.storage import sqlite
from imserver.storage.heads import Heads
from imserver.storage.resends import MOST_RECENT, Resends, mark_of

#: What a waiting message costs besides its body, and each of its timelines, in bytes, about.
_MESSAGE_SIZE: Final = 500
_TIMELINE_SIZE: Final = 100
#: Resends that are looked at in one transaction, to forget those that are over: a few milliseconds.
_SWEEP_STEP: Final = 2_000
#: Resends that one call of `forget_resends` looks at, at least.
_SWEEP: Final = 20_000


@implementer(ITimelines)
class Timelines:
    def __init__(
        self,
        writes: WriteLane,
        reads: ReadLane,
        now: WallClock,
        page_bytes: int,
        most_recent_resends: int = MOST_RECENT,
    ) -> None:
        """
        Args:
            writes, reads: the lanes of one database.
            now: by which resends are over; called on the lanes' threads too.
            page_bytes: of bodies, that one `read` gives.
            most_recent_resends: that are kept in memory.
        """
        self._resends = Resends(most_recent_resends)
        self._reads = reads
        self._now = now
        self._page_bytes = page_bytes
        self._heads = Heads()
        self._messages = writes.group("message", self._write, self._undone)
        self._sweeps = writes.group("resend", self._sweep)
        self._head_reads = reads.group("head", _read_heads)
        #: Two sweeps at once would make a filter of which neither has seen all.
        self._sweeping = DeferredLock()
        #: Up to where the sweep has come, and how many resends were added since it last went on.
        self._swept = b""
        self._unswept = 0

    def store(self, message: NewMessage, settled: Callable[[Stored | Failure], None]) -> None:
        if message.resend is not None:
            self._unswept += 1
        size = _MESSAGE_SIZE + len(message.body) + _TIMELINE_SIZE * len(message.timelines)
        self._messages.put(message, size, settled)

    def head(self, timeline: TimelineKey) -> Deferred[int]:
        return self._head_reads.submit(timeline)

    def read(self, timeline: TimelineKey, after: int, limit: int, created_after: int = 0) -> Deferred[Sequence[Entry]]:
        page = partial(
            _page,
            timeline=timeline,
            after=after,
            limit=limit,
            page_bytes=self._page_bytes,
            created_after=created_after,
        )
        return self._reads.read("timeline", page)

    def forget_resends(self) -> Deferred[int]:
        """Forget some of the resends that are over; to be called every minute or so.

        It goes through all resends in turn, at each call through twice as many as were added since the last, so that
        those that are over do not become more than those that are not. Fires with how many it forgot. Fails with
        `Unavailable`.
        """
        return self._sweeping.run(lambda: Deferred.fromCoroutine(self._forget_resends()))

    async def _forget_resends(self) -> int:
        left = max(_SWEEP, 2 * self._unswept)
        self._unswept = 0
        forgotten = 0
        while left > 0:
            left -= _SWEEP_STEP
            self._swept, gone = await self._sweeps.submit(self._swept)
            forgotten += gone
            if not self._swept:  # once around is enough
                break
        return forgotten

    # On the write lane's thread.

    def _write(self, connection: Connection, messages: Sequence[NewMessage]) -> list[Stored]:
        cursor: Any = connection.connection.cursor()
        now = int(self._now())
        marks = [mark_of(message) for message in messages]
        known = self._resends.find(cursor, marks, now)
        heads = self._heads
        results: list[Any] = [None] * len(messages)
        #: What is to be stored: where its result goes, the message, its mark, its keys.
        fresh: list[tuple[int, NewMessage, bytes, list[int]]] = []
        #: What was submitted again while the first waited: both their places.
        again: list[tuple[int, int]] = []
        first: dict[bytes, int] = {}
        values: list[Any] = []
        for at, (message, mark) in enumerate(zip(messages, marks, strict=True)):
            resend = message.resend
            if resend is not None:
                if mark in known:
                    results[at] = _in_place(cursor, known[mark], _own(message))
                    continue
                if mark in first:
                    again.append((at, first[mark]))
                    continue
                first[mark] = at
            keys = []
            for timeline in message.timelines:
                head = heads.get(timeline)
                if head is None:
                    heads.learn(cursor, [timeline for message in messages for timeline in message.timelines])
                    head = heads[timeline]
                heads[timeline] = head = head + 1
                keys.append(head)
            # int: the driver takes five times as long for an IntEnum.
            values += (int(message.command), message.flag, message.created, message.body)
            values += (None, None, None) if resend is None else (mark, keys[message.own], now + resend.window)
            fresh.append((at, message, mark, keys))
        entries: list[int] = []
        added: list[tuple[bytes, int, int, int]] = []
        for (at, message, mark, keys), number in zip(fresh, sqlite.add_messages(cursor, values), strict=True):
            for (appid, kind, owner), key in zip(message.timelines, keys, strict=True):
                entries += (appid, kind, owner, key, number, 0)
            own = message.own
            if message.device:
                entries[6 * (own - len(keys)) + 5] = message.device
            results[at] = Stored(number, tuple(keys))
            if message.resend is not None:
                added.append((mark, number, keys[own], now + message.resend.window))
        sqlite.add_entries(cursor, entries)
        self._resends.add(cursor, added, now)
        for at, before in again:
            key = results[before].keys[messages[before].own]
            in_place = _own(messages[at]) == _own(messages[before])
            results[at] = Stored(results[before].message, (key,) if in_place else (), resent=True)
        return results

    def _undone(self) -> None:
        """What memory has of the database may be wrong: it is read again."""
        self._heads.clear()
        self._resends.forget()

    def _sweep(self, connection: Connection, positions: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """Look at some resends after each position. Gives where to go on, b"" for the beginning, and how many went."""
        now = int(self._now())
        results = []
        for after in positions:
            if not after:
                self._resends.sweep_begins()
            marks = connection.execute(_SOME_RESENDS, {"after": after}).scalars().all()
            self._resends.swept(marks)
            if marks:
                gone = connection.execute(_FORGET_RESENDS, {"after": after, "last": marks[-1], "now": now}).rowcount
                results.append((marks[-1], gone))
            else:
                self._resends.sweep_ended()
                results.append((b"", 0))
        return results


def _own(message: NewMessage) -> TimelineKey:
    """The timeline whose key the ACK carries."""
    return message.timelines[message.own]


def _in_place(cursor: sqlite.Cursor, stored: Stored, timeline: TimelineKey) -> Stored:
    """What became of the first of a resend, with its key if that stands in this timeline."""
    message = sqlite.message_of_entry(cursor, timeline, stored.keys[0])
    return stored if message == stored.message else stored._replace(keys=())


_SOME_RESENDS = (
    select(schema.resend.c.digest)
    .where(schema.resend.c.digest > bindparam("after"))
    .order_by(schema.resend.c.digest)
    .limit(_SWEEP_STEP)
)
_FORGET_RESENDS = delete(schema.resend).where(
    schema.resend.c.digest > bindparam("after"),
    schema.resend.c.digest <= bindparam("last"),
    schema.resend.c.expires <= bindparam("now"),
)

# On the read lane's threads.

_HEAD = select(func.max(schema.entry.c.sync_key)).where(
    schema.entry.c.appid == bindparam("appid"),
    schema.entry.c.kind == bindparam("kind"),
    schema.entry.c.owner == bindparam("owner"),
)
_CREATED = (
    select(schema.message.c.created)
    .join_from(schema.entry, schema.message, schema.message.c.id == schema.entry.c.message)
    .where(
        schema.entry.c.appid == bindparam("appid"),
        schema.entry.c.kind == bindparam("kind"),
        schema.entry.c.owner == bindparam("owner"),
        schema.entry.c.sync_key == bindparam("key"),
    )
)
_PAGE = (
    select(
        schema.entry.c.sync_key,
        schema.message.c.command,
        schema.message.c.flag,
        schema.message.c.body,
        schema.entry.c.device,
    )
    .join_from(schema.entry, schema.message, schema.message.c.id == schema.entry.c.message)
    .where(
        schema.entry.c.appid == bindparam("appid"),
        schema.entry.c.kind == bindparam("kind"),
        schema.entry.c.owner == bindparam("owner"),
        schema.entry.c.sync_key > bindparam("after"),
    )
    .order_by(schema.entry.c.sync_key)
    .limit(bindparam("limit"))
)


def _read_heads(connection: Connection, timelines: Sequence[TimelineKey]) -> list[int]:
    return [connection.execute(_HEAD, _of(timeline)).scalar() or EMPTY_TIMELINE for timeline in timelines]


def _page(
    connection: Connection, timeline: TimelineKey, after: int, limit: int, page_bytes: int, created_after: int = 0
) -> list[Entry]:
    if created_after:
        after = _last_created_until(connection, timeline, after, created_after)
    entries: list[Entry] = []
    size = 0
    # Row by row: what does not fit into the page is not even read.
    with connection.execute(_PAGE, {**_of(timeline), "after": after, "limit": limit}) as rows:
        for row in rows:
            found = Entry._make(row)
            size += len(found.body)
            if size > page_bytes and entries:
                break
            entries.append(found)
    return entries


def _last_created_until(connection: Connection, timeline: TimelineKey, after: int, seconds: int) -> int:
    """The key of the last entry above `after` that was created until then; `after` where there is none. Keys are dense,
    so that it is found in a few steps, however many there are; those that retention took were the oldest."""
    newer = 1 + (connection.execute(_HEAD, _of(timeline)).scalar() or EMPTY_TIMELINE)
    while after + 1 < newer:
        between = (after + newer) // 2
        created = connection.execute(_CREATED, {**_of(timeline), "key": between}).scalar()
        if created is None or created <= seconds:
            after = between
        else:
            newer = between
    return after


def _of(timeline: TimelineKey) -> dict[str, int]:
    return {"appid": timeline.appid, "kind": timeline.kind, "owner": timeline.owner}
