"""Who a token stands for and which number a device has, on the lanes' threads."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, insert, select

from imserver.database import schema
from imserver.directory.statements import Binary, Rows, chunks
from imserver.model import UserKey


class Asked(NamedTuple):
    """A sign-in, as the database is asked for it."""

    sha256: bytes
    #: Empty where there is no number to find (protocol.md, Who a connection is).
    device: bytes
    platform: int


class Known(NamedTuple):
    """What the database knows of a sign-in."""

    user: UserKey
    forbidden: bool
    notification_on: bool
    unread: int
    #: None: the device has no number yet.
    device: int | None


_SIGN_INS = Rows(
    select(
        schema.token.c.sha256,
        schema.token.c.appid,
        schema.token.c.uid,
        schema.user.c.forbidden,
        schema.user.c.notification_on,
        schema.user.c.unread,
    )
    .select_from(
        schema.token.outerjoin(
            schema.user,
            and_(schema.user.c.appid == schema.token.c.appid, schema.user.c.uid == schema.token.c.uid),
        )
    )
    .where(schema.token.c.sha256.in_(bindparam("values", expanding=True))),
    tuple[Binary, int, int, int | None, int | None, int | None],
)
# By the string alone, which is the first column of the index: a string has one platform, or a few.
_DEVICES = Rows(
    select(schema.device.c.device, schema.device.c.platform, schema.device.c.number).where(
        schema.device.c.device.in_(bindparam("values", expanding=True))
    ),
    tuple[Binary, int, int],
)


def look_up(connection: Connection, asked: Sequence[Asked]) -> list[Known | None]:
    found: dict[bytes, tuple[bytes, int, int, int | None, int | None, int | None]] = {}
    for values in chunks(one.sha256 for one in asked):
        for row in _SIGN_INS.fetch(connection, {"values": values}):
            found[row[0]] = row
    # Who has no token learns nothing of devices, and costs no search for one.
    numbers = _device_numbers(connection, {(one.device, one.platform) for one in asked if one.sha256 in found})
    known: list[Known | None] = []
    for one in asked:
        found_row = found.get(one.sha256)
        if found_row is None:
            known.append(None)
            continue
        _digest, appid, uid, forbidden, notification_on, unread = found_row
        device = numbers.get((one.device, one.platform)) if one.device else 0
        known.append(Known(UserKey(appid, uid), bool(forbidden), bool(notification_on), unread or 0, device))
    return known


def _device_numbers(connection: Connection, pairs: Iterable[tuple[bytes, int]]) -> dict[tuple[bytes, int], int]:
    numbers: dict[tuple[bytes, int], int] = {}
    for values in chunks({device for device, _ in pairs if device}):
        for device, platform, number in _DEVICES.fetch(connection, {"values": values}):
            numbers[device, platform] = number
    return numbers


def number_devices(connection: Connection, pairs: Sequence[tuple[bytes, int]]) -> list[int]:
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
