"""The directory on the SQL database that storage uses too.

How secrets are kept: a token as its sha256. The secret of an app as the sha256 of md5hex(secret), because that is what
back ends send in Basic authorization (ecosystem.md, HTTP: the application API). Both have 192 random bits, so that
neither a salt nor a slow hash would add anything.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import md5, sha256
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    update,
)
from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.database import schema
from imserver.database.lanes import ReadLane, WriteLane
from imserver.interfaces import AlreadyExists, IAccounts, IDirectory, NotFound, WallClock
from imserver.model import App, SignIn, UserKey, UserSettings
from imserver.protocol.commands import Platform

Result = TypeVar("Result")
Value = TypeVar("Value")

#: The app of a fresh embedded database; the clients' demos use its number.
FIRST_APP: Final = App(7, "demo")
#: Tokens of one user that stay in force (ecosystem.md, POST /auth/grant).
_TOKENS_OF_USER: Final = 20
#: Tokens made in one transaction: other writes shall not wait long behind a large order.
_TOKENS_AT_ONCE: Final = 250
#: Random bytes of a token or secret: 192 bits, 32 characters.
_RANDOM_BYTES: Final = 24
#: Values in one IN (...), at most.
_VALUES_AT_ONCE: Final = 512
#: About what a waiting write of one row costs, in bytes.
_ROW_SIZE: Final = 200


class _Asked(NamedTuple):
    """A sign-in, as the database is asked for it."""

    sha256: bytes
    #: Empty where there is no number to find (protocol.md, Who a connection is).
    device: bytes
    platform: int


class _Known(NamedTuple):
    """What the database knows of a sign-in."""

    user: UserKey
    forbidden: bool
    notification_on: bool
    unread: int
    #: None: the device has no number yet.
    device: int | None


@implementer(IDirectory, IAccounts)
class SqlDirectory:
    """Sign-ins that wait together are looked up together; what is in order (a known device, nothing unread) is not
    written at all."""

    def __init__(self, writes: WriteLane, reads: ReadLane, now: WallClock) -> None:
        self._reads = reads
        self._now = now
        self._sign_ins = reads.group("sign-in", _look_up)
        self._devices = writes.group("device", _number_devices)
        self._unread = writes.group("unread", _set_unread)
        self._accounts = writes.group("account", _run_each)
        #: Revocations and changes of settings that were committed. A sign-in that ran beside one asks again, so that
        #: nobody who was looked up before a revocation gets in after it.
        self._changes = 0

    # IDirectory

    def sign_in(self, token: bytes, device: bytes, platform: int) -> Deferred[SignIn | None]:
        return self._ask(_Asked(sha256(token).digest(), b"" if platform == Platform.WEB else device, platform))

    def _ask(self, asked: _Asked) -> Deferred[SignIn | None]:
        return self._sign_ins.submit(asked).addCallback(self._asked, asked, self._changes)

    def _asked(self, known: _Known | None, asked: _Asked, changes: int) -> SignIn | Deferred[SignIn | None] | None:
        if known is None:
            return None
        if known.device is None:
            numbered = self._devices.submit((asked.device, asked.platform), _ROW_SIZE)
            return numbered.addCallback(
                lambda number: self._asked(known._replace(device=number), asked, changes),
            )
        if known.unread:
            reset = self._unread.submit((known.user, 0), _ROW_SIZE)
            return reset.addCallback(lambda _: self._asked(known._replace(unread=0), asked, changes))
        if changes != self._changes:
            return self._ask(asked)
        return SignIn(known.user, known.device, known.forbidden, known.notification_on)

    def set_unread(self, user: UserKey, count: int) -> Deferred[None]:
        return self._unread.submit((user, count), _ROW_SIZE)

    # IAccounts

    def create_app(self, name: str, appid: int | None = None) -> Deferred[tuple[int, str]]:
        return self._change(partial(_create_app, name=name, appid=appid, now=self._now))

    def ensure_first_app(self) -> Deferred[None]:
        """Make `FIRST_APP` if there is no app at all. Nobody learns its secret. Fails with `Unavailable`."""
        return self._change(partial(_ensure_first_app, now=self._now))

    def apps(self) -> Deferred[Sequence[App]]:
        return self._reads.read("apps", _apps)

    def issue_tokens(self, appid: int, uids: Sequence[int]) -> Deferred[Sequence[str]]:
        return Deferred.fromCoroutine(self._issue_tokens(appid, uids))

    async def _issue_tokens(self, appid: int, uids: Sequence[int]) -> Sequence[str]:
        tokens: list[str] = []
        # Once even for nobody, so that an app that does not exist is noticed.
        for start in range(0, max(len(uids), 1), _TOKENS_AT_ONCE):
            some = uids[start : start + _TOKENS_AT_ONCE]
            issue = partial(_issue_tokens, appid=appid, uids=some, now=self._now)
            tokens += await self._change(issue, len(some) * _ROW_SIZE)
        return tokens

    def revoke_token(self, token: str) -> Deferred[UserKey]:
        revoke = partial(_revoke_token, digest=sha256(token.encode()).digest())
        return self._change(revoke).addCallback(self._changed)

    def revoke_tokens(self, user: UserKey) -> Deferred[int]:
        return self._change(partial(_revoke_tokens, user=user)).addCallback(self._changed)

    def settings(self, user: UserKey) -> Deferred[UserSettings]:
        settings: Deferred[Any] = self._reads.read("settings", partial(_refusable, call=partial(_settings, user=user)))
        return settings.addCallback(_answer)

    def change_settings(
        self,
        user: UserKey,
        name: str | None = None,
        forbidden: bool | None = None,
        notification_on: bool | None = None,
    ) -> Deferred[UserSettings]:
        columns: dict[str, object] = {}
        if name is not None:
            columns["name"] = name
        if forbidden is not None:
            columns["forbidden"] = int(forbidden)
        if notification_on is not None:
            columns["notification_on"] = int(notification_on)
        return self._change(partial(_change_settings, user=user, columns=columns)).addCallback(self._changed)

    def _changed(self, result: Result) -> Result:
        self._changes += 1
        return result

    def _change(self, call: Callable[[Connection], Result], size: int = _ROW_SIZE) -> Deferred[Result]:
        done: Deferred[Any] = self._accounts.submit(call, size)
        return done.addCallback(_answer)


def _answer(result: Any) -> Any:
    if isinstance(result, AlreadyExists | NotFound):
        raise result
    return result


# What follows runs on the lanes' threads.


def _chunks(values: Iterable[Value]) -> Iterator[list[Value]]:
    """The values in lists whose lengths are powers of two, the last value repeated where needed: few lengths mean few
    statements, and the driver keeps them compiled."""
    rest = list(values)
    while rest:
        chunk, rest = rest[:_VALUES_AT_ONCE], rest[_VALUES_AT_ONCE:]
        chunk += chunk[-1:] * ((1 << (len(chunk) - 1).bit_length()) - len(chunk))
        yield chunk


def _in_one_row(*columns: Any) -> Any:
    """Rows as one JSON array of arrays: for each row that it fetches the driver lets go of the GIL, and may wait for
    the reactor's thread to give it back. JSON has no bytes: they come as hex."""
    return func.json_group_array(func.json_array(*columns))


