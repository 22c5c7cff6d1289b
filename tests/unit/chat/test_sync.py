"""SYNC and SYNC_KEY: what a device missed."""

import pytest
from twisted.internet.defer import Deferred

from imserver.interfaces import Unavailable
from imserver.model import SYNC_ENTRIES, UserKey, user_timeline
from imserver.protocol.commands import Flag, Platform
from imserver.protocol.messages import IM, Ack, Message, Metadata, Sync, SyncBegin, SyncEnd, SyncKey, SyncNotify
from tests.fakes.chat import FakeConnection, Said
from tests.unit.chat.world import APP, NOW, World, plain, pushed

ALICE, BOB = 1, 2
OF_ALICE = UserKey(APP, ALICE)


def answer(begin: int, entries: list[IM], end: int, *after: Message) -> list[Said]:
    return plain([SyncBegin(begin), *entries, SyncEnd(end), *after])


def saved(world: World, uid: int = ALICE) -> int:
    return world.timelines.saved.get((UserKey(APP, uid), 0), 0)


# Keys


@pytest.mark.parametrize(("key", "begin"), [(0, 0), (1, 1), (2, 2), (2**53, 2**53)])
def test_empty_timeline(world: World, key: int, begin: int) -> None:
    """It stands at 1, and so does everybody who synced it."""
    assert world.sync(world.connect(ALICE), key) == answer(begin, [], 1)


def test_first_message_after_an_empty_sync(world: World) -> None:
    """It follows on what the client holds, so that it is taken as it is pushed; so does the first ACK."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    assert world.sync(alice, 0)[-1] == world.sync(bob, 0)[-1] == Said(SyncEnd(1))
    alice.forget()
    bob.forget()
    world.say(alice, IM(ALICE, BOB, 0, 1, b"hello"))
    assert bob.said == pushed(2, IM(ALICE, BOB, NOW, 1, b"hello"))
    assert alice.said == plain([Metadata(2, 1), Ack(1)])


@pytest.mark.parametrize("after", range(5))
def test_entries_after_a_key(world: World, after: int) -> None:
    """The client gets what comes after the key that it has, oldest first, and the key of the last."""
    sent = world.fill(ALICE, 4)  # keys 2 to 5
    assert world.sync(world.connect(ALICE), after + 1) == answer(after + 1, sent[after:], 5)


@pytest.mark.parametrize(
    ("key", "dropped", "end"),
    [
        (3, False, 5),  # it has all until now, and takes what is pushed
        (3, True, 3),  # but for what it was not given
        (0, False, 3),  # who has nothing takes no push
        (9, False, 3),  # nor who is ahead
    ],
)
def test_pushed_while_the_end_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch, key: int, dropped: bool, end: int
) -> None:
    """A client that took pushes meanwhile must not be told to go back behind them, nor others to go beyond what they
    have."""
    world.fill(ALICE, 2)  # keys 2 and 3
    world.timelines.saved[OF_ALICE, 0] = 3
    alice, bob = world.connect(ALICE), world.connect(BOB)
    head: Deferred[int] = Deferred()
    monkeypatch.setattr(world.timelines, "head", lambda _timeline: head)
    world.say(alice, Sync(key))
    for n in range(2):
        world.say(bob, IM(BOB, ALICE, 0, n + 1, b"meanwhile"))
    assert [said.message for said in alice.said if isinstance(said.message, Metadata)] == [
        Metadata(4, 3),
        Metadata(5, 4),
    ]
    if dropped:
        alice.noted.clear()
    head.callback(3)
    assert alice.said[-2:] == answer(key or 3, [], end)
    assert alice.watched is None


def test_an_entry_that_is_not_pushed_while_the_end_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is only told that there is something: what comes after it, it does not take."""
    alice = world.connect(ALICE)
    head: Deferred[int] = Deferred()
    monkeypatch.setattr(world.timelines, "head", lambda _timeline: head)
    world.say(alice, Sync(1))
    world.chat.posts.system(APP, [ALICE], b"notice")
    world.chat.posts.peer(APP, BOB, ALICE, b"hello")
    head.callback(1)
    assert alice.said[-2:] == answer(1, [], 1)


