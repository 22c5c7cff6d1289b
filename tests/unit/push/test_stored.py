"""Pushes that wait, on SQLite: order, bound, and that ids are never given twice."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest_twisted
from twisted.internet.defer import gatherResults

from imserver.push.payload import GroupPush, OfflinePush, SystemPush
from imserver.push.stored import Change, StoredPush, StoredPushes
from tests.contract.push_house import Lanes


@pytest_twisted.async_yield_fixture
async def lanes(tmp_path: Path) -> AsyncIterator[Lanes]:
    lanes = Lanes(tmp_path)
    yield lanes
    await lanes.stop()


def system(*uids: int, content: str = "{}") -> list[OfflinePush]:
    return [SystemPush(appid=7, receiver=uid, content=content) for uid in uids]


def uids(pushes: Sequence[StoredPush]) -> list[int]:
    return [user.uid for push in pushes for user in push.push().users]


@pytest_twisted.ensureDeferred
async def test_what_was_added_comes_back(lanes: Lanes) -> None:
    """Each with its queue, its time and all its members."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 10)
    group = GroupPush(appid=7, sender=1, receivers=(2, 3), group_id=1000, content='{"text":"ü"}')
    assert await waiting.add([group], 5) == Change(deleted=0, waiting=1)
    assert await waiting.add(system(4), 6) == Change(deleted=0, waiting=2)
    found, count = await waiting.oldest(10)
    assert [(push.id, push.queue, push.created) for push in found] == [
        (1, "group_push_queue", 5),
        (2, "system_push_queue", 6),
    ]
    assert [push.push() for push in found] == [group, *system(4)]
    assert count == 2


@pytest_twisted.ensureDeferred
async def test_oldest_first_and_no_more_than_asked_for(lanes: Lanes) -> None:
    """In the order in which they were added, also those that were written together; the rest is counted."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 100)
    assert await waiting.oldest(10) == ([], 0)
    await gatherResults([waiting.add(system(uid, uid + 1), 5) for uid in range(0, 40, 2)])
    found, count = await waiting.oldest(7)
    assert uids(found) == list(range(7))
    assert count == 40


@pytest_twisted.ensureDeferred
async def test_a_page_has_so_many_bytes(lanes: Lanes) -> None:
    """Large ones are read a few at a time; one that is larger than a page is read alone."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 100)
    large = "x" * 100_000
    await waiting.add([*system(1, content="x" * 300_000), *system(2, 3, 4, content=large)], 5)
    found, _ = await waiting.oldest(10)
    assert uids(found) == [1]
    await waiting.delete([found[0].id])
    found, count = await waiting.oldest(10)
    assert uids(found) == [2, 3]
    assert count == 3


@pytest_twisted.ensureDeferred
async def test_the_oldest_make_room(lanes: Lanes) -> None:
    """Never more than the bound, exactly it once it was reached; each that goes is told once."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 5)
    assert await waiting.add(system(1, 2, 3, 4), 5) == Change(deleted=0, waiting=4)
    assert await waiting.add(system(5, 6, 7), 5) == Change(deleted=2, waiting=5)
    assert uids((await waiting.oldest(10))[0]) == [3, 4, 5, 6, 7]
    changes = await gatherResults([waiting.add(system(uid), 5) for uid in range(8, 28)])
    assert sum(change.deleted for change in changes) == 20
    assert changes[-1].waiting == 5
    assert uids((await waiting.oldest(10))[0]) == [23, 24, 25, 26, 27]
    # Of more than there is room for, the last.
    assert await waiting.add(system(*range(100, 120)), 5) == Change(deleted=20, waiting=5)
    assert uids((await waiting.oldest(10))[0]) == [115, 116, 117, 118, 119]


@pytest_twisted.ensureDeferred
async def test_room_that_was_made_by_delivery_counts(lanes: Lanes) -> None:
    """What was deleted does not wait any more."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 3)
    await waiting.add(system(1, 2, 3), 5)
    assert await waiting.delete([1, 2]) == Change(deleted=2, waiting=1)
    assert await waiting.add(system(4, 5), 5) == Change(deleted=0, waiting=3)
    assert uids((await waiting.oldest(10))[0]) == [3, 4, 5]


@pytest_twisted.ensureDeferred
async def test_deleting_what_is_gone(lanes: Lanes) -> None:
    """Says how many were still there, and touches nothing else."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 2)
    await waiting.add(system(1, 2, 3), 5)
    assert await waiting.delete([1, 2]) == Change(deleted=1, waiting=1)
    assert await waiting.delete([1, 2]) == Change(deleted=0, waiting=1)
    assert uids((await waiting.oldest(10))[0]) == [3]
    assert await waiting.delete([3]) == Change(deleted=1, waiting=0)


@pytest_twisted.ensureDeferred
async def test_ids_are_never_given_twice(lanes: Lanes, tmp_path: Path) -> None:
    """Not after all were deleted, and not after a restart: receivers take a second push with an id for a repetition."""
    waiting = StoredPushes(lanes.writes, lanes.reads, 10)
    await waiting.add(system(1, 2), 5)
    await waiting.delete([1, 2])
    await waiting.add(system(3), 5)
    await waiting.delete([3])
    await lanes.writes.stop()
    again = Lanes(tmp_path)
    waiting = StoredPushes(again.writes, again.reads, 10)
    await waiting.add(system(4), 5)
    found, _ = await waiting.oldest(10)
    assert [push.id for push in found] == [4]
    await again.stop()
