"""Apps, tokens and settings of users, on the lanes' threads.

How secrets are kept: a token as its sha256. The secret of an app as the sha256 of md5hex(secret), because that is what
back ends send in Basic authorization (ecosystem.md, HTTP: the application API). Both have 192 random bits, so that
neither a salt nor a slow hash would add anything.
"""

import secrets
from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from typing import Final

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, insert, select, update

from imserver.database import schema
from imserver.directory.statements import Binary, Keys, Rows, chunks, require_app
from imserver.interfaces import AlreadyExists, NotFound, WallClock
from imserver.model import App, UserKey, UserSettings

#: The app of a fresh embedded database; the clients' demos use its number.
FIRST_APP: Final = App(7, "demo")
#: Tokens of one user that stay in force (ecosystem.md, POST /auth/grant).
_TOKENS_OF_USER: Final = 20
#: Random bytes of a token or secret: 192 bits, 32 characters.
_RANDOM_BYTES: Final = 24

_USERS = Keys(schema.user.c.appid, schema.user.c.uid)


def set_unread(connection: Connection, items: Sequence[tuple[UserKey, int]]) -> list[None]:
    counts = dict(items)  # of several counts of one user the last
    _set_columns(connection, {user: {"unread": count} for user, count in counts.items()})
    return [None] * len(items)


def _set_columns(connection: Connection, values: Mapping[UserKey, Mapping[str, object]]) -> None:
    """Set columns of users, the same ones for each, whether they have a row or not."""
    known = _USERS.found(connection, values)
    changed = [{"of_appid": user.appid, "of_uid": user.uid, **values[user]} for user in values if user in known]
    if changed:
        of_user = and_(schema.user.c.appid == bindparam("of_appid"), schema.user.c.uid == bindparam("of_uid"))
        connection.execute(update(schema.user).where(of_user), changed)
    added = [{"appid": user.appid, "uid": user.uid, **values[user]} for user in values if user not in known]
    if added:
        connection.execute(insert(schema.user), added)


def create_app(connection: Connection, name: str, appid: int | None, now: WallClock) -> tuple[int, str]:
    app = schema.app.c.appid
    if appid is None:
        following = schema.app.alias()
        after = select(func.min(app) + 1).where(~exists().where(following.c.appid == app + 1))
        appid = connection.execute(after).scalar() or 1
    elif connection.execute(select(app).where(app == appid)).first() is not None:
        raise AlreadyExists(f"there is an app {appid} already")
    secret, kept = _new_secret()
    connection.execute(insert(schema.app), {"appid": appid, "name": name, "secret_sha256": kept, "created": int(now())})
    return appid, secret


def _new_secret() -> tuple[str, bytes]:
    """A secret, and what is kept of it."""
    secret = secrets.token_urlsafe(_RANDOM_BYTES)
    as_sent = md5(secret.encode(), usedforsecurity=False).hexdigest()
    return secret, sha256(as_sent.encode()).digest()


def rotate_secret(connection: Connection, appid: int) -> str:
    require_app(connection, appid)
    secret, kept = _new_secret()
    connection.execute(update(schema.app).where(schema.app.c.appid == appid), {"secret_sha256": kept})
    return secret


_SECRETS = Rows(
    select(schema.app.c.appid, schema.app.c.secret_sha256).where(
        schema.app.c.appid.in_(bindparam("values", expanding=True))
    ),
    tuple[int, Binary],
)


def secrets_of(connection: Connection, appids: Sequence[int]) -> list[bytes | None]:
    """What is kept of the secret of each app; None: there is no such app."""
    kept: dict[int, bytes] = {}
    for values in chunks(set(appids)):
        kept.update(_SECRETS.fetch(connection, {"values": values}))
    return [kept.get(appid) for appid in appids]


def ensure_first_app(connection: Connection, now: WallClock) -> None:
    if connection.execute(select(schema.app.c.appid).limit(1)).first() is None:
        create_app(connection, FIRST_APP.name, FIRST_APP.appid, now)


def apps(connection: Connection) -> list[App]:
    rows = connection.execute(select(schema.app.c.appid, schema.app.c.name).order_by(schema.app.c.appid))
    return [App(appid, name) for appid, name in rows]


_HELD_TOKENS = (
    select(schema.token.c.uid, schema.token.c.created, schema.token.c.sha256)
    .where(schema.token.c.appid == bindparam("of_appid"), schema.token.c.uid.in_(bindparam("values", expanding=True)))
    .order_by(schema.token.c.created)
)
_DELETE_TOKEN = delete(schema.token).where(schema.token.c.sha256 == bindparam("digest"))


def issue_tokens(connection: Connection, appid: int, uids: Sequence[int], now: WallClock) -> list[str]:
    require_app(connection, appid)
    #: The tokens of each user as (created, digest), oldest first.
    held: dict[int, list[tuple[int, bytes]]] = {uid: [] for uid in uids}
    stored = set()
    for values in chunks(held):
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


def revoke_token(connection: Connection, digest: bytes) -> UserKey:
    columns = select(schema.token.c.appid, schema.token.c.uid).where(schema.token.c.sha256 == digest)
    row = connection.execute(columns).first()
    if row is None:
        raise NotFound("there is no such token")
    connection.execute(_DELETE_TOKEN, {"digest": digest})
    return UserKey(row.appid, row.uid)


def revoke_tokens(connection: Connection, user: UserKey) -> int:
    of_user = and_(schema.token.c.appid == user.appid, schema.token.c.uid == user.uid)
    return connection.execute(delete(schema.token).where(of_user)).rowcount


def settings_of(connection: Connection, user: UserKey) -> UserSettings:
    require_app(connection, user.appid)
    of_user = and_(schema.token.c.appid == user.appid, schema.token.c.uid == user.uid)
    tokens = connection.execute(select(func.count()).select_from(schema.token).where(of_user)).scalar_one()
    row = connection.execute(
        select(schema.user).where(schema.user.c.appid == user.appid, schema.user.c.uid == user.uid)
    ).first()
    if row is None:
        return UserSettings(user, tokens=tokens)
    return UserSettings(
        user, row.name, bool(row.forbidden), bool(row.notification_on), row.unread, tokens, bool(row.mute)
    )


def change_settings(connection: Connection, user: UserKey, columns: Mapping[str, object]) -> UserSettings:
    require_app(connection, user.appid)
    if columns:
        _set_columns(connection, {user: columns})
    return settings_of(connection, user)
