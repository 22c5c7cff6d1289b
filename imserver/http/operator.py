"""The operator's calls, which imctl makes: apps, tokens, users, what goes on. (More of them: the modules beside this.)

Whoever has the operator's key may do all of it: the key stands in a file that only the server's own account can read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hmac import compare_digest
from typing import Annotated, Any, Final

import msgspec
from twisted.logger import Logger
from twisted.web.iweb import IRequest

from imserver.http.calls import Call, Id, Name, Refused, Reply, Route, authorization, body, id_in_path, json
from imserver.http.health import Readiness
from imserver.http.settings import Settings
from imserver.interfaces import IAccounts, IClientRegistry, IConnection, ISyncKeys, ITimelines
from imserver.model import UserKey, UserSettings, user_timeline

#: Tokens that one call may order.
_MOST_TOKENS: Final = 100_000


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator's call takes. A field that nobody knows is a mistake, not something to pass over."""


class _NewTokens(Body, frozen=True):
    appid: Id
    first: Id
    last: Id


class _Revocation(Body, frozen=True):
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    appid: Id | None = None
    uid: Id | None = None


class _NewApp(Body, frozen=True):
    name: Name
    appid: Id | None = None


class _NewSettings(Body, frozen=True):
    name: Name | None = None
    forbidden: bool | None = None
    notification_on: bool | None = None


def for_operators(key: str, routes: Iterable[Route]) -> Sequence[Route]:
    """The same calls, for whoever knows the key.

    Args:
        key: without the newline of its file. Raises ValueError where it is too short to be one.
    """
    if len(key) < 32:
        raise ValueError("the operator's key has fewer than 32 characters")
    expected = key.encode()

    def guarded(call: Call) -> Call:
        async def admit(request: IRequest, **values: str) -> Reply:
            scheme, given = authorization(request)
            # Not slowed down: of 192 bits and more nobody guesses one. Counted as answers with status 401.
            if scheme != b"bearer" or not compare_digest(given, expected):
                raise Refused(401, "this needs the header Authorization: Bearer KEY, with the content of operator.key")
            return await call(request, **values)

        return admit

    return tuple(route._replace(call=guarded(route.call)) for route in routes)


