"""ITimelines, as storage and the fake have to do it."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from imserver.interfaces import ITimelines
from imserver.model import (
    EMPTY_TIMELINE,
    GROUP_TIMELINE,
    USER_TIMELINE,
    Entry,
    NewMessage,
    Resend,
    Stored,
    TimelineKey,
    UserKey,
)
from tests.contract.sql_storage import SqlStorage
from tests.contract.storing import store
from tests.fakes.timelines import FakeTimelines

PAGE_BYTES = 1000
IM = 4


def user(uid: int, appid: int = 7) -> TimelineKey:
    return TimelineKey(appid, USER_TIMELINE, uid)


ALICE, BOB, CAROL = user(1), user(2), user(3)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_twisted.async_yield_fixture
async def storage(tmp_path: Path, clock: Clock) -> AsyncIterator[SqlStorage]:
    storage = SqlStorage(tmp_path, clock, PAGE_BYTES)
    yield storage
    await storage.stop()


@pytest.fixture(params=["fake", "sql"])
def timelines(request: pytest.FixtureRequest, clock: Clock) -> ITimelines:
    if request.param == "fake":
        return FakeTimelines(clock, PAGE_BYTES)
    found: SqlStorage = request.getfixturevalue("storage")
    return found.timelines


def message(
    body: bytes,
    *to: TimelineKey,
    digest: bytes = b"",
    window: int = 600,
    device: int = 0,
    flag: int = 0,
    created: int = 1_700_000_000,
    sender: int = 1,
    own: int = 0,
) -> NewMessage:
    resend = Resend(digest.ljust(16, b"\0"), window) if digest else None
    return NewMessage(IM, flag, body, created, to, device, resend, UserKey(7, sender), own)


def test_implements_the_interface(timelines: ITimelines) -> None:
    """Storage and its fake have all methods, with these arguments."""
    assert verifyObject(ITimelines, timelines)


@pytest_twisted.ensureDeferred
async def test_an_empty_timeline_stands_at_one(timelines: ITimelines) -> None:
    """protocol.md: a timeline without entries stands at 1, and there is nothing to read."""
    assert await timelines.head(ALICE) == EMPTY_TIMELINE == 1
    assert list(await timelines.read(ALICE, 0, 10)) == []


@pytest_twisted.ensureDeferred
async def test_keys_are_dense_from_two_on(timelines: ITimelines) -> None:
    """2, 3, 4, … in each timeline by itself, whoever else stands in a message."""
    assert (await store(timelines, message(b"1", ALICE, BOB))).keys == (2, 2)
    assert (await store(timelines, message(b"2", ALICE, CAROL))).keys == (3, 2)
    assert (await store(timelines, message(b"3", BOB, ALICE))).keys == (3, 4)
    assert [await timelines.head(timeline) for timeline in (ALICE, BOB, CAROL)] == [4, 3, 2]


@pytest_twisted.ensureDeferred
async def test_messages_stored_together_get_keys_in_their_order(timelines: ITimelines) -> None:
    """What is stored without waiting is answered in order, with rising dense keys, over the size of any batch."""
    fired: list[int] = []

    def remember(stored: Stored, number: int) -> Stored:
        fired.append(number)
        return stored

    waiting = [store(timelines, message(b"%d" % n, ALICE, BOB)).addCallback(remember, n) for n in range(1500)]
    stored = await gatherResults(waiting)
    assert fired == list(range(1500))
    assert [one.keys for one in stored] == [(n, n) for n in range(2, 1502)]
    assert len({one.message for one in stored}) == 1500
    assert not any(one.resent for one in stored)
    read: list[Entry] = []
    while page := await timelines.read(BOB, read[-1].key if read else 0, 3000):
        read += page
    assert [(entry.key, entry.body) for entry in read] == [(n + 2, b"%d" % n) for n in range(1500)]


@pytest_twisted.ensureDeferred
async def test_an_entry_is_as_it_was_stored(timelines: ITimelines) -> None:
    """Command, flag and body come back; the device stands in the first timeline only."""
    body = bytes(range(256))
    await store(timelines, NewMessage(64, 1, body, 5, (ALICE, BOB), 9))
    await store(timelines, message(b"", BOB, ALICE, device=2**31 - 1))
    assert list(await timelines.read(ALICE, 0, 10)) == [Entry(2, 64, 1, body, 9), Entry(3, IM, 0, b"", 0)]
    assert list(await timelines.read(BOB, 0, 10)) == [Entry(2, 64, 1, body, 0), Entry(3, IM, 0, b"", 2**31 - 1)]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("own", range(3))
async def test_the_device_stands_in_the_senders_timeline(timelines: ITimelines, own: int) -> None:
    """Whichever of the timelines that is."""
    await store(timelines, message(b"hello", ALICE, BOB, CAROL, device=9, own=own))
    devices = [(await timelines.read(timeline, 0, 10))[0].device for timeline in (ALICE, BOB, CAROL)]
    assert devices == [9 if place == own else 0 for place in range(3)]


@pytest_twisted.ensureDeferred
async def test_a_message_to_oneself_stands_once(timelines: ITimelines) -> None:
    """A message may have a single timeline."""
    assert (await store(timelines, message(b"note", ALICE, device=3))).keys == (2,)
    assert list(await timelines.read(ALICE, 0, 10)) == [Entry(2, IM, 0, b"note", 3)]


@pytest_twisted.ensureDeferred
async def test_a_message_in_thousands_of_timelines(timelines: ITimelines) -> None:
    """A normal group of any size: one message, an entry for each member."""
    members = [user(uid) for uid in range(1, 3001)]
    await store(timelines, message(b"before", members[1500]))
    stored = await store(timelines, message(b"hello", *members))
    assert stored.keys == (*[2] * 1500, 3, *[2] * 1499)
    for uid in (1, 1501, 3000):
        assert (await timelines.read(user(uid), 0, 10))[-1].body == b"hello"


@pytest_twisted.ensureDeferred
async def test_timelines_of_apps_and_of_groups_are_apart(timelines: ITimelines) -> None:
    """The same number in another app, or as a group, is somebody else."""
    others = (user(1, appid=8), TimelineKey(7, GROUP_TIMELINE, 1))
    await store(timelines, message(b"mine", ALICE))
    await store(timelines, message(b"theirs", *others))
    assert [entry.body for entry in await timelines.read(ALICE, 0, 10)] == [b"mine"]
    for other in others:
        assert [entry.body for entry in await timelines.read(other, 0, 10)] == [b"theirs"]


@pytest_twisted.ensureDeferred
async def test_numbers_up_to_their_limits(timelines: ITimelines) -> None:
    """int64 at both ends, as the protocol carries them."""
    ends = (user(2**63 - 1, appid=2**63 - 1), user(-(2**63), appid=1))
    assert (await store(timelines, message(b"far", *ends, digest=b"d"))).keys == (2, 2)
    for end in ends:
        assert await timelines.head(end) == 2


@pytest_twisted.ensureDeferred
async def test_reads_begin_after_a_key_and_end_at_the_limit(timelines: ITimelines) -> None:
    """The oldest first; beyond the end nothing; before the beginning everything."""
    await gatherResults([store(timelines, message(b"%d" % n, ALICE)) for n in range(10)])
    assert [entry.key for entry in await timelines.read(ALICE, 4, 3)] == [5, 6, 7]
    assert [entry.key for entry in await timelines.read(ALICE, 10, 3)] == [11]
    assert list(await timelines.read(ALICE, 11, 3)) == []
    assert list(await timelines.read(ALICE, 2**62, 3)) == []
    assert [entry.key for entry in await timelines.read(ALICE, -5, 2)] == [2, 3]


@pytest_twisted.ensureDeferred
async def test_reads_end_where_the_page_is_full(timelines: ITimelines) -> None:
    """A page has so many bytes at most, but at least one entry, however large."""
    for size in (400, 600, 1, 32_767, 500, 501):
        await store(timelines, message(b"x" * size, ALICE))
    pages = []
    after = 0
    while page := await timelines.read(ALICE, after, 3000):
        pages.append([len(entry.body) for entry in page])
        after = page[-1].key
    assert pages == [[400, 600], [1], [32_767], [500], [501]]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("number", [0, 1, 2, 3, 40])
async def test_reads_of_what_was_created_after_a_time(timelines: ITimelines, number: int) -> None:
    """Of what was created until then nothing is given, wherever the read begins and however many there are of each."""
    created = [100 + 10 * (n // 3) for n in range(number)]
    await gatherResults([store(timelines, message(b"%d" % n, ALICE, created=at)) for n, at in enumerate(created)])
    for time in (1, 99, 100, 101, 109, 110, 155, 1000):
        for after in (-5, 0, 1, 2, 7, number + 1, 2**62):
            read = await timelines.read(ALICE, after, 5, time)
            wanted = [n + 2 for n in range(number) if created[n] > time and n + 2 > after]
            assert [entry.key for entry in read] == wanted[:5], (time, after)


@pytest_twisted.ensureDeferred
async def test_a_resend_is_answered_like_the_first(timelines: ITimelines) -> None:
    """Nothing is stored again; the key is that of the first in the first timeline."""
    await store(timelines, message(b"other", ALICE, BOB))
    first = await store(timelines, message(b"hi", ALICE, BOB, digest=b"d1"))
    assert first.keys == (3, 3)
    await store(timelines, message(b"between", ALICE, BOB, digest=b"d2"))
    again = await store(timelines, message(b"hi", ALICE, BOB, digest=b"d1"))
    assert again == Stored(first.message, (3,), resent=True)
    assert [entry.body for entry in await timelines.read(BOB, 0, 10)] == [b"other", b"hi", b"between"]
    assert await timelines.head(ALICE) == 4


@pytest_twisted.ensureDeferred
async def test_a_resend_that_comes_with_the_first(timelines: ITimelines) -> None:
    """The first and its resends may wait for the same transaction."""
    waiting = [
        store(timelines, message(b"a", ALICE, BOB, digest=b"d")),
        store(timelines, message(b"b", ALICE, BOB)),
        store(timelines, message(b"a", ALICE, BOB, digest=b"d")),
        store(timelines, message(b"c", ALICE, BOB, digest=b"e")),
        store(timelines, message(b"a", ALICE, BOB, digest=b"d")),
    ]
    stored = await gatherResults(waiting)
    assert [one.keys for one in stored] == [(2, 2), (3, 3), (2,), (4, 4), (2,)]
    assert [one.resent for one in stored] == [False, False, True, False, True]
    assert stored[2].message == stored[4].message == stored[0].message
    assert [entry.body for entry in await timelines.read(BOB, 0, 10)] == [b"a", b"b", b"c"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("together", [False, True])
async def test_a_resend_by_who_stands_elsewhere_among_the_timelines(timelines: ITimelines, together: bool) -> None:
    """Members of a group come and go: the sender's timeline is another one of the message's, and its key is told."""
    await store(timelines, message(b"before", BOB, sender=2))
    sent = (
        message(b"hi", ALICE, BOB, CAROL, digest=b"d", sender=2, own=1),
        message(b"hi", BOB, CAROL, digest=b"d", sender=2, own=0),
        message(b"hi", *map(user, range(-5, 4)), digest=b"d", sender=2, own=7),
    )
    if together:
        first, *again = await gatherResults([store(timelines, one) for one in sent])
    else:
        first, *again = [await store(timelines, one) for one in sent]
    assert first.keys == (2, 3, 2)
    assert again == [Stored(first.message, (3,), resent=True)] * 2
    assert await timelines.head(CAROL) == 2


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("group_id", [1, 5])
async def test_a_resend_into_another_timeline(timelines: ITimelines, together: bool, group_id: int) -> None:
    """The group became a super group: nothing is stored again, and there is no key, for that of the first is another's
    there."""
    group = TimelineKey(7, GROUP_TIMELINE, group_id)
    await store(timelines, message(b"an entry of the same key", group, sender=3))
    sent = (
        message(b"hi", BOB, ALICE, digest=b"d", own=1),
        message(b"hi", group, digest=b"d"),
        message(b"hi", ALICE, digest=b"d"),
    )
    if together:
        first, *again = await gatherResults([store(timelines, one) for one in sent])
    else:
        first, *again = [await store(timelines, one) for one in sent]
    assert first.keys == (2, 2)
    assert again == [Stored(first.message, keys, resent=True) for keys in ((), (2,))]
    assert await timelines.head(group) == 2


@pytest_twisted.ensureDeferred
async def test_a_resend_counts_within_its_window_only(timelines: ITimelines, clock: Clock) -> None:
    """Later the same digest is a message of its own, and a second one is again a resend of that."""
    first = await store(timelines, message(b"hi", ALICE, digest=b"d", window=600))
    clock.seconds += 599
    assert (await store(timelines, message(b"hi", ALICE, digest=b"d", window=600))).resent
    clock.seconds += 1
    second = await store(timelines, message(b"hi", ALICE, digest=b"d", window=600))
    assert (second.keys, second.resent) == ((3,), False)
    assert second.message != first.message
    clock.seconds += 599
    assert await store(timelines, message(b"hi", ALICE, digest=b"d")) == Stored(second.message, (3,), resent=True)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(10))
async def test_does_what_the_model_does(timelines: ITimelines, clock: Clock, seed: int) -> None:
    """Any messages, stored in bursts of any size, end as a plain list says."""
    rng = random.Random(seed)
    model = FakeTimelines(clock, PAGE_BYTES)
    owners = [user(uid, appid) for uid in range(6) for appid in (7, 8)]
    for _ in range(12):
        burst = []
        for number in range(rng.choice((1, 2, 3, 40, 700))):
            to = rng.sample(owners, rng.randint(1, 4))
            digest = rng.choice((b"", b"%d" % rng.randrange(30)))
            if digest:  # a digest tells senders apart
                to[0] = owners[int(digest) % len(owners)]
                to[1:] = [other for other in to[1:] if other != to[0]]
            burst.append(message(b"%d" % number, *to, digest=digest, device=rng.randrange(3)))
        stored = await gatherResults([store(timelines, one) for one in burst])
        assert stored == [await store(model, one) for one in burst]
        clock.seconds += rng.choice((0, 1, 599, 600))
    for owner in owners:
        assert await timelines.head(owner) == await model.head(owner)
        after = rng.randrange(20)
        assert list(await timelines.read(owner, after, 25)) == list(await model.read(owner, after, 25))


@pytest_twisted.ensureDeferred
async def test_results_may_store_again(timelines: ITimelines) -> None:
    """A callback of one message that stores the next takes its place behind those that wait already."""

    def answer(_stored: Stored) -> Deferred[Stored]:
        return store(timelines, message(b"answer", BOB, ALICE))

    first = store(timelines, message(b"question", ALICE, BOB)).addCallback(answer)
    second = store(timelines, message(b"more", ALICE, BOB))
    await gatherResults([first, second])
    bodies = [entry.body for entry in await timelines.read(ALICE, 0, 10)]
    assert sorted(bodies) == [b"answer", b"more", b"question"]
    assert bodies[0] == b"question"
