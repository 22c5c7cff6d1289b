"""What storage says to SQLite on the hot path: on the driver's own cursor, many rows to a statement.

A statement lets go of the GIL once, however many rows it has, and may then wait until the reactor gives it back.
SQLAlchemy's own way of many rows (executemany) lets go at every row.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec

from imserver.model import EMPTY_TIMELINE, TimelineKey

#: Rows in one statement, at most; and those of which there are multiples (below: each number of rows).
_MOST_ROWS: Final = 256
_STEP: Final = 16


_decode_heads = msgspec.json.Decoder(list[tuple[int, int, int, int | None]]).decode


class Cursor(Protocol):
    """A driver's cursor (PEP 249), as far as it is used here."""

    lastrowid: Any

    def execute(self, statement: str, values: Any = ..., /) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class _Rows:
    """A statement for any number of rows, in one piece of a multiple of `_STEP` and one of the rest: so few texts that
    the driver keeps all compiled, so few pieces that the GIL is seldom let go."""

    __slots__ = ("_texts", "_width")

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self._width = row.count("?")
        sizes = (*range(1, _STEP), *range(_STEP, _MOST_ROWS + 1, _STEP))
        self._texts = {size: head + ",".join([row] * size) + tail for size in sizes}

    def execute(self, cursor: Cursor, values: list[Any]) -> Iterator[int]:
        """Execute it for the values of all rows, one after the other in a list.

        Goes on when asked to: gives the number of rows of each statement that was executed.
        """
        width = self._width
        start, end = 0, len(values)
        while start < end:
            size = min(_MOST_ROWS, (end - start) // width)
            if size > _STEP:
                size -= size % _STEP
            following = start + size * width
            cursor.execute(self._texts[size], values[start:following])
            yield size
            start = following


_FIND_RESENDS = _Rows("SELECT digest, message, sync_key, expires FROM resend WHERE digest IN (", "?", ")")
_HEADS = _Rows(
    # In one row: the driver lets go of the GIL for each.
    "SELECT json_group_array(json_array(column1, column2, column3, (SELECT max(sync_key) FROM entry"
    " WHERE appid = column1 AND kind = column2 AND owner = column3))) FROM (VALUES ",
    "(?,?,?)",
    ") AS asked",
)
_ADD_MESSAGES = _Rows(
    "INSERT INTO message (command, flag, created, body, resend, resend_key, resend_expires) VALUES ", "(?,?,?,?,?,?,?)"
)
_ADD_ENTRIES = _Rows(
    "INSERT INTO entry (appid, kind, owner, sync_key, message, device) VALUES ",
    "(?,?,?,?,?,?)",
)
_READ_RECENT_RESENDS = (
    "SELECT resend, id, resend_key, resend_expires FROM message"
    " WHERE id > (SELECT coalesce(max(message), 0) FROM resend_moved) AND resend IS NOT NULL ORDER BY id"
)
_MOVE_RECENT_RESENDS = (
    "INSERT INTO resend (digest, message, sync_key, expires)"
    " SELECT resend, id, resend_key, resend_expires FROM message"
    " WHERE id > (SELECT coalesce(max(message), 0) FROM resend_moved) AND resend_expires > ? ORDER BY resend, id"
    " ON CONFLICT (digest) DO UPDATE SET"
    " message = excluded.message, sync_key = excluded.sync_key, expires = excluded.expires"
)
_CLEAR_MOVED = "DELETE FROM resend_moved"
_SET_MOVED = "INSERT INTO resend_moved (message) VALUES (?)"
_MESSAGE_OF_ENTRY = "SELECT message FROM entry WHERE appid = ? AND kind = ? AND owner = ? AND sync_key = ?"
_SAVE_KEYS = _Rows(
    "INSERT INTO saved_key (appid, uid, group_id, sync_key) VALUES ",
    "(?,?,?,?)",
    " ON CONFLICT (appid, uid, group_id) DO UPDATE SET sync_key = excluded.sync_key"
    " WHERE excluded.sync_key > saved_key.sync_key",
)


def find_resends(cursor: Cursor, digests: list[bytes]) -> list[tuple[bytes, int, int, int]]:
    """Of these digests those that are known, each with its message, its key, and when it is over."""
    found: list[tuple[bytes, int, int, int]] = []
    for _ in _FIND_RESENDS.execute(cursor, digests):
        found += cursor.fetchall()
    return found


def heads(cursor: Cursor, timelines: Iterable[TimelineKey]) -> Iterator[tuple[TimelineKey, int]]:
    """Each of these timelines with the key of its newest entry."""
    asked = [number for timeline in timelines for number in timeline]
    for _ in _HEADS.execute(cursor, asked):
        [(found,)] = cursor.fetchall()
        for appid, kind, owner, key in _decode_heads(found):
            yield TimelineKey(appid, kind, owner), key or EMPTY_TIMELINE


def add_messages(cursor: Cursor, values: list[Any]) -> list[int]:
    """Add messages: command, flag, created, body, resend mark, its key, when that is over, of each. Gives their ids,
    in order."""
    ids: list[int] = []
    for size in _ADD_MESSAGES.execute(cursor, values):
        # Nobody else writes, so that the rows of a statement have ids in a row.
        last = cursor.lastrowid
        ids += range(last - size + 1, last + 1)
    return ids


def add_entries(cursor: Cursor, values: list[int]) -> None:
    """Add entries: appid, kind, owner, key, message, device of each."""
    for _ in _ADD_ENTRIES.execute(cursor, values):
        pass


def message_of_entry(cursor: Cursor, timeline: TimelineKey, key: int) -> int | None:
    """The id of the message that stands there; None: none does."""
    cursor.execute(_MESSAGE_OF_ENTRY, (*timeline, key))
    for (number,) in cursor.fetchall():
        return int(number)
    return None


def read_recent_resends(cursor: Cursor) -> list[tuple[bytes, int, int, int]]:
    """The resends that were not moved, in the order of their messages: mark, message, key, when it is over, of each."""
    cursor.execute(_READ_RECENT_RESENDS)
    return cursor.fetchall()


def move_recent_resends(cursor: Cursor, last: int, now: int) -> None:
    """Copy the resends that were not moved, up to this message, the newest, to the ordered ones, unless they are
    over."""
    cursor.execute(_MOVE_RECENT_RESENDS, (now,))
    cursor.execute(_CLEAR_MOVED)
    cursor.execute(_SET_MOVED, (last,))


def save_keys(cursor: Cursor, values: list[int]) -> None:
    """Save keys that are above those saved: appid, uid, group, key of each."""
    for _ in _SAVE_KEYS.execute(cursor, values):
        pass
