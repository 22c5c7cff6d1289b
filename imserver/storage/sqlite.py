"""What storage says to SQLite on the hot path: on the driver's own cursor, many rows to a statement.

A statement lets go of the GIL once, however many rows it has, and may then wait until the reactor gives it back.
SQLAlchemy's own way of many rows (executemany) lets go at every row.
"""

from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from imserver.model import EMPTY_TIMELINE

#: Rows in one statement, at most; and those of which there are multiples (below: each number of rows).
_MOST_ROWS: Final = 256
_STEP: Final = 16


_decode_heads = msgspec.json.Decoder(list[tuple[int, int, int, int]]).decode


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
_TAKE_KEYS = _Rows(
    "INSERT INTO timeline (appid, kind, owner, last) VALUES ",
    "(?,?,?,?)",
    # What is inserted stands for a timeline that was empty, at 1; only what is above that is added to an old one.
    " ON CONFLICT (appid, kind, owner) DO UPDATE SET last = last + excluded.last - 1",
)
_HEADS = _Rows(
    # In one row: the driver lets go of the GIL for each.
    "SELECT json_group_array(json_array(appid, kind, owner, last)) FROM (VALUES ",
    "(?,?,?)",
    ") AS asked CROSS JOIN timeline ON appid = asked.column1 AND kind = asked.column2 AND owner = asked.column3",
)
_ADD_MESSAGES = _Rows("INSERT INTO message (command, flag, created, body) VALUES ", "(?,?,?,?)")
_ADD_ENTRIES = _Rows(
    "INSERT INTO entry (appid, kind, owner, sync_key, message, device) VALUES ",
    "(?,?,?,?,?,?)",
)
_ADD_RECENT_RESENDS = _Rows("INSERT INTO resend_recent (message, digest, sync_key, expires) VALUES ", "(?,?,?,?)")
# In two: for both at once SQLite looks at every row.
_RECENT_RESENDS = (
    "SELECT coalesce((SELECT min(message) FROM resend_recent), 0),"
    " coalesce((SELECT max(message) FROM resend_recent), 0)"
)
_READ_RECENT_RESENDS = "SELECT message, digest, sync_key, expires FROM resend_recent WHERE message > ? ORDER BY message"
_MOVE_RECENT_RESENDS = (
    "INSERT INTO resend (digest, message, sync_key, expires)"
    " SELECT digest, message, sync_key, expires FROM resend_recent WHERE expires > ? ORDER BY digest, message"
    " ON CONFLICT (digest) DO UPDATE SET"
    " message = excluded.message, sync_key = excluded.sync_key, expires = excluded.expires"
)
_CLEAR_RECENT_RESENDS = "DELETE FROM resend_recent"
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


def take_keys(cursor: Cursor, counts: dict[tuple[int, int, int], int]) -> dict[tuple[int, int, int], int]:
    """Take so many keys of each timeline (appid, kind, owner). Gives the last that was taken of each. The timelines
    come in order, so that two nodes do not wait for each other."""
    taken: list[int] = []
    asked: list[int] = []
    for (appid, kind, owner), count in sorted(counts.items()):
        taken += (appid, kind, owner, count + EMPTY_TIMELINE)
        asked += (appid, kind, owner)
    for _ in _TAKE_KEYS.execute(cursor, taken):
        pass
    last: dict[tuple[int, int, int], int] = {}
    for _ in _HEADS.execute(cursor, asked):
        [(heads,)] = cursor.fetchall()
        for appid, kind, owner, key in _decode_heads(heads):
            last[appid, kind, owner] = key
    return last


def add_messages(cursor: Cursor, values: list[Any]) -> list[int]:
    """Add messages: command, flag, created, body of each. Gives their ids, in order."""
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


def recent_resends(cursor: Cursor) -> tuple[int, int]:
    """The oldest and the newest message of the recent resends; 0 and 0 where there are none."""
    cursor.execute(_RECENT_RESENDS)
    [(first, last)] = cursor.fetchall()
    return first, last


def read_recent_resends(cursor: Cursor, after: int) -> list[Any]:
    """Of the recent resends after a message, in order: message, digest, key, when it is over, of each."""
    cursor.execute(_READ_RECENT_RESENDS, (after,))
    return [value for row in cursor.fetchall() for value in row]


def add_recent_resends(cursor: Cursor, values: list[Any]) -> None:
    """Add recent resends: message, digest, key, when it is over, of each."""
    for _ in _ADD_RECENT_RESENDS.execute(cursor, values):
        pass


def move_recent_resends(cursor: Cursor, now: int) -> None:
    """Move the recent resends that are not over to the ordered ones."""
    cursor.execute(_MOVE_RECENT_RESENDS, (now,))
    cursor.execute(_CLEAR_RECENT_RESENDS)


def save_keys(cursor: Cursor, values: list[int]) -> None:
    """Save keys that are above those saved: appid, uid, group, key of each."""
    for _ in _SAVE_KEYS.execute(cursor, values):
        pass
