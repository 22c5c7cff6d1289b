"""The operator's calls about groups. Changes are told to the members, as those that back ends make."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import IRequest

from imserver.http.calls import MOST_IDS, Id, Name, Refused, Reply, Route, body, id_in_path, json
from imserver.http.operator import Body
from imserver.interfaces import IGroupChanges, IGroups, ITimelines, NotFound
from imserver.model import Group, NewMember, group_timeline

#: The first and the last uid of each range.
_Ranges = Annotated[list[tuple[Id, Id]], msgspec.Meta(max_length=MOST_IDS)]


class _NewGroup(Body, frozen=True):
    appid: Id
    master: Id
    name: Name
    members: _Ranges
    super: bool = False
    group_id: Id | None = None


class _Members(Body, frozen=True):
    members: Annotated[_Ranges, msgspec.Meta(min_length=1)]


class _Mute(Body, frozen=True):
    uid: Id
    on: bool


class _NewName(Body, frozen=True):
    name: Name


class OperatorGroups:
    _log = Logger()

    def __init__(self, groups: IGroups, changes: IGroupChanges, timelines: ITimelines) -> None:
        self._groups = groups
        self._changes = changes
        self._timelines = timelines

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/admin/groups", self._create),
            Route("GET", "/admin/groups/<appid>/<gid>", self._show),
            Route("POST", "/admin/groups/<appid>/<gid>/add", self._add),
            Route("POST", "/admin/groups/<appid>/<gid>/remove", self._remove),
            Route("POST", "/admin/groups/<appid>/<gid>/mute", self._mute),
            Route("POST", "/admin/groups/<appid>/<gid>/rename", self._rename),
            Route("POST", "/admin/groups/<appid>/<gid>/upgrade", self._upgrade),
            Route("POST", "/admin/groups/<appid>/<gid>/disband", self._disband),
        )

    async def _create(self, request: IRequest) -> Reply:
        asked = body(request, _NewGroup)
        members = [NewMember(uid) for uid in _uids(asked.members)]
        group = await self._changes.create(asked.appid, asked.master, asked.name, members, asked.super, asked.group_id)
        self._log.info("group {group_id} of app {appid} was made", group_id=group.group_id, appid=group.appid)
        return _answer(group)

    async def _show(self, request: IRequest, appid: str, gid: str) -> Reply:
        app, number = _group(appid, gid)
        found: Group | Deferred[Group | None] | None = self._groups.group(app, number)
        group = await found if isinstance(found, Deferred) else found
        if group is None:
            raise NotFound(f"app {app} has no group {number}")
        shown = _described(group)
        # Of a normal group each member has a timeline of their own.
        shown["head"] = await self._timelines.head(group_timeline(app, number)) if group.is_super else None
        shown["members"] = [{"uid": uid, **member._asdict()} for uid, member in group.members.items()]
        return json(shown)

    async def _add(self, request: IRequest, appid: str, gid: str) -> Reply:
        members = [NewMember(uid) for uid in _uids(body(request, _Members).members)]
        return _answer(await self._changes.add(*_group(appid, gid), members, None))

    async def _remove(self, request: IRequest, appid: str, gid: str) -> Reply:
        uids = _uids(body(request, _Members).members)
        return _answer(await self._changes.remove(*_group(appid, gid), uids))

    async def _mute(self, request: IRequest, appid: str, gid: str) -> Reply:
        asked = body(request, _Mute)
        return _answer(await self._changes.set_mute(*_group(appid, gid), asked.uid, asked.on))

    async def _rename(self, request: IRequest, appid: str, gid: str) -> Reply:
        return _answer(await self._changes.rename(*_group(appid, gid), body(request, _NewName).name))

    async def _upgrade(self, request: IRequest, appid: str, gid: str) -> Reply:
        return _answer(await self._changes.upgrade(*_group(appid, gid)))

    async def _disband(self, request: IRequest, appid: str, gid: str) -> Reply:
        return _answer(await self._changes.disband(*_group(appid, gid)))


def _group(appid: str, gid: str) -> tuple[int, int]:
    return id_in_path("appid", appid), id_in_path("gid", gid)


def _uids(ranges: Sequence[tuple[int, int]]) -> Sequence[int]:
    """All uids of the ranges, each once. Raises `Refused`."""
    count = 0
    for first, last in ranges:
        if last < first:
            raise Refused(400, f"a range of members goes up, and {first} to {last} does not")
        count += last - first + 1
    if count > MOST_IDS:  # seen before any is counted out: a range may be endless
        raise Refused(400, f"{count} members in one call are too many: at most {MOST_IDS}")
    return list(dict.fromkeys(uid for first, last in ranges for uid in range(first, last + 1)))


def _answer(group: Group) -> Reply:
    return json(_described(group))


def _described(group: Group) -> dict[str, Any]:
    return {
        "appid": group.appid,
        "group_id": group.group_id,
        "name": group.name,
        "notice": group.notice,
        "master": group.master,
        "super": group.is_super,
        "size": len(group.members),
    }
