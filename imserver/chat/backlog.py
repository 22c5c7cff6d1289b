"""Who has to wait before they send to a group, because many users are being told something already.

A message to a group of thousands is as much work as thousands of others. So while there is a good deal of that under
way, further ones are not taken: their clients are read no further, and get their turn one after the other. Other
messages stand behind no more of it than is written in a moment, and a burst is slowed down rather than refused.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from imserver.interfaces import Unavailable
from imserver.metrics import Metrics

#: Entries under way, above which others wait: 0.1 s of writing, about.
MOST_ENTRIES: Final = 20_000
#: Seconds for which they wait at most. Storage takes as long again, and clients wait 5 s for an ACK.
PATIENCE: Final = 2.0


class Backlog:
    def __init__(self, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        #: That are on their way to disk: one for each user whom a message concerns. (That of a super group is one entry
        #: in truth, but all members are told of it.) Who changes it calls `let_in` when it has fallen.
        self.entries = 0
        #: Those who wait, each with the time after which it is no use: one for each connection at most.
        self.waiting: deque[tuple[float, Deferred[None]]] = deque()
        metrics.group_messages_waiting.read = lambda: {"": len(self.waiting)}

    def room(self) -> Deferred[None] | None:
        """None while another message may be sent to a group; else what fires (with None) when it may, and fails with
        `Unavailable` where that takes too long."""
        if self.entries < MOST_ENTRIES and not self.waiting:
            return None
        room: Deferred[None] = Deferred()
        self.waiting.append((self._monotonic() + PATIENCE, room))
        return room

    def let_in(self) -> None:
        """There may be room now."""
        now = self._monotonic()
        while self.waiting and (self.entries < MOST_ENTRIES or self.waiting[0][0] < now):
            until, room = self.waiting.popleft()
            if until < now:
                room.errback(Unavailable("too much is being sent to groups"))
            else:
                room.callback(None)