_SIGN_INS = (
    select(
        _in_one_row(
            func.hex(schema.token.c.sha256),
            schema.token.c.appid,
            schema.token.c.uid,
            schema.user.c.forbidden,
            schema.user.c.notification_on,
            schema.user.c.unread,
        )
    )
    .select_from(
        schema.token.outerjoin(
            schema.user,
            and_(schema.user.c.appid == schema.token.c.appid, schema.user.c.uid == schema.token.c.uid),
        )
    )
    .where(schema.token.c.sha256.in_(bindparam("values", expanding=True)))
)
_decode_sign_ins = msgspec.json.Decoder(list[tuple[str, int, int, int | None, int | None, int | None]]).decode

# By the string alone, which is the first column of the index: a string has one platform, or a few.
_DEVICES = select(
    _in_one_row(func.hex(schema.device.c.device), schema.device.c.platform, schema.device.c.number)
).where(schema.device.c.device.in_(bindparam("values", expanding=True)))
_decode_devices = msgspec.json.Decoder(list[tuple[str, int, int]]).decode


def _look_up(connection: Connection, asked: Sequence[_Asked]) -> list[_Known | None]:
    found = {}
    for values in _chunks(one.sha256 for one in asked):
        rows = _decode_sign_ins(connection.execute(_SIGN_INS, {"values": values}).scalar_one())
        for row in rows:
            found[bytes.fromhex(row[0])] = row
    # Who has no token learns nothing of devices, and costs no search for one.
    numbers = _device_numbers(connection, {(one.device, one.platform) for one in asked if one.sha256 in found})
    known: list[_Known | None] = []
    for one in asked:
        found_row = found.get(one.sha256)
        if found_row is None:
            known.append(None)
            continue
        _digest, appid, uid, forbidden, notification_on, unread = found_row
        device = numbers.get((one.device, one.platform)) if one.device else 0
        known.append(_Known(UserKey(appid, uid), bool(forbidden), bool(notification_on), unread or 0, device))
    return known


