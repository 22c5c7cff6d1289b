"""ISyncKeys, as storage and the fake have to do it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from zope.interface.verify import verifyObject

from imserver.interfaces import ISyncKeys
from imserver.model import SAFE_INTEGER, UserKey
from tests.contract.sql_storage import SqlStorage
from tests.fakes.timelines import FakeSyncKeys

ALICE, BOB = UserKey(7, 1), UserKey(7, 2)


@pytest_twisted.async_yield_fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqlStorage]:
    storage = SqlStorage(tmp_path)
    yield storage
    await storage.stop()


@pytest.fixture(params=["fake", "sql"])
def sync_keys(request: pytest.FixtureRequest) -> ISyncKeys:
    if request.param == "fake":
        return FakeSyncKeys()
    found: SqlStorage = request.getfixturevalue("storage")
    return found.sync_keys


def test_implements_the_interface(sync_keys: ISyncKeys) -> None:
    """Storage and its fake have all methods, with these arguments."""
    assert verifyObject(ISyncKeys, sync_keys)


@pytest_twisted.ensureDeferred
async def test_who_saved_nothing_has_none(sync_keys: ISyncKeys) -> None:
    """0 stands for no key."""
    assert await sync_keys.saved_key(ALICE) == 0
    assert await sync_keys.saved_key(ALICE, 12) == 0


@pytest_twisted.ensureDeferred
async def test_keys_only_rise(sync_keys: ISyncKeys) -> None:
    """A lower key, from another device that lags behind, changes nothing."""
    for key, then in ((5, 5), (9, 9), (7, 9), (9, 9), (10, 10)):
        await sync_keys.save_key(ALICE, key)
        assert await sync_keys.saved_key(ALICE) == then


@pytest_twisted.ensureDeferred
async def test_many_keys_of_one_user_at_once(sync_keys: ISyncKeys) -> None:
    """Of keys that are saved together the highest stays, wherever it stands among them."""
    keys = [*range(2, 300), 1000, *range(300, 10, -1)]
    await gatherResults([sync_keys.save_key(ALICE, key) for key in keys])
    assert await sync_keys.saved_key(ALICE) == 1000
    await gatherResults([sync_keys.save_key(ALICE, key) for key in (999, 3, 998)])
    assert await sync_keys.saved_key(ALICE) == 1000


@pytest_twisted.ensureDeferred
async def test_users_apps_and_groups_are_apart(sync_keys: ISyncKeys) -> None:
    """Each user has a key of its own timeline and one for each super group."""
    places = [(ALICE, 0), (ALICE, 12), (ALICE, 13), (BOB, 0), (BOB, 12), (UserKey(8, 1), 0), (UserKey(8, 1), 12)]
    await gatherResults([sync_keys.save_key(user, 100 + n, group) for n, (user, group) in enumerate(places)])
    keys = await gatherResults([sync_keys.saved_key(user, group) for user, group in places])
    assert keys == [100, 101, 102, 103, 104, 105, 106]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("key", [0, -1, -(2**63), SAFE_INTEGER, 2**63 - 1])
async def test_keys_that_cannot_be_are_passed_over(sync_keys: ISyncKeys, key: int) -> None:
    """A client cannot spoil its saved key for good."""
    await sync_keys.save_key(ALICE, key)
    assert await sync_keys.saved_key(ALICE) == 0
    await sync_keys.save_key(ALICE, SAFE_INTEGER - 1)
    await sync_keys.save_key(ALICE, key)
    assert await sync_keys.saved_key(ALICE) == SAFE_INTEGER - 1
