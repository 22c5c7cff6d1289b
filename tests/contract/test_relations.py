"""IRelations, as every implementation and the fake have to do it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from sqlalchemy import Connection, insert
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import gatherResults
from zope.interface.verify import verifyObject

from imserver.database import schema
from imserver.directory import statements
from imserver.directory.relations import SqlRelations
from imserver.interfaces import IRelations, NotFound, Unavailable
from imserver.model import Relation, UserKey
from tests.contract.sql_directory import SqlHouse
from tests.fakes.relations import FakeRelations
from tests.leaks import FlushLoggedErrors

ANY = FakeRelations | SqlRelations
ANN, BOB = UserKey(7, 1), UserKey(7, 2)


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[SqlHouse]:
    house = SqlHouse(tmp_path)
    for appid in (7, 8):
        await house.directory.create_app("app", appid)
    yield house
    await house.stop()


@pytest.fixture(params=["fake", "sql", "sql without JSON"])
def relations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ANY:
    if request.param == "fake":
        fake = FakeRelations()
        fake.apps = {7, 8}
        return fake
    if request.param == "sql without JSON":
        monkeypatch.setattr(statements, "JSON_DIALECTS", frozenset())
    house: SqlHouse = request.getfixturevalue("house")
    return house.relations


def test_provides_the_interface(relations: ANY) -> None:
    """The declaration is true."""
    assert verifyObject(IRelations, relations)


@pytest_twisted.ensureDeferred
async def test_strangers(relations: ANY) -> None:
    """Who has nothing to do with each other, or with anybody."""
    assert await relations.relation(ANN, 2) == Relation(friend=False, friend_of=False, blocked=False)
    assert await relations.relation(ANN, 1) == Relation()
    assert await relations.friends_of(ANN) == []
    assert await relations.blocked_by(ANN) == []


@pytest_twisted.ensureDeferred
async def test_friends_are_each_others(relations: ANY) -> None:
    """Made and ended from either side, any number of times; friends of other apps are others."""
    for _ in range(2):
        await relations.set_friends(7, 1, 2, True)
    await relations.set_friends(7, 3, 1, True)
    for user, other in ((ANN, 2), (BOB, 1), (ANN, 3), (UserKey(7, 3), 1)):
        assert await relations.relation(user, other) == Relation(friend=True, friend_of=True)
    for user, other in ((UserKey(8, 1), 2), (UserKey(8, 2), 1), (BOB, 3)):
        assert await relations.relation(user, other) == Relation()
    assert await relations.friends_of(ANN) == [2, 3]
    assert await relations.friends_of(BOB) == [1]
    for _ in range(2):
        await relations.set_friends(7, 2, 1, False)
    assert await relations.relation(ANN, 2) == Relation()
    assert await relations.relation(BOB, 1) == Relation()
    assert await relations.friends_of(ANN) == [3]


@pytest_twisted.ensureDeferred
async def test_a_blacklist_has_one_side(relations: ANY) -> None:
    """It is the one who is on it that is blocked, and friends stay friends."""
    await relations.set_friends(7, 1, 2, True)
    for _ in range(2):
        await relations.set_blocked(7, 2, 1, True)
    assert await relations.relation(ANN, 2) == Relation(friend=True, friend_of=True, blocked=True)
    assert await relations.relation(BOB, 1) == Relation(friend=True, friend_of=True, blocked=False)
    assert await relations.relation(UserKey(8, 1), 2) == Relation()
    assert (await relations.blocked_by(BOB), await relations.blocked_by(ANN)) == ([1], [])
    for _ in range(2):
        await relations.set_blocked(7, 1, 2, False)
    assert (await relations.relation(ANN, 2)).blocked
    await relations.set_blocked(7, 2, 1, False)
    assert await relations.relation(ANN, 2) == Relation(friend=True, friend_of=True)


@pytest_twisted.ensureDeferred
async def test_oneself(relations: ANY) -> None:
    """Whoever is a friend of themselves, or blocks themselves, harms nobody."""
    await relations.set_friends(7, 1, 1, True)
    await relations.set_blocked(7, 1, 1, True)
    assert await relations.relation(ANN, 1) == Relation(friend=True, friend_of=True, blocked=True)
    await relations.set_friends(7, 1, 1, False)
    assert await relations.relation(ANN, 1) == Relation(blocked=True)


@pytest_twisted.ensureDeferred
async def test_no_relations_without_an_app(relations: ANY) -> None:
    """Neither made nor ended."""
    for on in (True, False):
        with pytest.raises(NotFound, match="9"):
            await relations.set_friends(9, 1, 2, on)
        with pytest.raises(NotFound, match="9"):
            await relations.set_blocked(9, 1, 2, on)
    assert await relations.relation(UserKey(9, 1), 2) == Relation()


@pytest_twisted.ensureDeferred
async def test_many_at_once_get_their_own(relations: ANY) -> None:
    """Of those who ask together, more than one statement takes, each learns how they stand, in this app."""
    users = range(1, 41)
    changes = [relations.set_friends(7, uid, uid + 1, True) for uid in users if uid % 3 == 0]
    changes += [relations.set_blocked(7, uid + 1, uid, True) for uid in users if uid % 4 == 0]
    await gatherResults(changes)
    pairs = [(appid, uid, other) for appid in (7, 8) for uid in users for other in users]
    answers = await gatherResults([relations.relation(UserKey(appid, uid), other) for appid, uid, other in pairs])
    for (appid, uid, other), answer in zip(pairs, answers, strict=True):
        friends = appid == 7 and abs(uid - other) == 1 and min(uid, other) % 3 == 0
        blocked = appid == 7 and other == uid + 1 and uid % 4 == 0
        assert answer == Relation(friends, friends, blocked), (appid, uid, other)


@pytest_twisted.ensureDeferred
async def test_fake_can_hold_and_fail() -> None:
    """What the tests of others rely on: answers that wait, in order, and failures."""
    relations = FakeRelations()
    relations.hold()
    asked, change = relations.relation(ANN, 2), relations.set_blocked(7, 2, 1, True)
    again = relations.relation(ANN, 2)
    assert not any(done.called for done in (asked, change, again))
    relations.release()
    assert [await asked, await again] == [Relation(), Relation(blocked=True)]
    relations.unavailable = True
    with pytest.raises(Unavailable):
        await relations.relation(ANN, 2)


# What only a database can do wrong.


@pytest_twisted.ensureDeferred
async def test_rows_of_a_back_end(house: SqlHouse) -> None:
    """Rows are as back ends know them, and what they change counts for the next who asks, whatever they leave empty or
    add; each of the two directions stands by itself."""
    await house.relations.set_friends(7, 1, 2, True)
    await house.relations.set_blocked(7, 2, 1, True)
    assert await house.rows("SELECT appid, uid, friend_uid, timestamp FROM friend ORDER BY uid") == [
        (7, 1, 2, 1_700_000_000),
        (7, 2, 1, 1_700_000_000),
    ]
    assert await house.rows("SELECT appid, uid, friend_uid, timestamp FROM blacklist") == [(7, 2, 1, 1_700_000_000)]
    assert await house.relations.relation(ANN, 2) == Relation(True, True, True)

    def change(connection: Connection) -> None:
        for statement in (
            "ALTER TABLE friend ADD COLUMN note TEXT",
            "DELETE FROM friend WHERE uid = 1",
            "DELETE FROM blacklist",
            "INSERT INTO friend (appid, uid, friend_uid) VALUES (7, 3, 1)",
            "INSERT INTO blacklist (appid, uid, friend_uid) VALUES (7, 3, 1)",
        ):
            connection.exec_driver_sql(statement)

    await house.change(change)
    assert await house.relations.relation(ANN, 2) == Relation(friend=False, friend_of=True)
    assert await house.relations.relation(BOB, 1) == Relation(friend=True, friend_of=False)
    assert await house.relations.relation(ANN, 3) == Relation(friend_of=True, blocked=True)
    await house.relations.set_friends(7, 1, 3, True)
    assert await house.relations.relation(ANN, 3) == Relation(friend=True, friend_of=True, blocked=True)


@pytest_twisted.ensureDeferred
async def test_lists_have_an_end(house: SqlHouse) -> None:
    """Of more than 10,000 the first are shown, in order."""
    rows = [{"appid": 7, "uid": 1, "friend_uid": other} for other in range(20_000, 9_000, -1)]
    for table in (schema.friend, schema.blacklist):
        await house.change(lambda connection, table=table: connection.execute(insert(table), rows))  # type: ignore[misc]
    assert list(await house.relations.friends_of(ANN)) == list(range(9_001, 19_001))
    assert list(await house.relations.blocked_by(ANN)) == list(range(9_001, 19_001))


@pytest_twisted.ensureDeferred
async def test_trouble_is_never_no_relation(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """Where the database cannot tell, nobody learns that they are not blocked; when it can again, it is asked."""
    relations = house.relations
    await relations.set_blocked(7, 2, 1, True)
    await house.change(lambda connection: connection.exec_driver_sql("ALTER TABLE blacklist RENAME TO away"))
    for failing in (
        relations.relation(ANN, 2),
        relations.blocked_by(BOB),
        relations.set_blocked(7, 3, 1, True),
        relations.set_blocked(7, 3, 1, False),
    ):
        with pytest.raises(Unavailable):
            await failing
    assert flush_logged_errors(OperationalError)  # the lane told of the transactions that failed
    await house.change(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO blacklist"))
    assert await relations.relation(ANN, 2) == Relation(blocked=True)
    assert await relations.relation(ANN, 3) == Relation()


@pytest_twisted.ensureDeferred
async def test_closed_lanes_are_unavailable(tmp_path: Path) -> None:
    """What comes after the database was closed fails with Unavailable."""
    house = SqlHouse(tmp_path)
    await house.stop()
    for failing in (
        house.relations.relation(ANN, 2),
        house.relations.friends_of(ANN),
        house.relations.set_friends(7, 1, 2, True),
    ):
        with pytest.raises(Unavailable):
            await failing
