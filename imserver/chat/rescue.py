"""Pushes that nobody seems to have got.

A phone that lost its network stays "online" until its connection times out, minutes later. So a message that was pushed
to a user who counts as online is watched: where none of the user's connections is heard within a while (an ACK, a SYNC,
a PING, anything), it goes to the push queue after all, once.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from imserver.chat.trace import Trace
from imserver.interfaces import IClientRegistry, IConnection, IPushQueue
from imserver.metrics import Metrics
from imserver.model import NewMessage, UserKey

#: Seconds after which most clients have answered: what they answered need not be remembered any longer.
_SOON: Final = 2.0

#: Bytes of what is watched, at most; each push counts with its message, though many may share one.
MOST_BYTES: Final = 64 * 1024 * 1024
_WATCHED_SIZE: Final = 300

#: When it was pushed, to whom, and the message with its number.
_Watched = tuple[float, UserKey, NewMessage, int]


class Rescue:
    def __init__(
        self,
        registry: IClientRegistry,
        push_queue: IPushQueue,
        metrics: Metrics,
        clock: Callable[[], float],
        seconds: float,
        trace: Trace | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """
        Args:
            clock: that of `IConnection.heard_at`.
            seconds: after which a push counts as lost.
            trace: is told of what was rescued.
            most_bytes: of what is watched at a time; what is beyond is counted, and not watched.
        """
        self._registry = registry
        self._push_queue = push_queue
        self._metrics = metrics
        self._clock = clock
        self._seconds = seconds
        self._trace = trace
        self._most_bytes = most_bytes
        self._bytes = 0
        #: What was pushed since the last sweep.
        self._new: list[_Watched] = []
        #: What was pushed before, and not answered soon; the oldest first.
        self._unanswered: deque[_Watched] = deque()
        #: When users who have left were last heard.
        self._left: dict[UserKey, float] = {}

    def pushed(self, user: UserKey, number: int, message: NewMessage) -> None:
        """A stored message is being pushed to the connections of a user who counts as online."""
        size = _WATCHED_SIZE + len(message.body)
        if self._bytes + size > self._most_bytes:
            self._metrics.unwatched_pushes.inc()
        else:
            self._bytes += size
            self._new.append((self._clock(), user, message, number))

    def lost(self, connection: IConnection) -> None:
        """A connection is gone: what it answered remains answered."""
        user: UserKey = connection.user
        self._left[user] = max(connection.heard_at, self._left.get(user, 0.0))

    def sweep(self) -> None:
        """To be called once a second."""
        now = self._clock()
        new, self._new = self._new, []
        for place, watched in enumerate(new):
            if watched[0] > now - _SOON:
                self._new = new[place:]
                break
            if self._is_answered(watched):
                self._let_go(watched)
            else:
                self._unanswered.append(watched)
        lost: dict[int, tuple[NewMessage, list[UserKey]]] = {}  # by the message's number
        while self._unanswered and self._unanswered[0][0] <= now - self._seconds:
            watched = self._unanswered.popleft()
            self._let_go(watched)
            if not self._is_answered(watched):
                _at, user, message, number = watched
                lost.setdefault(number, (message, []))[1].append(user)
        for number, (message, users) in lost.items():
            if self._trace is not None:
                self._trace.rescued(number, users)
            self._metrics.rescued_pushes.inc(by=len(users))
            self._push_queue.push(message, users)
        for user, heard_at in list(self._left.items()):
            if heard_at <= now - self._seconds - _SOON:
                del self._left[user]

    def _let_go(self, watched: _Watched) -> None:
        self._bytes -= _WATCHED_SIZE + len(watched[2].body)

    def _is_answered(self, watched: _Watched) -> bool:
        at, user, _message, _number = watched
        if self._left.get(user, 0.0) > at:
            return True
        return any(connection.heard_at > at for connection in self._registry.connections_of(user))
