"""The operator's calls about friends and blacklists."""

from collections.abc import Sequence

from twisted.web.iweb import IRequest

from imserver.http.calls import Id, Refused, Reply, Route, body, json
from imserver.http.operator import Body, user_in_path
from imserver.interfaces import IAccounts, IRelations


class _Other(Body, frozen=True):
    """Another user of the same app, and whether the relation is to be there."""

    uid: Id
    on: bool


class OperatorRelations:
    def __init__(self, relations: IRelations, accounts: IAccounts) -> None:
        self._relations = relations
        self._accounts = accounts

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/admin/users/<appid>/<uid>/friends", self._show_friends),
            Route("POST", "/admin/users/<appid>/<uid>/friends", self._set_friend),
            Route("GET", "/admin/users/<appid>/<uid>/blocked", self._show_blocked),
            Route("POST", "/admin/users/<appid>/<uid>/blocked", self._set_blocked),
        )

    async def _show_friends(self, request: IRequest, appid: str, uid: str) -> Reply:
        user = user_in_path(appid, uid)
        await self._accounts.settings(user)  # 404 where there is no such app
        return json({"friends": await self._relations.friends_of(user)})

    async def _set_friend(self, request: IRequest, appid: str, uid: str) -> Reply:
        user, asked = user_in_path(appid, uid), body(request, _Other)
        if asked.uid == user.uid:
            raise Refused(400, "nobody is their own friend: name two users")
        await self._relations.set_friends(*user, asked.uid, asked.on)
        return json({"appid": user.appid, "uid": user.uid, "friend": asked.uid, "on": asked.on})

    async def _show_blocked(self, request: IRequest, appid: str, uid: str) -> Reply:
        user = user_in_path(appid, uid)
        await self._accounts.settings(user)  # 404 where there is no such app
        return json({"blocked": await self._relations.blocked_by(user)})

    async def _set_blocked(self, request: IRequest, appid: str, uid: str) -> Reply:
        user, asked = user_in_path(appid, uid), body(request, _Other)
        if asked.uid == user.uid:
            raise Refused(400, "nobody blocks themselves: name two users")
        await self._relations.set_blocked(*user, asked.uid, asked.on)
        return json({"appid": user.appid, "uid": user.uid, "blocked": asked.uid, "on": asked.on})
