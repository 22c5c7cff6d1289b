"""What storage says to SQLite on the hot path: on the driver's own cursor, many rows to a statement.

A statement lets go of the GIL once, however many rows it has, and may then wait until the reactor gives it back.
SQLAlchemy's own way of many rows (executemany) lets go at every row.
"""

from collections.abc import Iterator
from typing import Any, Final, Protocol

#: Rows in one statement, at most. It must be a power of two.
_MOST_ROWS: Final = 256


class Cursor(Protocol):
    """A driver's cursor (PEP 249), as far as it is used here."""

    lastrowid: Any

    def execute(self, statement: str, values: Any = ..., /) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class _Rows:
    """A statement for any number of rows, cut into powers of two: so few texts that the driver keeps all compiled."""

    __slots__ = ("_texts", "_width")

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self._width = row.count("?")
        sizes = (1 << n for n in range(_MOST_ROWS.bit_length()))
        self._texts = {size: head + ",".join([row] * size) + tail for size in sizes}

    def execute(self, cursor: Cursor, values: list[Any]) -> Iterator[int]:
        """Execute it for the values of all rows, one after the other in a list.

        Goes on when asked to: gives the number of rows of each statement that was executed.
        """
        width = self._width
        start, end = 0, len(values)
        while start < end:
            size = 1 << min(_MOST_ROWS, (end - start) // width).bit_length() - 1
            following = start + size * width
            cursor.execute(self._texts[size], values[start:following])
            yield size
            start = following


_FIND_RESENDS = _Rows("SELECT digest, message, sync_key, expires FROM resend WHERE digest IN (", "?", ")")
_TAKE_KEYS = _Rows(
    "INSERT INTO timeline (appid, kind, owner, last) VALUES ",
    "(?,?,?,?)",
    # What is inserted stands for a timeline that was empty, at 1; only what is above that is added to an old one.
    " ON CONFLICT (appid, kind, owner) DO UPDATE SET last = last + excluded.last - 1"
    " RETURNING appid, kind, owner, last",
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


def take_keys(cursor: Cursor, counts: list[int]) -> list[tuple[int, int, int, int]]:
    """Take keys of timelines: of each its appid, kind, owner, and where it would stand then if it were empty now. The
    timelines in order, so that two nodes do not wait for each other. Gives appid, kind, owner and the last key that was
    taken for each, in any order."""
    taken: list[tuple[int, int, int, int]] = []
    for _ in _TAKE_KEYS.execute(cursor, counts):
        taken += cursor.fetchall()
    return taken


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


def read_recent_resends(cursor: Cursor, after: int) -> list[tuple[int, bytes, int, int]]:
    """Message, digest, key, when it is over, of the recent resends after a message, in order."""
    cursor.execute(_READ_RECENT_RESENDS, (after,))
    return cursor.fetchall()


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
