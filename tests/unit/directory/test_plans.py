"""How the database carries out what the directory says to it for every request, sign-in, message and push."""

import threading
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, gatherResults

from imserver.database import schema
from imserver.directory import accounts, groups, phones, relations, sign_ins
from imserver.model import Conversation, Group, UserKey
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
        """How many statements there were, and those that look at every row of a table, or of an app."""
        asked = [
            text for text in self.statements if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE"))
        ]
        found = []
        for text in asked:
            plan = await house.rows("EXPLAIN QUERY PLAN " + text.replace(":", r"\:"))
            for *_numbers, step in plan:
                # Not a table: values that the statement brings along, and what a subquery gave.
                no_table = any(word in step for word in ("VIRTUAL TABLE", "CONSTANT", "anon_"))
                if step.endswith("(appid=?)") or (step.startswith("SCAN") and not no_table):
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


@pytest_twisted.ensureDeferred
async def test_groups_find_rows_by_an_index(house: SqlHouse) -> None:
    """Reading a group and each of its changes: however many groups and members of others there are."""
    changes, said = house.groups, Said()
    await house.change(said.listen)
    number = (await changes.create(7, 1, "ours", range(2, 20), False, None)).group_id
    await changes.create(7, 1, "its own", range(2, 20), False, number + 10)
    await changes.rename(7, number, "renamed")
    await changes.upgrade(7, number)
    await changes.remove_members(7, number, range(2, 10))
    await changes.add_members(7, number, range(5, 30))
    await changes.change_member(7, number, 5, nickname="n", muted=True)
    await changes.disband(7, number)
    await house.change(said.stop)

    def read(connection: Connection) -> None:
        said.listen(connection)
        assert groups._read_group(connection, number + 10) is not None
        said.stop(connection)

    await house.reads.read("test", read)
    count, found = await said.whole_tables(house)
    assert count >= 20
    assert found == []


@pytest_twisted.ensureDeferred
async def test_relations_find_rows_by_an_index(house: SqlHouse) -> None:
    """Asked for every message: however many friends anybody has."""
    said = Said()
    await house.change(said.listen)
    for on in (True, False):
        await house.relations.set_friends(7, 1, 2, on)
        await house.relations.set_blocked(7, 1, 2, on)
    await house.change(said.stop)

    def read(connection: Connection) -> None:
        said.listen(connection)
        relations._relations(connection, [(user, 5) for user in USERS])
        relations._others(connection, schema.friend, USER)
        relations._others(connection, schema.blacklist, USER)
        said.stop(connection)

    await house.reads.read("test", read)
    count, found = await said.whole_tables(house)
    assert count >= 13
    assert found == []


@pytest_twisted.ensureDeferred
async def test_a_large_group_comes_and_goes_in_few_pieces(house: SqlHouse) -> None:
    """For each statement, and for each row that is fetched, the driver lets go of the GIL: with 10,000 members that is
    not 10,000 times."""
    said: list[str] = []
    rows = 0

    def count(_cursor: object, row: Any) -> Any:
        nonlocal rows
        rows += 1
        return row

    def listen(connection: Connection) -> None:
        driver(connection).set_trace_callback(said.append)
        driver(connection).row_factory = count

    def stop(connection: Connection) -> None:
        driver(connection).set_trace_callback(None)
        driver(connection).row_factory = None

    await house.change(listen)
    made = await house.groups.create(7, 1, "large", range(1, 10_001), False, None)
    assert len(made.members) == 10_000
    assert len((await house.groups.add_members(7, made.group_id, range(1, 12_001))).members) == 12_000
    assert len((await house.groups.remove_members(7, made.group_id, range(1, 5_001))).members) == 7_000
    await house.change(stop)

    def read(connection: Connection) -> None:
        listen(connection)
        group = groups._read_group(connection, made.group_id)
        stop(connection)
        assert group is not None
        assert len(group.members) == 7_000

    await house.reads.read("test", read)
    assert rows <= 100
    assert len(said) <= 150


@pytest_twisted.ensureDeferred
async def test_members_who_wait_are_counted(house: SqlHouse) -> None:
    """A change of many members holds many bytes while it waits, and the lane has a bound of those."""
    gate = threading.Event()
    held = house.change(lambda _connection: gate.wait(30))
    before = house.writes._waiting_bytes
    waiting = house.groups.create(7, 1, "large", range(1, 10_001), False, None)
    assert house.writes._waiting_bytes - before >= 10_000 * 36  # an int and its place
    gate.set()
    await held
    await waiting


@pytest_twisted.ensureDeferred
async def test_groups_are_made_on_the_lanes_threads(house: SqlHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one of 10,000 members takes longer than a turn of the reactor should."""
    threads: set[str] = set()

    class WatchedGroup(Group):
        __slots__ = ()

        def __init__(self, *values: Any) -> None:
            threads.add(threading.current_thread().name)
            super().__init__(*values)

    monkeypatch.setattr(groups, "Group", WatchedGroup)
    made = await house.groups.create(7, 1, "ours", [2], False, None)
    await house.groups.disband(7, made.group_id)
    assert threads == {"imserver-write"}
    threads.clear()
    number = (await house.groups.create(7, 1, "ours", [2], False, None)).group_id
    threads.clear()
    house.groups._cache.forget(number)
    found = house.groups.group(7, number)
    assert isinstance(found, Deferred)
    assert isinstance(await found, WatchedGroup)
    (thread,) = threads
    assert thread.startswith("imserver-read")


@pytest_twisted.ensureDeferred
async def test_a_group_with_many_changes_is_made_once(house: SqlHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of one group that are carried out together do not each make it anew."""
    number = (await house.groups.create(7, 1, "ours", [2], False, None)).group_id
    other = (await house.groups.create(7, 1, "other", [2], False, None)).group_id
    made: list[int] = []
    with_members = groups._with_members

    def watched(connection: Connection, row: Any) -> Group:
        made.append(row.id)
        return with_members(connection, row)

    monkeypatch.setattr(groups, "_with_members", watched)
    gate = threading.Event()
    held = house.change(lambda _connection: gate.wait(30))
    waiting = [house.groups.add_members(7, number, [uid]) for uid in range(10, 60)]
    waiting.append(house.groups.rename(7, other, "renamed"))
    gate.set()
    await held
    assert [list(group.members) for group in await gatherResults(waiting)] == [[1, 2, *range(10, 60)]] * 50 + [[1, 2]]
    assert sorted(made) == [number, other]
