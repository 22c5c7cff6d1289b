"""Friends and blacklists on the SQL database (ecosystem.md, SQL: groups and relations).

Nothing is cached: a back end that shares the tables may change them at any time.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Table, and_, bindparam, delete, insert, select
from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.database import schema
from imserver.database.lanes import ReadLane, WriteLane
from imserver.directory.statements import ROW_SIZE, Keys, Rows, answer, require_app, run_each
from imserver.interfaces import IRelations, WallClock
from imserver.model import Relation, UserKey

#: Friends, or users on a blacklist, that are shown of one user.
_MOST_SHOWN: Final = 10_000


@implementer(IRelations)
class SqlRelations:
    """Those who ask at the same time are answered by one look at the database."""

    def __init__(self, writes: WriteLane, reads: ReadLane, now: WallClock) -> None:
        """
        Args:
            writes, reads: the lanes of one database.
            now: the time of new rows; called on the lane's thread.
        """
        self._reads = reads
        self._now = now
        self._relations = reads.group("relation", _relations)
        self._changes = writes.group("relation", run_each)

    def relation(self, user: UserKey, other: int) -> Deferred[Relation]:
        return self._relations.submit((user, other))

    def set_friends(self, appid: int, uid: int, other: int, on: bool) -> Deferred[None]:
        return self._set(schema.friend, appid, {(uid, other), (other, uid)}, on)

    def set_blocked(self, appid: int, uid: int, other: int, on: bool) -> Deferred[None]:
        return self._set(schema.blacklist, appid, {(uid, other)}, on)

    def _set(self, table: Table, appid: int, pairs: set[tuple[int, int]], on: bool) -> Deferred[None]:
        change = partial(_add, now=self._now) if on else _remove
        done: Deferred[Any] = self._changes.submit(
            partial(change, table=table, appid=appid, pairs=pairs), ROW_SIZE * len(pairs)
        )
        return done.addCallback(answer)

    def friends_of(self, user: UserKey) -> Deferred[Sequence[int]]:
        return self._reads.read("friends", partial(_others, table=schema.friend, user=user))

    def blocked_by(self, user: UserKey) -> Deferred[Sequence[int]]:
        return self._reads.read("blacklist", partial(_others, table=schema.blacklist, user=user))


# On the lanes' threads.

_TABLES = (schema.friend, schema.blacklist)
_KEYS = {table: Keys(table.c.appid, table.c.uid, table.c.friend_uid) for table in _TABLES}
_OTHERS = {
    table: Rows(
        select(table.c.friend_uid)
        .where(table.c.appid == bindparam("of_app"), table.c.uid == bindparam("of_uid"))
        .order_by(table.c.friend_uid)
        .limit(_MOST_SHOWN),
        tuple[int],
    )
    for table in _TABLES
}


def _relations(connection: Connection, asked: Sequence[tuple[UserKey, int]]) -> list[Relation]:
    forth = [(appid, uid, other) for (appid, uid), other in asked]
    back = [(appid, other, uid) for (appid, uid), other in asked]
    friends = _KEYS[schema.friend].found(connection, {*forth, *back})
    blocked = _KEYS[schema.blacklist].found(connection, set(back))
    return [Relation(one in friends, two in friends, two in blocked) for one, two in zip(forth, back, strict=True)]


def _others(connection: Connection, table: Table, user: UserKey) -> list[int]:
    rows = _OTHERS[table].fetch(connection, {"of_app": user.appid, "of_uid": user.uid})
    return sorted(other for (other,) in rows)


def _add(connection: Connection, table: Table, appid: int, pairs: set[tuple[int, int]], now: WallClock) -> None:
    require_app(connection, appid)
    keys: set[tuple[int, ...]] = {(appid, *pair) for pair in pairs}
    new = keys - _KEYS[table].found(connection, keys)
    if new:
        timestamp = int(now())
        rows = [{"appid": appid, "uid": uid, "friend_uid": other, "timestamp": timestamp} for _, uid, other in new]
        connection.execute(insert(table), rows)


def _remove(connection: Connection, table: Table, appid: int, pairs: set[tuple[int, int]]) -> None:
    require_app(connection, appid)
    of_pair = and_(
        table.c.appid == bindparam("of_app"),
        table.c.uid == bindparam("of_uid"),
        table.c.friend_uid == bindparam("of_other"),
    )
    rows = [{"of_app": appid, "of_uid": uid, "of_other": other} for uid, other in pairs]
    connection.execute(delete(table).where(of_pair), rows)
