"""Groups in memory: who is in a group is asked for every message to it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from imserver.interfaces import Unavailable
from imserver.metrics import Metrics
from imserver.model import Group

#: Seconds after which a group is read again, however often it is asked for: by then also a change is known that
#: somebody made in the database without a word.
_KEPT_SECONDS: Final = 600.0
#: Seconds for which a group that does not exist is not looked for again, and how many such ids are remembered: nobody
#: gets the database to work by making up ids.
_UNKNOWN_SECONDS: Final = 5.0
_MOST_UNKNOWN: Final = 10_000
#: Who may wait for groups that are being read; more are refused at once.
_MOST_WAITING: Final = 20_000
#: What a group costs besides its members, in members.
_GROUP_COST: Final = 10


class GroupCache:
    """The groups that were asked for last, and the ids of which none was found.

    What is not here is read, once for all who wait for it. A change of which this cache is told overrules what was
    being read beside it.
    """

    def __init__(
        self,
        read: Callable[[int], Deferred[Group | None]],
        seconds: Callable[[], float],
        metrics: Metrics,
        most_members: int,
    ) -> None:
        """
        Args:
            read: gets a group by its id from where it is kept. What its Deferred fails with, those fail with who wait.
            seconds: a clock that never goes back.
            metrics: gets what is kept and what is read.
            most_members: that are kept in all groups together; each group counts for a few more than it has.
        """
        self._read = read
        self._seconds = seconds
        self._metrics = metrics
        self._most_members = most_members
        #: Each with the time after which it is read again; the one asked for last at the end.
        self._groups: OrderedDict[int, tuple[Group, float]] = OrderedDict()
        self._members = 0
        #: Each with the time after which it is looked for again, which is their order.
        self._unknown: dict[int, float] = {}
        #: Who waits for each group that is being read.
        self._reading: dict[int, list[Deferred[Group | None]]] = {}
        self._waiting = 0
        metrics.cached_groups.read = lambda: {"": len(self._groups)}
        metrics.cached_group_members.read = lambda: {"": self._members - _GROUP_COST * len(self._groups)}

    def get(self, group_id: int) -> Group | Deferred[Group | None] | None:
        """The group, or None where there is none: at once if that is known, else a Deferred of it.

        The Deferred fails as `read` does, and with `Unavailable` where too many wait.
        """
        kept = self._groups.get(group_id)
        if kept is not None:
            group, until = kept
            if self._seconds() < until:
                self._groups.move_to_end(group_id)
                return group
            self._drop(group_id)
        elif self._seconds() < self._unknown.get(group_id, 0.0):
            return None
        return self._wait_for(group_id)

    def put(self, group: Group) -> None:
        """The group is like this now."""
        self.forget(group.group_id)
        self._keep(group)

    def put_unknown(self, group_id: int) -> None:
        """There is no such group any more."""
        self.forget(group_id)
        self._keep_unknown(group_id)

    def forget(self, group_id: int) -> None:
        """Nobody knows what the group is like now: who asks from here on has it read."""
        self._reading.pop(group_id, None)
        self._unknown.pop(group_id, None)
        if group_id in self._groups:
            self._drop(group_id)

    def _wait_for(self, group_id: int) -> Deferred[Group | None]:
        if self._waiting >= _MOST_WAITING:
            return fail(Unavailable("too many wait for groups"))
        done: Deferred[Group | None] = Deferred()
        self._waiting += 1
        waiting = self._reading.get(group_id)
        if waiting is not None:
            waiting.append(done)
            return done
        waiting = self._reading[group_id] = [done]
        self._metrics.group_reads.inc()
        self._read(group_id).addBoth(self._was_read, group_id, waiting)
        return done

    def _was_read(self, result: Group | Failure | None, group_id: int, waiting: list[Deferred[Group | None]]) -> None:
        self._waiting -= len(waiting)
        # Else it was changed meanwhile: what was read may be from before that. Those who wait asked before it, too.
        if self._reading.get(group_id) is waiting:
            del self._reading[group_id]
            if result is None:
                self._keep_unknown(group_id)
            elif isinstance(result, Group):
                self._keep(result)
        for done in waiting:
            if isinstance(result, Failure):
                done.errback(Failure(result.value))
            else:
                done.callback(result)

    def _keep(self, group: Group) -> None:
        cost = _cost(group)
        if cost > self._most_members:  # it would drive out all others, and then itself
            return
        self._groups[group.group_id] = (group, self._seconds() + _KEPT_SECONDS)
        self._members += cost
        while self._members > self._most_members:
            self._drop(next(iter(self._groups)))

    def _drop(self, group_id: int) -> None:
        group, _until = self._groups.pop(group_id)
        self._members -= _cost(group)

    def _keep_unknown(self, group_id: int) -> None:
        self._unknown.pop(group_id, None)  # its place is at the end
        self._unknown[group_id] = self._seconds() + _UNKNOWN_SECONDS
        if len(self._unknown) > _MOST_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]


def _cost(group: Group) -> int:
    return _GROUP_COST + len(group.members)
