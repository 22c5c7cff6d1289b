"""Where the timelines end, as far as their one writer remembers."""

from collections.abc import Iterable
from typing import Final

from imserver.model import TimelineKey
from imserver.storage import sqlite

#: Timelines that are remembered, at most: some 200 bytes each.
_MOST: Final = 100_000


class Heads(dict[TimelineKey, int]):
    """The newest key of timelines, those given away in the transaction under way included. For the write lane's thread
    alone; void where a transaction was undone."""

    def learn(self, cursor: sqlite.Cursor, timelines: Iterable[TimelineKey]) -> None:
        """Know the heads of all these timelines."""
        unknown = {timeline for timeline in timelines if timeline not in self}
        if len(self) + len(unknown) > _MOST:
            known = {timeline: self[timeline] for timeline in timelines if timeline in self}
            self.clear()
            self.update(known)
        self.update(sqlite.heads(cursor, unknown))
