"""By what messages are recognised when they come again (protocol.md, Resending).

The newest stand with their messages in the table `message`, and in memory. When these have become many they are
copied, sorted, into the table `resend`, which is asked for what memory does not know: adding each message there at once
would change a page for each sender of a transaction.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from imserver.model import NewMessage, Stored
from imserver.storage import sqlite

#: Resends in memory, at most. To move them takes a millisecond or two, for which other messages wait.
MOST_RECENT: Final = 1_024
#: Bits of a filter: 1 MiB. Of a million resends one look-up in nine is for nothing.
_FILTER_BITS: Final = 23
_FILTER_MASK: Final = (1 << _FILTER_BITS) - 1
#: Of the last bytes of a mark: they are those of a cryptographic digest.
_number_of = int.from_bytes


#: What is known of a mark: the mark, its message, the key, when it is over.
_Known = tuple[bytes, int, int, int]


class Filter:
    """A Bloom filter with one hash: says of most marks that are not in the table that they are not."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_FILTER_BITS - 3))

    def add(self, marks: Iterable[bytes]) -> None:
        bits = self._bits
        for mark in marks:
            number = _number_of(mark[-3:]) & _FILTER_MASK
            bits[number >> 3] |= 1 << (number & 7)

    def may_have(self, marks: Iterable[bytes]) -> list[bytes]:
        """Of these marks those that are perhaps in the table."""
        bits = self._bits
        return [
            mark for mark in marks if bits[(number := _number_of(mark[-3:]) & _FILTER_MASK) >> 3] >> (number & 7) & 1
        ]


class Resends:
    """For the write lane's thread alone. Where a transaction was undone, `forget` all and read it again."""

    def __init__(self, most_recent: int = MOST_RECENT) -> None:
        self._most_recent = most_recent
        self._recent: dict[bytes, _Known] = {}
        #: Does `_recent` have all that it should?
        self._read = False
        #: What is in the table; None: not known.
        self._filter: Filter | None = None
        #: What will be in the table, as far as the sweep has come; None: no sweep has begun.
        self._next_filter: Filter | None = None

    def find(self, cursor: sqlite.Cursor, marks: Sequence[bytes], now: int) -> dict[bytes, Stored]:
        """Of these marks those that are known and not over, with what became of their messages. (b"" is none.)"""
        recent = self._recent
        if not self._read:
            for row in sqlite.read_recent_resends(cursor):
                recent[row[0]] = row
            self._read = True
        found: dict[bytes, Stored] = {}
        elsewhere: list[bytes] = []
        for mark in marks:
            known = recent.get(mark)
            if known is not None:
                if known[3] > now:
                    found[mark] = Stored(known[1], (known[2],), resent=True)
            elif mark:
                elsewhere.append(mark)
        if self._filter is not None:
            elsewhere = self._filter.may_have(elsewhere)
        if elsewhere:
            for mark, message, key, expires in sqlite.find_resends(cursor, elsewhere):
                if expires > now:
                    found[mark] = Stored(message, (key,), resent=True)
        return found

    def add(self, cursor: sqlite.Cursor, added: Sequence[_Known], now: int) -> None:
        """These stand in the database now, messages rising. After `find`."""
        recent = self._recent
        for known in added:
            recent[known[0]] = known
        # (None may be added, and there are too many: where a server that kept more left them.)
        if added and len(recent) > self._most_recent:
            sqlite.move_recent_resends(cursor, added[-1][1], now)
            for marks in (self._filter, self._next_filter):
                if marks is not None:
                    marks.add(recent)
            recent.clear()

    def forget(self) -> None:
        """Of what memory holds nothing need be true any more. (The filters may have too much; that costs little.)"""
        self._recent.clear()
        self._read = False

    def sweep_begins(self) -> None:
        """All marks of the table are about to be told, a step at a time."""
        self._next_filter = Filter()

    def swept(self, marks: Iterable[bytes]) -> None:
        """These stand in the table, or did a moment ago."""
        if self._next_filter is not None:
            self._next_filter.add(marks)

    def sweep_ended(self) -> None:
        if self._next_filter is not None:
            self._filter, self._next_filter = self._next_filter, None


def mark_of(message: NewMessage) -> bytes:
    """By what a message is recognised; b"" where it is not. What one sender sent stands together when it is sorted."""
    if message.resend is None:
        return b""
    uid = 0 if message.sender is None else message.sender.uid
    return uid.to_bytes(8, "big", signed=True) + message.resend.digest
