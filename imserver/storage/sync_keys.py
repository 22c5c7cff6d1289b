"""How far each user has read (SYNC_KEY, GROUP_SYNC_KEY)."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, select
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from imserver.database.lanes import ReadLane, WriteLane
from imserver.database.schema import saved_key
from imserver.interfaces import ISyncKeys
from imserver.model import SAFE_INTEGER, UserKey
from imserver.storage import sqlite

#: What a waiting key costs, in bytes, about.
_KEY_SIZE: Final = 300


class _Place(NamedTuple):
    """Whose key, for which timeline."""

    user: UserKey
    #: 0: the user's own.
    group: int


@implementer(ISyncKeys)
class SyncKeys:
    def __init__(self, writes: WriteLane, reads: ReadLane) -> None:
        self._reading = reads.group("saved_key", _read)
        self._saving = writes.group("saved_key", _save)

    def saved_key(self, user: UserKey, group: int = 0) -> Deferred[int]:
        return self._reading.submit(_Place(user, group))

    def save_key(self, user: UserKey, key: int, group: int = 0) -> Deferred[None]:
        if not 0 < key < SAFE_INTEGER:
            return succeed(None)
        return self._saving.submit((_Place(user, group), key), _KEY_SIZE)


_SAVED_KEY = select(saved_key.c.sync_key).where(
    saved_key.c.appid == bindparam("appid"),
    saved_key.c.uid == bindparam("uid"),
    saved_key.c.group_id == bindparam("group"),
)


def _read(connection: Connection, places: Sequence[_Place]) -> list[int]:
    return [
        connection.execute(_SAVED_KEY, {"appid": user.appid, "uid": user.uid, "group": group}).scalar() or 0
        for user, group in places
    ]


def _save(connection: Connection, keys: Sequence[tuple[_Place, int]]) -> list[None]:
    highest: dict[_Place, int] = {}
    for place, key in keys:
        highest[place] = max(key, highest.get(place, 0))
    values: list[int] = []
    for (user, group), key in sorted(highest.items()):
        values += (*user, group, key)
    cursor: Any = connection.connection.cursor()
    sqlite.save_keys(cursor, values)
    return [None] * len(keys)