class Operator:
    _log = Logger()

    def __init__(
        self,
        registry: IClientRegistry,
        accounts: IAccounts,
        settings: Settings,
        timelines: ITimelines,
        sync_keys: ISyncKeys,
        readiness: Readiness,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        """
        Args:
            status: the figures of GET /admin/status, except "ready" and "checks".
        """
        self._registry = registry
        self._accounts = accounts
        self._settings = settings
        self._timelines = timelines
        self._sync_keys = sync_keys
        self._readiness = readiness
        self._status = status

    def routes(self) -> Sequence[Route]:
        return (
            Route("GET", "/admin/status", self._show_status),
            Route("GET", "/admin/apps", self._show_apps),
            Route("POST", "/admin/apps", self._create_app),
            Route("POST", "/admin/apps/<appid>/rotate", self._rotate_secret),
            Route("POST", "/admin/tokens", self._issue_tokens),
            Route("POST", "/admin/tokens/revoke", self._revoke),
            Route("GET", "/admin/users/<appid>/<uid>", self._show_user),
            Route("POST", "/admin/users/<appid>/<uid>/settings", self._change_settings),
            Route("POST", "/admin/users/<appid>/<uid>/kick", self._kick),
        )

    async def _show_status(self, request: IRequest) -> Reply:
        checks = await self._readiness.look()
        return json({**self._status(), "ready": all(checks.values()), "checks": checks})

    async def _show_apps(self, request: IRequest) -> Reply:
        return json({"apps": await self._accounts.apps()})

    async def _create_app(self, request: IRequest) -> Reply:
        asked = body(request, _NewApp)
        appid, secret = await self._accounts.create_app(asked.name, asked.appid)
        self._log.info("app {appid} was made", appid=appid)
        return json({"appid": appid, "secret": secret})

    async def _rotate_secret(self, request: IRequest, appid: str) -> Reply:
        app = id_in_path("appid", appid)
        secret = await self._accounts.rotate_secret(app)
        self._log.info("app {appid} has a new secret", appid=app)
        return json({"appid": app, "secret": secret})

    async def _issue_tokens(self, request: IRequest) -> Reply:
        asked = body(request, _NewTokens)
        if asked.last < asked.first:
            raise Refused(400, "`last` is below `first`")
        uids = range(asked.first, asked.last + 1)
        if len(uids) > _MOST_TOKENS:
            raise Refused(400, f"{len(uids)} tokens in one call are too many: at most {_MOST_TOKENS}")
        tokens = await self._accounts.issue_tokens(asked.appid, uids)
        self._log.info("{count} tokens of app {appid} were issued", count=len(tokens), appid=asked.appid)
        return json({"tokens": list(zip(uids, tokens, strict=True))})

    async def _revoke(self, request: IRequest) -> Reply:
        match body(request, _Revocation):
            case _Revocation(token=str(token), appid=None, uid=None):
                user = await self._accounts.revoke_token(token)
                revoked = 1
            case _Revocation(token=None, appid=int(appid), uid=int(uid)):
                user = UserKey(appid, uid)
                await self._accounts.settings(user)  # 404 where there is no such app
                revoked = await self._accounts.revoke_tokens(user)
            case _:
                raise Refused(400, "this takes either `token`, or `appid` and `uid`")
        # At once, in the same turn as the answer of the directory, which lets in nobody whose token is gone.
        closed = self._close(user, "revoked")
        self._log.info(
            "{revoked} tokens of {user} were revoked, {closed} connections closed",
            revoked=revoked,
            user=user,
            closed=closed,
        )
        return json({"revoked": revoked})

    async def _show_user(self, request: IRequest, appid: str, uid: str) -> Reply:
        user = user_in_path(appid, uid)
        shown = await self._described(await self._accounts.settings(user))
        shown["connections"] = [_connection(connection) for connection in self._registry.connections_of(user)]
        return json(shown)

    async def _change_settings(self, request: IRequest, appid: str, uid: str) -> Reply:
        user = user_in_path(appid, uid)
        asked = body(request, _NewSettings)
        if asked == _NewSettings():
            raise Refused(400, "this takes one or more of `name`, `forbidden` and `notification_on`")
        settings = await self._settings.change(user, asked.name, asked.forbidden, asked.notification_on)
        return json(await self._described(settings))

    async def _kick(self, request: IRequest, appid: str, uid: str) -> Reply:
        user = user_in_path(appid, uid)
        await self._accounts.settings(user)  # 404 where there is no such app
        kicked = self._close(user, "kicked")
        self._log.info("{kicked} connections of {user} were kicked", kicked=kicked, user=user)
        return json({"kicked": kicked})

    def _close(self, user: UserKey, reason: str) -> int:
        connections = tuple(self._registry.connections_of(user))
        for connection in connections:
            connection.close(reason)
        return len(connections)

    async def _described(self, settings: UserSettings) -> dict[str, Any]:
        user = settings.user
        return {
            "appid": user.appid,
            "uid": user.uid,
            "name": settings.name,
            "forbidden": settings.forbidden,
            "notification_on": settings.notification_on,
            "unread": settings.unread,
            "tokens": settings.tokens,
            "head": await self._timelines.head(user_timeline(user)),
            "saved_key": await self._sync_keys.saved_key(user),
        }


def user_in_path(appid: str, uid: str) -> UserKey:
    """Raises `Refused` where one of the two is no number."""
    return UserKey(id_in_path("appid", appid), id_in_path("uid", uid))


def _connection(connection: IConnection) -> dict[str, Any]:
    return {
        "number": connection.number,
        "address": connection.address,
        "transport": connection.transport_name,
        "version": connection.version,
        "device": connection.device,
        "device_id": connection.device_id,
        "platform": connection.platform_id,
        "room": connection.room,
        "signed_in_at": connection.signed_in_at,
    }
