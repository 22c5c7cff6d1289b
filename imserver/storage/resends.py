"""By what messages are recognised when they come again (protocol.md, Resending).

The newest stand in memory and, in the order in which they came, in the table `resend_recent`: adding to its end changes
a page or two, where an ordered table has a page to change for each sender of a transaction. When they have become many
they move, sorted, into `resend`, which is asked for what memory does not know.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from imserver.model import NewMessage, Stored
from imserver.storage import sqlite

#: Resends in memory and in `resend_recent`, at most: about 2 MB. To move them takes some 20 ms.
MOST_RECENT: Final = 8_192


class _Known(NamedTuple):
    message: int
    key: int
    expires: int


class Resends:
    """For the write lane's thread alone. Memory follows what is committed: what one transaction added counts when the
    next finds it."""

    def __init__(self, most_recent: int = MOST_RECENT) -> None:
        self._most_recent = most_recent
        self._recent: dict[bytes, _Known] = {}
        #: The newest message of `resend_recent` that is in memory.
        self._last = 0
        #: What the last transaction added, as it was told; whether it was committed the next transaction sees.
        self._added: list[Any] = []
        #: Where a move has been begun: up to which message. Whether it was committed the next transaction sees.
        self._moving = 0

    def find(self, cursor: sqlite.Cursor, marks: Sequence[bytes], now: int) -> dict[bytes, Stored]:
        """Of these marks those that are known and not over, with what became of their messages."""
        self._catch_up(cursor)
        found: dict[bytes, Stored] = {}
        elsewhere: list[bytes] = []
        recent = self._recent
        for mark in marks:
            known = recent.get(mark)
            if known is None:
                elsewhere.append(mark)
            elif known.expires > now:
                found[mark] = Stored(known.message, (known.key,), resent=True)
        for mark, message, key, expires in sqlite.find_resends(cursor, elsewhere):
            if expires > now:
                found[mark] = Stored(message, (key,), resent=True)
        return found

    def add(self, cursor: sqlite.Cursor, values: list[Any], now: int) -> None:
        """Add resends: message, mark, key, when it is over of each; messages rising."""
        sqlite.add_recent_resends(cursor, values)
        self._added = values
        if values and len(self._recent) + len(values) // 4 > self._most_recent:
            sqlite.move_recent_resends(cursor, now)
            self._moving = values[-4]

    def _catch_up(self, cursor: sqlite.Cursor) -> None:
        first, last = sqlite.recent_resends(cursor)
        if self._moving:
            if first > self._moving or not first:
                self._recent.clear()
            self._moving = 0
        added, self._added = self._added, []
        if last > self._last:
            if not added or added[-4] != last or added[0] <= self._last:
                added = sqlite.read_recent_resends(cursor, self._last)
            for at in range(0, len(added), 4):
                message, mark, key, expires = added[at : at + 4]
                self._recent[mark] = _Known(message, key, expires)
            self._last = last


def mark_of(message: NewMessage) -> bytes:
    """By what a message is recognised; b"" where it is not. What one sender sent stands together when it is sorted."""
    if message.resend is None:
        return b""
    return message.timelines[0].owner.to_bytes(8, "big", signed=True) + message.resend.digest