def test_from_the_beginning(world: World) -> None:
    """With 0, and nothing remembered, the client gets all."""
    sent = world.fill(ALICE, 4)
    assert world.sync(world.connect(ALICE), 0) == answer(0, sent, 5)


def test_from_the_saved_key(world: World) -> None:
    """With 0 the server goes on from the key that it remembers, and says so. With a key of one's own it does not."""
    sent = world.fill(ALICE, 4)
    alice = world.connect(ALICE)
    world.say(alice, SyncKey(3))
    assert world.sync(alice, 0) == answer(3, sent[2:], 5)
    assert world.sync(alice, 1) == answer(1, sent, 5)


def test_saved_key_of_another_user(world: World) -> None:
    """What one user has says nothing about another, nor about the same number in another app."""
    sent = world.fill(ALICE, 2)
    world.say(world.connect(BOB), SyncKey(3))
    world.say(world.connect(ALICE, appid=8), SyncKey(3))
    assert world.sync(world.connect(ALICE), 0) == answer(0, sent, 3)


@pytest.mark.parametrize("key", [6, 1000, 2**53, 2**63 - 1])
def test_key_beyond_the_end(world: World, key: int) -> None:
    """A client from before a restored backup is told the real end, which is lower."""
    world.fill(ALICE, 4)
    assert world.sync(world.connect(ALICE), key) == answer(key, [], 5)


def test_saved_key_beyond_the_end(world: World) -> None:
    """The same where it is the server that remembers too much: the client stands at the end, and hears what follows."""
    world.fill(ALICE, 4)
    alice = world.connect(ALICE)
    world.say(alice, SyncKey(1000))
    assert world.sync(alice, 0) == answer(5, [], 5)


@pytest.mark.parametrize("key", [-1, -(2**63)])
def test_key_below_0(world: World, key: int) -> None:
    """There is no such key; it is taken for 0."""
    sent = world.fill(ALICE, 2)
    assert world.sync(world.connect(ALICE), key) == answer(0, sent, 3)


def test_timelines_of_others(world: World) -> None:
    """A user of the same number in another app has another timeline."""
    world.fill(ALICE, 2)
    assert world.sync(world.connect(ALICE, appid=8), 0) == answer(0, [], 1)


# Entries


def test_flags_of_entries(world: World) -> None:
    """SELF on what this device sent itself, TEXT as it was sent, PUSH never."""
    phone, tablet, bob = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet"), world.connect(BOB)
    for connection, sender, receiver, flag in (
        (phone, ALICE, BOB, Flag.TEXT),
        (tablet, ALICE, BOB, 0),
        (bob, BOB, ALICE, 0xFF),
        (phone, ALICE, ALICE, 0),
    ):
        world.say(connection, IM(sender, receiver, 0, 0, b"hello"), flag)
    of_phone = [Flag.TEXT | Flag.SELF, 0, Flag.TEXT, Flag.SELF]
    of_tablet = [Flag.TEXT, Flag.SELF, Flag.TEXT, 0]
    assert [said.flag for said in world.sync(phone, 1)[1:-1]] == of_phone
    assert [said.flag for said in world.sync(tablet, 1)[1:-1]] == of_tablet
    assert [said.flag for said in world.sync(bob, 1)[1:-1]] == [Flag.TEXT, 0, Flag.TEXT]


def test_self_across_connections(world: World) -> None:
    """A device is known again by its number, not by its connection."""
    phone = world.connect(ALICE, b"phone")
    world.say(phone, IM(ALICE, BOB, 0, 0, b"hello"))
    world.leave(phone)
    assert world.sync(world.connect(ALICE, b"phone"), 1)[1].flag == Flag.SELF
    assert world.sync(world.connect(ALICE, b"phone", Platform.IOS), 1)[1].flag == 0


