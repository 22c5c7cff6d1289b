"""What the phones of users get pushes by, and what they are not to get, on the lanes' threads."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256

from sqlalchemy import Connection, bindparam, delete, insert, select

from imserver.database import schema
from imserver.directory.statements import Keys, Rows, chunks, require_app
from imserver.interfaces import WallClock
from imserver.model import Conversation, UserKey

_NOT_TO_DISTURB = Keys(
    schema.do_not_disturb.c.appid,
    schema.do_not_disturb.c.is_group,
    schema.do_not_disturb.c.other,
    schema.do_not_disturb.c.uid,
)
_DISTURB_AGAIN = delete(schema.do_not_disturb).where(
    schema.do_not_disturb.c.appid == bindparam("of_appid"),
    schema.do_not_disturb.c.is_group == bindparam("of_kind"),
    schema.do_not_disturb.c.other == bindparam("of_other"),
    schema.do_not_disturb.c.uid == bindparam("of_uid"),
)


def set_do_not_disturb(connection: Connection, user: UserKey, conversation: Conversation, on: bool) -> None:
    require_app(connection, user.appid)
    appid, is_group, other, uid = key = _key(user, conversation)
    if not on:
        of_key = {"of_appid": appid, "of_kind": is_group, "of_other": other, "of_uid": uid}
        connection.execute(_DISTURB_AGAIN, of_key)
    elif not _NOT_TO_DISTURB.found(connection, [key]):
        row = {"appid": appid, "is_group": is_group, "other": other, "uid": uid}
        connection.execute(insert(schema.do_not_disturb), row)


def not_to_disturb(
    connection: Connection, asked: Sequence[tuple[Sequence[UserKey], Conversation]]
) -> list[Collection[UserKey]]:
    """For each of the conversations, which of the users want no pushes from it."""
    keys = {_key(user, conversation) for users, conversation in asked for user in users}
    found = _NOT_TO_DISTURB.found(connection, keys)
    return [{user for user in users if _key(user, conversation) in found} for users, conversation in asked]


def _key(user: UserKey, conversation: Conversation) -> tuple[int, int, int, int]:
    return user.appid, int(conversation.is_group), conversation.other, user.uid


_BOUND = Rows(
    select(schema.push_token.c.uid, schema.push_token.c.kind, schema.push_token.c.token).where(
        schema.push_token.c.appid == bindparam("of_appid"),
        schema.push_token.c.uid.in_(bindparam("values", expanding=True)),
    ),
    tuple[int, str, str],
)
# Whoever has it: a phone that changed hands gets no pushes for who had it before.
_UNBIND_HOLDER = delete(schema.push_token).where(
    schema.push_token.c.appid == bindparam("of_appid"),
    schema.push_token.c.kind == bindparam("of_kind"),
    schema.push_token.c.sha256 == bindparam("digest"),
)
_UNBIND_KIND = delete(schema.push_token).where(
    schema.push_token.c.appid == bindparam("of_appid"),
    schema.push_token.c.uid == bindparam("of_uid"),
    schema.push_token.c.kind == bindparam("of_kind"),
)
_UNBIND = _UNBIND_KIND.where(schema.push_token.c.sha256 == bindparam("digest"))


def bind_devices(connection: Connection, user: UserKey, tokens: Mapping[str, str], now: WallClock) -> None:
    timestamp = int(now())
    for kind, token in tokens.items():
        digest = sha256(token.encode()).digest()
        connection.execute(_UNBIND_HOLDER, {"of_appid": user.appid, "of_kind": kind, "digest": digest})
        connection.execute(_UNBIND_KIND, {"of_appid": user.appid, "of_uid": user.uid, "of_kind": kind})
        connection.execute(
            insert(schema.push_token),
            {
                "appid": user.appid,
                "uid": user.uid,
                "kind": kind,
                "token": token,
                "sha256": digest,
                "timestamp": timestamp,
            },
        )


def unbind_devices(connection: Connection, user: UserKey, tokens: Mapping[str, str]) -> None:
    for kind, token in tokens.items():
        digest = sha256(token.encode()).digest()
        connection.execute(_UNBIND, {"of_appid": user.appid, "of_uid": user.uid, "of_kind": kind, "digest": digest})


def bound_devices(connection: Connection, users: Iterable[UserKey]) -> dict[UserKey, dict[str, str]]:
    bound: dict[UserKey, dict[str, str]] = {}
    of_app: dict[int, list[int]] = {}
    for appid, uid in users:
        of_app.setdefault(appid, []).append(uid)
    for appid, uids in of_app.items():
        for values in chunks(uids):
            for uid, kind, token in _BOUND.fetch(connection, {"of_appid": appid, "values": values}):
                bound.setdefault(UserKey(appid, uid), {})[kind] = token
    return bound