def _device_numbers(connection: Connection, pairs: Iterable[tuple[bytes, int]]) -> dict[tuple[bytes, int], int]:
    numbers = {}
    for values in _chunks({device for device, _ in pairs if device}):
        rows = _decode_devices(connection.execute(_DEVICES, {"values": values}).scalar_one())
        for device, platform, number in rows:
            numbers[bytes.fromhex(device), platform] = number
    return numbers


def _number_devices(connection: Connection, pairs: Sequence[tuple[bytes, int]]) -> list[int]:
    numbers = _device_numbers(connection, pairs)
    unknown = [pair for pair in dict.fromkeys(pairs) if pair not in numbers]
    if unknown:
        # Counted here, not by the database: some skip the numbers of transactions that failed. Another node that takes
        # the same number at the same time fails on the key, or this one does, and is tried again by its lane.
        last = connection.execute(select(func.max(schema.device.c.number))).scalar() or 0
        numbers.update(zip(unknown, range(last + 1, last + 1 + len(unknown)), strict=True))
        connection.execute(
            insert(schema.device),
            [{"number": numbers[pair], "device": pair[0], "platform": pair[1]} for pair in unknown],
        )
    return [numbers[pair] for pair in pairs]


_USERS = select(schema.user.c.appid, schema.user.c.uid).where(
    tuple_(schema.user.c.appid, schema.user.c.uid).in_(bindparam("values", expanding=True))
)


def _set_unread(connection: Connection, items: Sequence[tuple[UserKey, int]]) -> list[None]:
    counts = dict(items)  # of several counts of one user the last
    _set_columns(connection, {user: {"unread": count} for user, count in counts.items()})
    return [None] * len(items)


def _set_columns(connection: Connection, values: Mapping[UserKey, Mapping[str, object]]) -> None:
    """Set columns of users, the same ones for each, whether they have a row or not."""
    known = {
        UserKey(appid, uid) for users in _chunks(values) for appid, uid in connection.execute(_USERS, {"values": users})
    }
    changed = [{"of_appid": user.appid, "of_uid": user.uid, **values[user]} for user in values if user in known]
    if changed:
        of_user = and_(schema.user.c.appid == bindparam("of_appid"), schema.user.c.uid == bindparam("of_uid"))
        connection.execute(update(schema.user).where(of_user), changed)
    added = [{"appid": user.appid, "uid": user.uid, **values[user]} for user in values if user not in known]
    if added:
        connection.execute(insert(schema.user), added)


def _refusable(connection: Connection, call: Callable[[Connection], Any]) -> Any:
    """The result of a call. A refusal is a result too: to the lane it would be trouble with the database, which undoes
    what others do in the same transaction."""
    try:
        return call(connection)
    except (AlreadyExists, NotFound) as refusal:
        return refusal