def test_no_self_on_a_phone_that_two_users_share(world: World) -> None:
    """What somebody else sent from this device was not sent by its user of today."""
    world.say(world.connect(BOB, b"phone"), IM(BOB, ALICE, 0, 0, b"hello"))
    assert world.sync(world.connect(ALICE, b"phone"), 1)[1].flag == 0


def test_web_is_no_device(world: World) -> None:
    """Device 0 is every browser: nothing was sent from «this» one."""
    web = world.connect(ALICE, b"guid", Platform.WEB)
    world.say(web, IM(ALICE, BOB, 0, 0, b"hello"))
    assert world.sync(web, 1)[1].flag == 0


@pytest.mark.parametrize("sent_by", [0, 1, 2])
@pytest.mark.parametrize("read_by", [0, 1, 2])
def test_versions(world: World, sent_by: int, read_by: int) -> None:
    """Whatever version a message came in, it is read in the version of who syncs."""
    world.say(world.connect(BOB, version=sent_by), IM(BOB, ALICE, 5, 7, b"hello"))
    alice = world.connect(ALICE, version=read_by)
    assert world.sync(alice, 1)[1].message == IM(BOB, ALICE, 0 if read_by == 0 else NOW, 7, b"hello")


def test_replies_are_not_dropped(world: World) -> None:
    """A sync answer is made of replies, entries too."""
    world.fill(ALICE, 4)
    alice = world.connect(ALICE)
    world.sync(alice, 1)
    assert alice.pushes == []
    assert world.metrics.sync_entries.values == {"": 4}


# Large answers


@pytest.mark.parametrize("page", [SYNC_ENTRIES + 5, SYNC_ENTRIES, SYNC_ENTRIES - 1, 700])
@pytest.mark.parametrize("number", [SYNC_ENTRIES - 1, SYNC_ENTRIES, SYNC_ENTRIES + 1])
def test_border(world: World, number: int, page: int) -> None:
    """At most 3000 entries in one answer, however many fit a page; where there are more, the client is told so."""
    sent = world.fill(ALICE, number)
    world.timelines.page = page
    alice = world.connect(ALICE)
    if number <= 3000:
        assert world.sync(alice, 0) == answer(0, sent, number + 1)
        return
    assert world.sync(alice, 0) == answer(0, sent[:3000], 3001, SyncNotify(3002))
    assert world.sync(alice, 3001) == answer(3001, sent[3000:], 3002)


def test_page_by_page(world: World) -> None:
    """The next page is read when the client has taken the one before, so that one page stands in memory."""
    sent = world.fill(ALICE, 5)
    world.timelines.page = 2
    alice = world.connect(ALICE)
    alice.full = True
    done = world.say(alice, Sync(1))
    assert done is not None
    assert alice.said == plain([SyncBegin(1), *sent[:2]])
    alice.drain()
    assert alice.said == plain([SyncBegin(1), *sent[:4]])
    assert not done.called
    alice.drain()
    assert alice.said == answer(1, sent, 6)
    assert done.called


def test_connection_lost_between_pages(world: World) -> None:
    """Nobody reads on for a client that is gone."""
    sent = world.fill(ALICE, 5)
    world.timelines.page = 2
    alice = world.connect(ALICE)
    alice.full = True
    done = world.say(alice, Sync(1))
    world.timelines.reads = [Deferred()]
    world.leave(alice)
    assert done is not None
    assert done.called
    assert len(world.timelines.reads) == 1
    assert alice.said == plain([SyncBegin(1), *sent[:2]])


