"""Groups on the SQL database (ecosystem.md, SQL: groups and relations).

A back end may share the tables: what is read is named, columns that it leaves empty are taken as they default, and rows
stay when a group is disbanded or a member leaves.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, select, update
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.database import schema
from imserver.database.lanes import ReadLane, WriteLane
from imserver.directory.group_cache import GroupCache
from imserver.directory.statements import ROW_SIZE, Keys, NewRows, Rows, answer, chunks, require_app, run_each
from imserver.interfaces import AlreadyExists, IGroups, NotFound, WallClock
from imserver.metrics import Metrics
from imserver.model import MOST_AHEAD, SAFE_INTEGER, Group, Member

#: About what a uid costs in a waiting write, in bytes.
_UID_SIZE: Final = 64


@implementer(IGroups)
class SqlGroups:
    """Each change gives the whole group as its transaction left it, which is what the cache holds from then on."""

    def __init__(
        self,
        writes: WriteLane,
        reads: ReadLane,
        now: WallClock,
        seconds: Callable[[], float],
        metrics: Metrics,
        most_members: int,
    ) -> None:
        """
        Args:
            writes, reads: the lanes of one database.
            now: by which members join; called on the lanes' threads too.
            seconds: a clock that never goes back.
            metrics: gets what is cached.
            most_members: that are cached (`GroupCache`).
        """
        self._reads = reads
        self._now = now
        self._changes = writes.group("group", _change_groups)
        self._cache = GroupCache(self._read, seconds, metrics, most_members)

    def group(self, appid: int, group_id: int) -> Group | Deferred[Group | None] | None:
        if not 0 < group_id < SAFE_INTEGER:
            return None
        found = self._cache.get(group_id)
        if isinstance(found, Deferred):
            return found.addCallback(_of_app, appid)
        return _of_app(found, appid)

    def _read(self, group_id: int) -> Deferred[Group | None]:
        return self._reads.read("group", partial(_read_group, group_id=group_id))

    def create(
        self, appid: int, master: int, name: str, members: Collection[int], is_super: bool, group_id: int | None
    ) -> Deferred[Group]:
        create = partial(
            _create,
            appid=appid,
            master=master,
            name=name,
            uids={master, *members},
            is_super=is_super,
            group_id=group_id,
            now=self._now,
        )
        return self._submit(create, len(members)).addCallback(self._changed)

    def rename(self, appid: int, group_id: int, name: str) -> Deferred[Group]:
        return self._change(appid, group_id, partial(_set_columns, columns={"name": name}))

    def disband(self, appid: int, group_id: int) -> Deferred[Group]:
        return self._change(appid, group_id, partial(_set_columns, columns={"deleted": 1})).addCallback(self._disbanded)

    def upgrade(self, appid: int, group_id: int) -> Deferred[Group]:
        return self._change(appid, group_id, partial(_set_columns, columns={"super": 1}))

    def add_members(self, appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        return self._change(appid, group_id, partial(_add_members, uids=set(uids), now=self._now), len(uids))

    def remove_members(self, appid: int, group_id: int, uids: Collection[int]) -> Deferred[Group]:
        return self._change(appid, group_id, partial(_remove_members, uids=set(uids)), len(uids))

    def change_member(
        self, appid: int, group_id: int, uid: int, nickname: str | None = None, muted: bool | None = None
    ) -> Deferred[Group]:
        columns: dict[str, object] = {}
        if nickname is not None:
            columns["nickname"] = nickname
        if muted is not None:
            columns["mute"] = int(muted)
        return self._change(appid, group_id, partial(_change_member, uid=uid, columns=columns))

    def _change(self, appid: int, group_id: int, change: Callable[..., None], uids: int = 0) -> Deferred[Group]:
        return self._submit(partial(_change_group, appid=appid, group_id=group_id, change=change), uids).addCallbacks(
            self._changed, self._not_changed, errbackArgs=(group_id,)
        )

    def _submit(self, change: Callable[[Connection], int], uids: int) -> Deferred[Group]:
        return self._changes.submit(change, ROW_SIZE + _UID_SIZE * uids).addCallback(answer)

    def _changed(self, group: Group) -> Group:
        self._cache.put(group)
        return group

    def _disbanded(self, group: Group) -> Group:
        self._cache.put_unknown(group.group_id)
        return group

    def _not_changed(self, failure: Failure, group_id: int) -> Failure:
        # Also where it was refused: then the cache was wrong, or the caller.
        self._cache.forget(group_id)
        return failure


def _of_app(group: Group | None, appid: int) -> Group | None:
    return group if group is not None and group.appid == appid else None


# What follows runs on the lanes' threads, the making of groups too: of 10,000 members it takes 10 ms.

_NOT_DELETED = func.coalesce(schema.group.c.deleted, 0) == 0
_MEMBER_NOT_DELETED = func.coalesce(schema.group_member.c.deleted, 0) == 0

_GROUP = select(
    schema.group.c.id,
    schema.group.c.appid,
    schema.group.c.master,
    schema.group.c.super,
    schema.group.c.name,
    schema.group.c.notice,
    schema.group.c.deleted,
).where(schema.group.c.id == bindparam("of_group"))
_MEMBERS = Rows(
    select(
        schema.group_member.c.uid,
        schema.group_member.c.timestamp,
        schema.group_member.c.mute,
        schema.group_member.c.nickname,
    ).where(schema.group_member.c.group_id == bindparam("of_group"), _MEMBER_NOT_DELETED),
    tuple[int, int | None, int | None, str | None],
)


def _read_group(connection: Connection, group_id: int) -> Group | None:
    row = connection.execute(_GROUP, {"of_group": group_id}).first()
    return None if row is None or row.deleted else _with_members(connection, row)


def _with_members(connection: Connection, row: Row[*tuple[Any, ...]]) -> Group:
    members = {}
    #: Most of a group are alike: they joined together, and have no nickname.
    kinds: dict[tuple[object, ...], Member] = {}
    for uid, joined, muted, nickname in _MEMBERS.fetch(connection, {"of_group": row.id}):
        kind = joined, muted, nickname
        member = kinds.get(kind)
        if member is None:
            member = kinds[kind] = Member(joined or 0, bool(muted), nickname or "")
        members[uid] = member
    return Group(row.appid, row.id, row.master or 0, row.name or "", row.notice or "", bool(row.super), members)


def _change_groups(connection: Connection, changes: Sequence[Callable[[Connection], int]]) -> list[Any]:
    """Carry out changes, each of which gives the id of its group. Gives the groups, or refusals."""
    outcomes = run_each(connection, changes)
    # Each group once, however many changes it had, and as they left it: also where the last of them disbanded it.
    changed = {
        group_id: _with_members(connection, connection.execute(_GROUP, {"of_group": group_id}).one())
        for group_id in {outcome for outcome in outcomes if isinstance(outcome, int)}
    }
    return [changed.get(outcome, outcome) for outcome in outcomes]


_TAKEN = select(schema.group.c.id).where(schema.group.c.id == bindparam("of_group"))
_OF_APP = _TAKEN.where(schema.group.c.appid == bindparam("of_app"), _NOT_DELETED)
_CHANGE = update(schema.group).where(schema.group.c.id == bindparam("of_group"))


def _change_group(connection: Connection, appid: int, group_id: int, change: Callable[[Connection, int], None]) -> int:
    if connection.execute(_OF_APP, {"of_group": group_id, "of_app": appid}).first() is None:
        raise NotFound(f"app {appid} has no group {group_id}")
    change(connection, group_id)
    return group_id


def _set_columns(connection: Connection, group_id: int, columns: dict[str, object]) -> None:
    connection.execute(_CHANGE, {"of_group": group_id, **columns})


def _create(
    connection: Connection,
    appid: int,
    master: int,
    name: str,
    uids: Collection[int],
    is_super: bool,
    group_id: int | None,
    now: WallClock,
) -> int:
    require_app(connection, appid)
    row = {"appid": appid, "master": master, "super": int(is_super), "name": name}
    if group_id is not None:
        if connection.execute(_TAKEN, {"of_group": group_id}).first() is not None:
            raise AlreadyExists(f"there is a group {group_id} already")
        row["id"] = group_id
    inserted = connection.execute(insert(schema.group), row)
    number: int = inserted.inserted_primary_key[0]  # type: ignore[index]  # one row was inserted, it has a key
    if number >= SAFE_INTEGER:
        # Somebody has asked for the last of the ids; that shall not be the end for everybody else.
        free = 1 + secrets.randbelow(SAFE_INTEGER - 1)
        connection.execute(_CHANGE, {"of_group": number, "id": free})
        number = free
    _NEW_MEMBERS.add(connection, {"group_id": number, "timestamp": int(now())}, uids)
    return number


_NEW_MEMBERS = NewRows(schema.group_member, "uid", "group_id", "timestamp")
_KNOWN_MEMBERS = Keys(schema.group_member.c.group_id, schema.group_member.c.uid)
_THESE_MEMBERS = and_(
    schema.group_member.c.group_id == bindparam("of_group"),
    schema.group_member.c.uid.in_(bindparam("values", expanding=True)),
)
_JOIN_AGAIN = (
    update(schema.group_member)
    .where(_THESE_MEMBERS, ~_MEMBER_NOT_DELETED)
    .values(deleted=0, timestamp=bindparam("joined"))
)
_LEAVE = update(schema.group_member).where(_THESE_MEMBERS).values(deleted=1)


_LAST_JOINED = select(func.max(schema.group_member.c.timestamp)).where(
    schema.group_member.c.group_id == bindparam("of_group")
)


def _joining_time(connection: Connection, group_id: int, now: int) -> int:
    """Of who joins now: later than of all who did before, also of those who have left."""
    last = connection.execute(_LAST_JOINED, {"of_group": group_id}).scalar() or 0
    return min(last + 1, now + MOST_AHEAD) if now <= last <= now + MOST_AHEAD else now


def _add_members(connection: Connection, group_id: int, uids: Collection[int], now: WallClock) -> None:
    joined = _joining_time(connection, group_id, int(now()))
    known = _KNOWN_MEMBERS.found(connection, [(group_id, uid) for uid in uids])
    for values in chunks(uid for _, uid in known):
        connection.execute(_JOIN_AGAIN, {"of_group": group_id, "values": values, "joined": joined})
    new = [uid for uid in uids if (group_id, uid) not in known]
    _NEW_MEMBERS.add(connection, {"group_id": group_id, "timestamp": joined}, new)


def _remove_members(connection: Connection, group_id: int, uids: Collection[int]) -> None:
    for values in chunks(uids):
        connection.execute(_LEAVE, {"of_group": group_id, "values": values})


_MEMBER = and_(
    schema.group_member.c.group_id == bindparam("of_group"), schema.group_member.c.uid == bindparam("of_uid")
)
_IS_MEMBER = select(schema.group_member.c.uid).where(_MEMBER, _MEMBER_NOT_DELETED)
_CHANGE_MEMBER = update(schema.group_member).where(_MEMBER)


def _change_member(connection: Connection, group_id: int, uid: int, columns: dict[str, object]) -> None:
    of_member = {"of_group": group_id, "of_uid": uid}
    if connection.execute(_IS_MEMBER, of_member).first() is None:
        raise NotFound(f"{uid} is no member of group {group_id}")
    if columns:
        connection.execute(_CHANGE_MEMBER, {**of_member, **columns})
