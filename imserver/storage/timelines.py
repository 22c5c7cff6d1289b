"""Timelines on the SQL database (protocol.md, Timelines and sync keys)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, select
from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.database import schema
from imserver.database.lanes import ReadLane, WriteLane
from imserver.interfaces import ITimelines, WallClock
from imserver.model import EMPTY_TIMELINE, Entry, NewMessage, Stored, TimelineKey
from imserver.storage import sqlite
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
        self._messages = writes.group("message", self._write)
        self._sweeps = writes.group("resend", self._sweep)
        self._heads = reads.group("head", _heads)
        #: Up to where the sweep has come, and how many resends were added since it last went on.
        self._swept = b""
        self._unswept = 0

    def store(self, message: NewMessage) -> Deferred[Stored]:
        if message.resend is not None:
            self._unswept += 1
        size = _MESSAGE_SIZE + len(message.body) + _TIMELINE_SIZE * len(message.timelines)
        return self._messages.submit(message, size)

    def head(self, timeline: TimelineKey) -> Deferred[int]:
        return self._heads.submit(timeline)

    def read(self, timeline: TimelineKey, after: int, limit: int) -> Deferred[Sequence[Entry]]:
        page = partial(_page, timeline=timeline, after=after, limit=limit, page_bytes=self._page_bytes)
        return self._reads.read("timeline", page)

    def forget_resends(self) -> Deferred[int]:
        """Forget some of the resends that are over; to be called every minute or so.

        It goes through all resends in turn, at each call through twice as many as were added since the last, so that
        those that are over do not become more than those that are not. Fires with how many it forgot. Fails with
        `Unavailable`.
        """
        return Deferred.fromCoroutine(self._forget_resends())

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
        asked = [mark for mark in marks if mark]
        #: What is known of each mark. None: it is the mark of a message that is to be stored.
        known: dict[bytes, Stored | None] = {}
        if asked:
            known.update(self._resends.find(cursor, asked, now))
        fresh = []
        for message, mark in zip(messages, marks, strict=True):
            if mark:
                if mark in known:
                    continue
                known[mark] = None
            fresh.append(message)
        added = iter(_add(cursor, fresh))
        results = []
        resends: list[Any] = []
        for message, mark in zip(messages, marks, strict=True):
            stored = known[mark] if mark else None
            if stored is None:
                stored = next(added)
                if message.resend is not None:
                    key = stored.keys[0]
                    known[mark] = Stored(stored.message, (key,), resent=True)
                    resends += (stored.message, mark, key, now + message.resend.window)
            results.append(stored)
        self._resends.add(cursor, resends, now)
        return results

    def _sweep(self, connection: Connection, positions: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """Look at some resends after each position. Gives where to go on, b"" for the beginning, and how many went."""
        now = int(self._now())
        results = []
        for after in positions:
            last = connection.execute(_SOME_RESENDS, {"after": after}).scalar()
            if last is None:
                results.append((b"", 0))
            else:
                gone = connection.execute(_FORGET_RESENDS, {"after": after, "last": last, "now": now}).rowcount
                results.append((last, gone))
        return results


def _add(cursor: Any, messages: Sequence[NewMessage]) -> list[Stored]:
    """Add messages and their entries, each with the next key of its timeline."""
    counts: dict[tuple[int, int, int], int] = {}
    values: list[Any] = []
    for message in messages:
        # int: the driver takes five times as long for an IntEnum.
        values += (int(message.command), int(message.flag), message.created, message.body)
        for appid, kind, owner in message.timelines:
            timeline = (appid, int(kind), owner)
            counts[timeline] = counts.get(timeline, 0) + 1
    #: The last key of each timeline that was given away: at first none of those that were taken.
    given = {timeline: last - counts[timeline] for timeline, last in sqlite.take_keys(cursor, counts).items()}
    entries: list[int] = []
    stored = []
    for message, number in zip(messages, sqlite.add_messages(cursor, values), strict=True):
        device = message.device
        keys = []
        for appid, kind, owner in message.timelines:
            timeline = (appid, int(kind), owner)
            key = given[timeline] = given[timeline] + 1
            keys.append(key)
            entries += (*timeline, key, number, device)
            device = 0
        stored.append(Stored(number, tuple(keys)))
    sqlite.add_entries(cursor, entries)
    return stored


_some = (
    select(schema.resend.c.digest)
    .where(schema.resend.c.digest > bindparam("after"))
    .order_by(schema.resend.c.digest)
    .limit(_SWEEP_STEP)
    .subquery()
)
_SOME_RESENDS = select(func.max(_some.c.digest))
_FORGET_RESENDS = delete(schema.resend).where(
    schema.resend.c.digest > bindparam("after"),
    schema.resend.c.digest <= bindparam("last"),
    schema.resend.c.expires <= bindparam("now"),
)

# On the read lane's threads.

_HEAD = select(schema.timeline.c.last).where(
    schema.timeline.c.appid == bindparam("appid"),
    schema.timeline.c.kind == bindparam("kind"),
    schema.timeline.c.owner == bindparam("owner"),
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


def _heads(connection: Connection, timelines: Sequence[TimelineKey]) -> list[int]:
    return [connection.execute(_HEAD, _of(timeline)).scalar() or EMPTY_TIMELINE for timeline in timelines]


def _page(connection: Connection, timeline: TimelineKey, after: int, limit: int, page_bytes: int) -> list[Entry]:
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


def _of(timeline: TimelineKey) -> dict[str, int]:
    return {"appid": timeline.appid, "kind": int(timeline.kind), "owner": timeline.owner}