@pytest.mark.parametrize("reads_done", range(3))
def test_connection_lost_while_reading(world: World, reads_done: int) -> None:
    """It ends without an error wherever it stands: before the head is known, the saved key, the first entries."""
    world.fill(ALICE, 5)
    world.timelines.page = 2
    waiting: list[Deferred[None]] = [Deferred() for _ in range(3)]
    world.timelines.reads = list(waiting)
    alice = world.connect(ALICE)
    done = world.say(alice, Sync(0))
    for read in waiting[:reads_done]:
        read.callback(None)
    world.leave(alice)
    for read in waiting[reads_done:]:
        read.callback(None)
    assert done is not None
    assert done.called
    assert len(alice.said) == (reads_done == 2)
    assert world.metrics.sync_entries.values == {"": 0}


# Retention


@pytest.mark.parametrize(("key", "begin"), [(0, 0), (1, 1), (3, 3)])
def test_oldest_are_gone(world: World, key: int, begin: int) -> None:
    """A client whose key lies before what is kept gets what is there."""
    sent = world.fill(ALICE, 6)  # keys 2 to 7
    world.timelines.forget(user_timeline(OF_ALICE), 5)
    assert world.sync(world.connect(ALICE), key) == answer(begin, sent[3:], 7)


def test_all_are_gone(world: World) -> None:
    """Then there is nothing, but the client stands at the end."""
    world.fill(ALICE, 6)
    world.timelines.forget(user_timeline(OF_ALICE), 100)
    assert world.sync(world.connect(ALICE), 3) == answer(3, [], 7)


def test_the_rest_goes_while_it_is_read(world: World) -> None:
    """What retention takes between two pages is not waited for."""
    sent = world.fill(ALICE, 6)
    world.timelines.page = 2
    alice = world.connect(ALICE)
    alice.full = True
    world.say(alice, Sync(1))
    world.timelines.forget(user_timeline(OF_ALICE), 100)
    alice.drain()
    assert alice.said == answer(1, sent[:2], 7)


def test_border_counts_entries_not_keys(world: World) -> None:
    """Keys that are gone are not among the 3000."""
    sent = world.fill(ALICE, 3010)
    world.timelines.forget(user_timeline(OF_ALICE), 7)  # five are gone
    assert world.sync(world.connect(ALICE), 1) == answer(1, sent[5:3005], 3006, SyncNotify(3007))


# Entries that come meanwhile


def test_entry_between_two_pages(world: World) -> None:
    """It is pushed, which the client refuses, out of step as it is; then its notice makes the client sync again."""
    sent = world.fill(ALICE, 4)
    world.timelines.page = 2
    alice, bob = world.connect(ALICE), world.connect(BOB)
    alice.full = True
    world.say(alice, Sync(1))
    world.say(bob, IM(BOB, ALICE, 0, 1, b"new"))
    alice.drain()
    new = IM(BOB, ALICE, NOW, 1, b"new")
    assert alice.said == [*plain([SyncBegin(1), *sent[:2]]), *pushed(6, new), *plain([*sent[2:], SyncEnd(5)])]
    assert world.sync(alice, 5) == answer(5, [new], 6)


def test_entry_between_head_and_first_page(world: World) -> None:
    """What is read although it came after the head was asked counts: END carries the last key that was sent."""
    sent = world.fill(ALICE, 2)
    head: Deferred[None] = Deferred()
    page: Deferred[None] = Deferred()
    world.timelines.reads = [head, page]
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, Sync(1))
    head.callback(None)
    world.say(bob, IM(BOB, ALICE, 0, 1, b"new"))
    alice.forget()
    page.callback(None)
    assert alice.said == plain([*sent, IM(BOB, ALICE, NOW, 1, b"new"), SyncEnd(4)])


# When the database does not answer


@pytest.mark.parametrize("key", [0, 1, 3, 2**53])
def test_unavailable(world: World, key: int) -> None:
    """The answer is empty, so that the client keeps its key; it is not told to come back at once."""
    world.fill(ALICE, 4)
    alice = world.connect(ALICE)
    world.timelines.unavailable = True
    assert world.sync(alice, key) == answer(key, [], key)


