"""Pushes that wait, in the database: there they survive a restart.

Those that leave are the oldest, so that what is left has all ids from the lowest to the highest, and the two say how
many there are. (A database that leaves out numbers makes it look like a few more.)
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select
from twisted.internet.defer import Deferred

from imserver.database.lanes import ReadLane, WriteLane
from imserver.database.schema import push
from imserver.push.payload import PUSHES, OfflinePush

#: What a waiting push costs besides its payload, in bytes, about.
_PUSH_SIZE: Final = 400
#: Bytes of payload that one read brings into memory; at least one push, whatever it has.
_PAGE_BYTES: Final = 256 * 1024


class Change(NamedTuple):
    """What a write did to the table."""

    #: How many it deleted. Of one that adds: those that made room.
    deleted: int
    #: How many are there now.
    waiting: int


class StoredPush(NamedTuple):
    """A push as it waits."""

    id: int
    queue: str
    #: Of the message, in seconds since 1970.
    created: int
    payload: bytes

    def push(self) -> OfflinePush:
        return msgspec.json.decode(self.payload, type=PUSHES[self.queue])


class StoredPushes:
    def __init__(self, writes: WriteLane, reads: ReadLane, most: int) -> None:
        """
        Args:
            writes, reads: the lanes of one database.
            most: pushes that may wait; for more than these the oldest make room.
        """
        self._reads = reads
        self._most = most
        self._adding = writes.group("push", self._add)
        self._deleting = writes.group("push-done", _delete)

    def add(self, pushes: Sequence[OfflinePush], created: int) -> Deferred[Change]:
        """Fires once they are on disk. Fails as `WriteGroup.submit` does.

        Args:
            pushes: at least one.
            created: when their message was, in seconds since 1970.
        """
        rows: list[dict[str, Any]] = [
            {"queue": each.queue, "created": created, "payload": msgspec.json.encode(each)} for each in pushes
        ]
        return self._adding.submit(rows, sum([_PUSH_SIZE + len(row["payload"]) for row in rows]))

    def delete(self, ids: Sequence[int]) -> Deferred[Change]:
        """Delete those of them that are still there. Fails with `Unavailable`."""
        return self._deleting.submit(ids, _PUSH_SIZE)

    def oldest(self, most: int) -> Deferred[tuple[Sequence[StoredPush], int]]:
        """Fires with the oldest, in order: `most` of them or what fills a page; and with how many there are in all.

        Fails with `Unavailable`.
        """
        return self._reads.read("push", partial(_oldest, most=most))

    # On the write lane's thread.

    def _add(self, connection: Connection, items: Sequence[list[dict[str, Any]]]) -> list[Change]:
        connection.execute(_ADD, [row for rows in items for row in rows])
        deleted = 0
        excess = _waiting(connection) - self._most
        if excess > 0:
            first = connection.execute(_LOWEST).scalar_one() + excess
            deleted = connection.execute(_DELETE_BELOW, {"first": first}).rowcount
        waiting = _waiting(connection)
        # Those made room for all items together, and are told of once.
        return [Change(0 if number else deleted, waiting) for number in range(len(items))]


def _delete(connection: Connection, items: Sequence[Sequence[int]]) -> list[Change]:
    return [Change(connection.execute(_DELETE, {"ids": ids}).rowcount, _waiting(connection)) for ids in items]


_ADD = insert(push)
_DELETE = delete(push).where(push.c.id.in_(bindparam("ids", expanding=True)))
_DELETE_BELOW = delete(push).where(push.c.id < bindparam("first"))
_LOWEST = select(func.min(push.c.id))
# Each in a query of its own: SQLite then looks at the ends of the table only.
_ENDS = select(_LOWEST.scalar_subquery(), select(func.max(push.c.id)).scalar_subquery())
_OLDEST = select(push.c.id, push.c.queue, push.c.created, push.c.payload).order_by(push.c.id).limit(bindparam("most"))


def _waiting(connection: Connection) -> int:
    lowest, highest = connection.execute(_ENDS).one()
    return highest - lowest + 1 if lowest is not None else 0


# On the read lane's threads.


def _oldest(connection: Connection, most: int) -> tuple[list[StoredPush], int]:
    found: list[StoredPush] = []
    size = 0
    # Row by row: what does not fit into the page is not even read.
    with connection.execute(_OLDEST, {"most": most}) as rows:
        for row in rows:
            one = StoredPush._make(row)
            size += len(one.payload)
            if size > _PAGE_BYTES and found:
                break
            found.append(one)
    return found, _waiting(connection)