def _run_each(connection: Connection, calls: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    """The results of the calls. Each refuses before it writes anything."""
    return [_refusable(connection, call) for call in calls]


def _require_app(connection: Connection, appid: int) -> None:
    if connection.execute(select(schema.app.c.appid).where(schema.app.c.appid == appid)).first() is None:
        raise NotFound(f"there is no app {appid}")


def _create_app(connection: Connection, name: str, appid: int | None, now: WallClock) -> tuple[int, str]:
    app = schema.app.c.appid
    if appid is None:
        following = schema.app.alias()
        after = select(func.min(app) + 1).where(~exists().where(following.c.appid == app + 1))
        appid = connection.execute(after).scalar() or 1
    elif connection.execute(select(app).where(app == appid)).first() is not None:
        raise AlreadyExists(f"there is an app {appid} already")
    secret = secrets.token_urlsafe(_RANDOM_BYTES)
    as_sent = md5(secret.encode(), usedforsecurity=False).hexdigest()
    connection.execute(
        insert(schema.app),
        {"appid": appid, "name": name, "secret_sha256": sha256(as_sent.encode()).digest(), "created": int(now())},
    )
    return appid, secret


def _ensure_first_app(connection: Connection, now: WallClock) -> None:
    if connection.execute(select(schema.app.c.appid).limit(1)).first() is None:
        _create_app(connection, FIRST_APP.name, FIRST_APP.appid, now)


def _apps(connection: Connection) -> list[App]:
    rows = connection.execute(select(schema.app.c.appid, schema.app.c.name).order_by(schema.app.c.appid))
    return [App(appid, name) for appid, name in rows]


_HELD_TOKENS = (
    select(schema.token.c.uid, schema.token.c.created, schema.token.c.sha256)
    .where(schema.token.c.appid == bindparam("of_appid"), schema.token.c.uid.in_(bindparam("values", expanding=True)))
    .order_by(schema.token.c.created)
)
_DELETE_TOKEN = delete(schema.token).where(schema.token.c.sha256 == bindparam("digest"))


def _issue_tokens(connection: Connection, appid: int, uids: Sequence[int], now: WallClock) -> list[str]:
    _require_app(connection, appid)
    #: The tokens of each user as (created, digest), oldest first.
    held: dict[int, list[tuple[int, bytes]]] = {uid: [] for uid in uids}
    stored = set()
    for values in _chunks(held):
        for uid, created, digest in connection.execute(_HELD_TOKENS, {"of_appid": appid, "values": values}):
            held[uid].append((created, digest))
            stored.add(digest)
    # Microseconds, and rising for each user even where the clock went back: the newest token is never the one to go.
    microseconds = int(now() * 1_000_000)
    tokens = []
    for uid in uids:
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        tokens.append(token)
        of_user = held[uid]
        created = max(microseconds, of_user[-1][0] + 1) if of_user else microseconds
        of_user.append((created, sha256(token.encode()).digest()))
    gone = [digest for of_user in held.values() for _, digest in of_user[:-_TOKENS_OF_USER] if digest in stored]
    if gone:
        connection.execute(_DELETE_TOKEN, [{"digest": digest} for digest in gone])
    added = [
        {"sha256": digest, "appid": appid, "uid": uid, "created": created}
        for uid, of_user in held.items()
        for created, digest in of_user[-_TOKENS_OF_USER:]
        if digest not in stored
    ]
    if added:
        connection.execute(insert(schema.token), added)
    return tokens


def _revoke_token(connection: Connection, digest: bytes) -> UserKey:
    columns = select(schema.token.c.appid, schema.token.c.uid).where(schema.token.c.sha256 == digest)
    row = connection.execute(columns).first()
    if row is None:
        raise NotFound("there is no such token")
    connection.execute(_DELETE_TOKEN, {"digest": digest})
    return UserKey(row.appid, row.uid)


def _revoke_tokens(connection: Connection, user: UserKey) -> int:
    of_user = and_(schema.token.c.appid == user.appid, schema.token.c.uid == user.uid)
    return connection.execute(delete(schema.token).where(of_user)).rowcount


def _settings(connection: Connection, user: UserKey) -> UserSettings:
    _require_app(connection, user.appid)
    of_user = and_(schema.token.c.appid == user.appid, schema.token.c.uid == user.uid)
    tokens = connection.execute(select(func.count()).select_from(schema.token).where(of_user)).scalar_one()
    row = connection.execute(
        select(schema.user).where(schema.user.c.appid == user.appid, schema.user.c.uid == user.uid)
    ).first()
    if row is None:
        return UserSettings(user, tokens=tokens)
    return UserSettings(user, row.name, bool(row.forbidden), bool(row.notification_on), row.unread, tokens)


def _change_settings(connection: Connection, user: UserKey, columns: Mapping[str, object]) -> UserSettings:
    _require_app(connection, user.appid)
    if columns:
        _set_columns(connection, {user: columns})
    return _settings(connection, user)