@pytest.mark.parametrize("which", [0, 1])
def test_head_or_saved_key_unavailable(world: World, which: int) -> None:
    """The same where only one of the two that are asked first does not answer."""
    world.fill(ALICE, 4)
    alice = world.connect(ALICE)
    reads: list[Deferred[None]] = [Deferred(), Deferred()]
    world.timelines.reads = list(reads)
    done = world.say(alice, Sync(0))
    reads[which].errback(Unavailable("as the test wants it"))
    assert done is not None
    if not done.called:
        reads[1 - which].callback(None)
    assert alice.said == answer(0, [], 0)
    assert done.called


def test_head_and_saved_key_are_asked_together(world: World) -> None:
    """Each has its deadline; one after the other they could take twice as long, and the client would ask again."""
    world.fill(ALICE, 1)
    reads: list[Deferred[None]] = [Deferred(), Deferred()]
    world.timelines.reads = list(reads)
    alice = world.connect(ALICE)
    world.say(alice, Sync(0))
    assert world.timelines.reads == []
    for read in reads:
        read.callback(None)
    assert len(alice.said) == 3


def test_first_page_unavailable(world: World) -> None:
    """Nothing was sent: the client keeps its key, and asks again later rather than at once, for ever."""
    world.fill(ALICE, 4)
    alice = world.connect(ALICE)
    page: Deferred[None] = Deferred()
    world.say(alice, SyncKey(3))
    for key, begin in ((1, 1), (0, 3)):
        alice.forget()
        world.timelines.reads = [*(Deferred[None]() for _ in range(1 if key else 2)), page]
        for read in world.timelines.reads[:-1]:
            read.callback(None)
        page.errback(Unavailable("as the test wants it"))
        world.say(alice, Sync(key))
        assert alice.said == answer(begin, [], begin)
        page = Deferred()


def test_later_page_unavailable(world: World) -> None:
    """What was sent counts, and the client is told that there is more."""
    sent = world.fill(ALICE, 5)
    world.timelines.page = 2
    alice = world.connect(ALICE)
    alice.full = True
    world.say(alice, Sync(1))
    world.timelines.unavailable = True
    alice.drain()
    assert alice.said == answer(1, sent[:2], 3, SyncNotify(4))
    world.timelines.unavailable = False
    alice.full = False
    assert world.sync(alice, 3) == answer(3, sent[2:], 6)


# SYNC_KEY


@pytest.mark.parametrize("key", [1, 2, 2**53 - 1])
def test_sync_key(world: World, key: int) -> None:
    """It is remembered; there is no answer."""
    alice = world.connect(ALICE)
    done = world.say(alice, SyncKey(key))
    assert done is not None
    assert done.called
    assert (saved(world), alice.units) == (key, [])


def test_sync_key_only_rises(world: World) -> None:
    """A device that lags behind takes nothing back."""
    alice = world.connect(ALICE)
    for key in (5, 3):
        world.say(alice, SyncKey(key))
    assert saved(world) == 5


@pytest.mark.parametrize("key", [0, -1, -(2**63), 2**53, 2**63 - 1])
def test_sync_keys_that_cannot_be(world: World, key: int) -> None:
    """They are not remembered."""
    alice = world.connect(ALICE)
    assert world.say(alice, SyncKey(key)) is None
    assert (world.timelines.saved, alice.units) == ({}, [])
    assert world.metrics.ignored.values == {"sync_key": 1}


def test_sync_key_that_is_not_remembered(world: World) -> None:
    """That costs the client nothing."""
    alice: FakeConnection = world.connect(ALICE)
    world.timelines.unavailable = True
    done = world.say(alice, SyncKey(5))
    assert done is not None
    assert done.called
    assert (alice.units, alice.closing) == ([], "")
