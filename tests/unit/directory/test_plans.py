"""How the database carries out what the directory says to it for every request, sign-in, message and push."""

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest_twisted
from sqlalchemy import Connection
from twisted.internet.defer import gatherResults

from imserver.directory import accounts, phones, sign_ins
from imserver.model import Conversation, UserKey
from tests.contract.sql_directory import SqlHouse

USER = UserKey(7, 1)
USERS = [UserKey(7, uid) for uid in range(1, 20)]


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[SqlHouse]:
    house = SqlHouse(tmp_path)
    await house.directory.create_app("demo", 7)
    yield house
    await house.stop()


def driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


class Said:
    """The statements that a connection was told, with their values."""

    def __init__(self) -> None:
        self.statements: set[str] = set()

    def listen(self, connection: Connection) -> None:
        driver(connection).set_trace_callback(self.statements.add)

    def stop(self, connection: Connection) -> None:
        driver(connection).set_trace_callback(None)

    async def whole_tables(self, house: SqlHouse) -> tuple[int, list[tuple[str, str]]]:
        """How many statements there were, and those that look at every row of a table."""
        asked = [
            text for text in self.statements if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE"))
        ]
        found = []
        for text in asked:
            plan = await house.rows("EXPLAIN QUERY PLAN " + text.replace(":", r"\:"))
            for *_numbers, step in plan:
                # Not a table: values that the statement brings along.
                if step.startswith("SCAN") and not any(word in step for word in ("VIRTUAL TABLE", "CONSTANT")):
                    found.append((text, step))
        return len(asked), found


@pytest_twisted.ensureDeferred
async def test_accounts_find_rows_by_an_index(house: SqlHouse) -> None:
    """Sign-ins, checks of back ends, settings, phones: however many users there are."""
    directory, said = house.directory, Said()
    (token,) = await directory.issue_tokens(7, [1])
    await house.change(said.listen)
    await gatherResults([directory.set_unread(user, 1) for user in USERS])
    await directory.set_mute(USER, True)
    await directory.set_do_not_disturb(USER, Conversation(True, 5), True)
    await directory.set_do_not_disturb(USER, Conversation(True, 5), False)
    await directory.bind_devices(USER, {"apns": "a"})
    await directory.unbind_devices(USER, {"apns": "a"})
    await directory.rotate_secret(7)
    await house.change(said.stop)

    def read(connection: Connection) -> None:
        said.listen(connection)
        digest = sha256(token.encode()).digest()
        sign_ins.look_up(connection, [sign_ins.Asked(digest, b"phone", 2)] * 3)
        accounts.secrets_of(connection, [7, 8, 9])
        phones.not_to_disturb(connection, [(USERS, Conversation(True, 5))])
        phones.bound_devices(connection, USERS)
        said.stop(connection)

    await house.reads.read("test", read)
    count, found = await said.whole_tables(house)
    assert count >= 15
    assert found == []
