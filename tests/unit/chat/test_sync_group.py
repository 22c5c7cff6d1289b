"""SYNC_GROUP and GROUP_SYNC_KEY: what a device missed of a super group, and what is none of its business."""

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred

from imserver.interfaces import Unavailable
from imserver.model import SYNC_ENTRIES, UserKey, group_timeline
from imserver.protocol.commands import Flag, Platform
from imserver.protocol.messages import (
    Ack,
    GroupIM,
    GroupNotification,
    GroupSyncKey,
    Message,
    Metadata,
    SyncBegin,
    SyncEnd,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
    SyncGroupNotify,
)
from tests.fakes.chat import FakeConnection, Said
from tests.unit.chat.world import APP, NOW, World, plain, pushed_in_group

ALICE, BOB, CAROL, DAVE = 1, 2, 3, 4
SUPER, NORMAL, FOREIGN = 60, 50, 70
TIMELINE = group_timeline(APP, SUPER)


@pytest.fixture
def world() -> World:
    """A super group that was there before anything was said in it, and a normal one, of three each."""
    world = World()
    world.groups.add_group(APP, SUPER, (ALICE, BOB, CAROL), is_super=True, joined=NOW - 1000)
    world.groups.add_group(APP, NORMAL, (ALICE, BOB, CAROL), joined=NOW - 1000)
    world.groups.add_group(8, FOREIGN, (ALICE, BOB, CAROL), is_super=True)
    return world


def fill(world: World, number: int, sender: int = BOB, group: int = SUPER) -> list[GroupIM]:
    """Let somebody say so much in the group. Gives it as it is stored."""
    connection = world.connect(sender)
    for n in range(number):
        world.say(connection, GroupIM(sender, group, 0, 0, b"message %d" % n))
    world.leave(connection)
    stored = world.stored_in_group(group)[-number:] if number else []
    return [message for message in stored if isinstance(message, GroupIM)]


def sync(world: World, connection: FakeConnection, key: int, group: int = SUPER) -> list[Said]:
    """What a client gets that syncs the group from this key."""
    connection.forget()
    world.say(connection, SyncGroup(group, key))
    return connection.said


def answer(begin: int, entries: Sequence[Message], end: int, *more: Message, group: int = SUPER) -> list[Said]:
    flagged = [Said(entry, Flag.SUPER_GROUP) for entry in entries]
    return [Said(SyncGroupBegin(group, begin)), *flagged, Said(SyncGroupEnd(group, end)), *plain(more)]


def nothing(group: int, key: int) -> list[Said]:
    return answer(key, [], key, group=group)


# Where it begins and ends.


@pytest.mark.parametrize("after", range(5))
def test_entries_after_a_key(world: World, after: int) -> None:
    """What comes after the key that the client has, oldest first, and the key of the last."""
    sent = fill(world, 4)  # keys 2 to 5
    assert sync(world, world.connect(ALICE), after + 1) == answer(after + 1, sent[after:], 5)


def test_from_the_saved_key(world: World) -> None:
    """With 0 the server goes on from the key that it remembers of this user and group; without one from the joining."""
    sent = fill(world, 4)
    alice = world.connect(ALICE)
    world.say(alice, GroupSyncKey(SUPER, 3))
    assert sync(world, alice, 0) == answer(3, sent[2:], 5)
    assert sync(world, alice, 1) == answer(1, sent, 5)
    assert sync(world, world.connect(BOB), 0) == answer(0, sent, 5)
    assert world.sync(alice, 0) == plain([SyncBegin(0), SyncEnd(1)])


@pytest.mark.parametrize("key", [5, 6, 2**62])
def test_nothing_new(world: World, key: int) -> None:
    """END carries the group's end, also where it is lower than the key."""
    fill(world, 4)
    assert sync(world, world.connect(ALICE), key) == answer(key, [], 5)


def test_empty_group(world: World) -> None:
    """It stands at 1, so that the first message follows on what the client holds."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    assert sync(world, alice, 0) == answer(0, [], 1)
    alice.forget()
    world.say(bob, GroupIM(BOB, SUPER, 0, 0, b"first"))
    assert alice.said == pushed_in_group(SUPER, 2, GroupIM(BOB, SUPER, NOW, 0, b"first"))


@pytest.mark.parametrize("number", [SYNC_ENTRIES, SYNC_ENTRIES + 1])
def test_border(world: World, number: int) -> None:
    """At most 3000 entries in one answer; where there are more, SYNC_GROUP_NOTIFY says so, and nothing is skipped."""
    sent = fill(world, number)
    world.timelines.page = 700
    alice = world.connect(ALICE)
    if number <= 3000:
        assert sync(world, alice, 0) == answer(0, sent, number + 1)
        return
    assert sync(world, alice, 0) == answer(0, sent[:3000], 3001, SyncGroupNotify(SUPER, 3002))
    assert sync(world, alice, 3001) == answer(3001, sent[3000:], 3002)


def test_page_by_page(world: World) -> None:
    """The next page is read when the client has taken the one before."""
    sent = fill(world, 5)
    world.timelines.page = 2
    alice = world.connect(ALICE)
    alice.full = True
    done = world.say(alice, SyncGroup(SUPER, 1))
    assert done is not None
    assert (alice.said, done.called) == (answer(1, sent[:2], 0)[:-1], False)
    alice.drain()
    alice.drain()
    assert alice.said == answer(1, sent, 6)
    assert done.called


# Who joined when.


@pytest.mark.parametrize("key", [0, 1, 2, 3, -1])
def test_nothing_from_before_the_joining(world: World, key: int) -> None:
    """Whatever the key is: a new member gets what was said after they joined, and is then in step."""
    fill(world, 4)
    world.now += 10
    world.groups.add_members(APP, SUPER, [DAVE])
    world.now += 10
    sent = fill(world, 2)
    assert sync(world, world.connect(DAVE), key) == answer(max(key, 0), sent, 7)
    assert len(sync(world, world.connect(ALICE), key)) > 4


def test_joining_in_the_same_second(world: World) -> None:
    """Both times are whole seconds; still what was said before is not given, and what was said after is, however many
    join one after the other. The times that members see are the clock's."""
    said = [fill(world, 2)]
    for newcomer in range(10, 15):
        world.groups.add_members(APP, SUPER, [newcomer])
        said.append(fill(world, 2))
    world.now += 100
    said[-1] += fill(world, 1)
    for newcomer in range(10, 15):
        after = [message for messages in said[newcomer - 9 :] for message in messages]
        assert sync(world, world.connect(newcomer), 0) == answer(0, after, 14)
    assert sync(world, world.connect(ALICE), 0) == answer(0, world.stored_in_group(SUPER), 14)
    times = [message.timestamp for messages in said for message in messages]
    assert times == [NOW] * 12 + [NOW + 100]


def test_a_group_that_was_just_made(world: World) -> None:
    """The same for its first members, and with one who left at once."""
    world.groups.create(APP, ALICE, "new", [BOB], True, 61)
    said = [fill(world, 1, ALICE, 61)]
    world.groups.add_members(APP, 61, [CAROL])
    said.append(fill(world, 1, CAROL, 61))
    world.groups.remove_members(APP, 61, [CAROL])
    said.append(fill(world, 1, ALICE, 61))
    world.groups.add_members(APP, 61, [DAVE])
    said.append(fill(world, 1, DAVE, 61))
    assert sync(world, world.connect(BOB), 0, 61) == answer(0, world.stored_in_group(61), 5, group=61)
    assert sync(world, world.connect(DAVE), 0, 61) == answer(0, said[3], 5, group=61)


def test_more_than_a_minute_of_joining_at_once(world: World) -> None:
    """Joining times do not run away from the clock: then seconds are all that there is, and nothing is withheld."""
    for newcomer in range(100, 200):
        world.groups.add_members(APP, SUPER, [newcomer])
    (first,) = fill(world, 1)
    world.groups.add_members(APP, SUPER, [DAVE])
    (second,) = fill(world, 1)
    assert sync(world, world.connect(150), 0)[1:-1] == answer(0, [first, second], 3)[1:-1]
    assert sync(world, world.connect(DAVE), 0)[-2].message == second


def test_a_new_member_where_nothing_was_said_since(world: World) -> None:
    """END carries the group's end, so that the next push follows on it."""
    fill(world, 4)
    world.now += 10
    world.groups.add_members(APP, SUPER, [DAVE])
    dave = world.connect(DAVE)
    assert sync(world, dave, 0) == answer(0, [], 5)
    assert sync(world, dave, 5) == answer(5, [], 5)
    dave.forget()
    world.say(world.connect(BOB), GroupIM(BOB, SUPER, 0, 0, b"welcome"))
    assert dave.said == pushed_in_group(SUPER, 6, GroupIM(BOB, SUPER, NOW + 10, 0, b"welcome"))
    assert len(sync(world, dave, 5)) == 3


def test_who_comes_back(world: World) -> None:
    """What was said while they were away is none of theirs, nor what was said before."""
    fill(world, 1)
    world.groups.remove_members(APP, SUPER, [CAROL])
    fill(world, 1)
    world.groups.add_members(APP, SUPER, [CAROL])
    sent = fill(world, 1)
    carol = world.connect(CAROL)
    world.say(carol, GroupSyncKey(SUPER, 2))
    assert sync(world, carol, 0) == answer(2, sent, 4)
    assert sync(world, carol, 1) == answer(1, sent, 4)


def test_notifications_too(world: World) -> None:
    """They carry no time in their bodies, and are given like messages: from after the joining."""
    world.posts.group_notification(APP, SUPER, b'{"before":1}', ())
    world.now += 10
    world.groups.add_members(APP, SUPER, [DAVE])
    world.posts.group_notification(APP, SUPER, b'{"after":1}', ())
    dave = world.connect(DAVE)
    assert sync(world, dave, 1) == answer(1, [GroupNotification(b'{"after":1}')], 3)


def test_a_page_ends_before_the_joining(world: World) -> None:
    """Also with many pages before it: the first page that is read is one of theirs."""
    fill(world, 50)
    world.now += 10
    world.groups.add_members(APP, SUPER, [DAVE])
    world.now += 10
    sent = fill(world, 5)
    world.timelines.page = 2
    assert sync(world, world.connect(DAVE), 1) == answer(1, sent, 56)


def test_joining_times_ahead_of_this_clock(world: World) -> None:
    """Another server's clock may be a little ahead: what is said after the joining is theirs all the same. One that is
    far ahead moves nothing."""
    world.now += 30  # by the clock of who wrote the row
    world.groups.add_members(APP, SUPER, [DAVE])
    world.now -= 30
    sent = fill(world, 1)
    assert sync(world, world.connect(DAVE), 0) == answer(0, sent, 2)
    world.now += 1000
    world.groups.add_members(APP, SUPER, [DAVE + 1])
    world.now -= 1000
    assert fill(world, 1)[0].timestamp == NOW
    assert world.timelines.messages[-1].created == NOW


# Who may.


@pytest.mark.parametrize("key", [0, 1, 7, -1])
@pytest.mark.parametrize(
    ("uid", "group"), [(DAVE, SUPER), (ALICE, NORMAL), (ALICE, FOREIGN), (ALICE, 99), (ALICE, 0), (ALICE, 2**63 - 1)]
)
def test_an_empty_answer(world: World, uid: int, group: int, key: int) -> None:
    """Not a member, a normal group, a group of another app, none at all: nothing, and the client keeps its key."""
    fill(world, 3)
    fill(world, 3, group=NORMAL)
    connection = world.connect(uid)
    world.timelines.reads = [Deferred()]  # nobody is asked
    assert sync(world, connection, key, group) == nothing(group, key)
    assert len(world.timelines.reads) == 1


def test_who_left(world: World) -> None:
    """From then on they get nothing of it, not even of what they had; nor does anybody of a group that is gone."""
    fill(world, 3)
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.groups.remove_members(APP, SUPER, [ALICE])
    assert sync(world, alice, 2) == nothing(SUPER, 2)
    world.groups.disband(APP, SUPER)
    assert sync(world, bob, 2) == nothing(SUPER, 2)


# What is sent.


def test_flags_of_entries(world: World) -> None:
    """SUPER_GROUP on all; SELF on what this user sent from this device, though others share its number; never PUSH."""
    phone, tablet, shared, web = (
        world.connect(ALICE, b"phone"),
        world.connect(ALICE, b"tablet"),
        world.connect(BOB, b"phone"),
        world.connect(ALICE, b"guid", Platform.WEB),
    )
    assert phone.device == shared.device
    for connection, flag in ((phone, Flag.TEXT), (tablet, 0), (shared, 0xFF), (web, 0)):
        world.say(connection, GroupIM(connection.uid, SUPER, 0, 0, b"hello"), flag)
    world.posts.group_notification(APP, SUPER, b"{}", ())
    flags = {
        name: [said.flag - Flag.SUPER_GROUP for said in sync(world, connection, 1)[1:-1]]
        for name, connection in (("phone", phone), ("tablet", tablet), ("shared", shared), ("web", web))
    }
    text, self_ = Flag.TEXT, Flag.SELF
    assert flags == {
        "phone": [text | self_, 0, text, 0, 0],
        "tablet": [text, self_, text, 0, 0],
        "shared": [text, 0, text | self_, 0, 0],
        "web": [text, 0, text, 0, 0],
    }


@pytest.mark.parametrize("version", [0, 1, 2])
def test_versions(world: World, version: int) -> None:
    """Entries are read in the version of who syncs."""
    fill(world, 1)
    alice = world.connect(ALICE, version=version)
    assert sync(world, alice, 1)[1].message == GroupIM(BOB, SUPER, NOW if version else 0, 0, b"message 0")


def test_only_sync_notify_for_a_notification(world: World) -> None:
    """It is not pushed: members are told that there is something, under its key."""
    fill(world, 1)
    alice = world.connect(ALICE)
    world.posts.group_notification(APP, SUPER, b"{}", ())
    assert alice.units == [plain([SyncGroupNotify(SUPER, 3)])]


# When it takes time, or fails.


def test_a_group_that_is_not_known_here(world: World) -> None:
    """After a restart, say: it is found, and the client answered, though nobody says anything in the group."""
    sent = fill(world, 2)
    alice = world.connect(ALICE)
    world.groups.hold()
    done = world.say(alice, SyncGroup(SUPER, 1))
    assert done is not None
    assert (done.called, alice.said) == (False, [])
    world.groups.release()
    assert alice.said == answer(1, sent, 3)
    assert done.called


@pytest.mark.parametrize(("key", "reads"), [(0, 2), (1, 1)])
def test_all_is_asked_for_at_once(world: World, key: int, reads: int) -> None:
    """Group, key and head: one deadline after the other would be more than the 4 s for which a client waits."""
    fill(world, 2)
    alice = world.connect(ALICE)
    world.groups.hold()
    waiting: list[Deferred[None]] = [Deferred() for _ in range(reads)]
    world.timelines.reads = list(waiting)
    world.say(alice, SyncGroup(SUPER, key))
    assert world.timelines.reads == []
    world.groups.release()
    assert alice.said == []
    for read in waiting:
        read.callback(None)
    assert len(alice.said) == 4


@pytest.mark.parametrize("key", [0, 3])
@pytest.mark.parametrize("which", ["group", "head", "saved key", "page", "all"])
def test_unavailable(world: World, key: int, which: str) -> None:
    """Whatever cannot be read: the answer is empty, the client keeps its key and asks again later."""
    fill(world, 4)
    alice = world.connect(ALICE)
    broken: Deferred[None] = Deferred()
    broken.errback(Unavailable("as the test wants it"))
    fine: list[Deferred[None]] = [Deferred() for _ in range(2)]
    for each in fine:
        each.callback(None)
    if which in ("group", "all"):
        world.groups.unavailable = True
    if which == "all":
        world.timelines.unavailable = True
    elif which in ("head", "saved key") and not (which == "saved key" and key):
        world.timelines.reads = [broken] if which == "saved key" or key else [fine[0], broken]
    else:
        world.timelines.reads = [*fine[: 1 if key else 2], broken]
    done = world.say(alice, SyncGroup(SUPER, key))
    assert done is not None
    assert done.called
    assert alice.said == nothing(SUPER, key)
    broken.addErrback(lambda failure: failure.trap(Unavailable))


def test_a_non_member_whose_reads_fail(world: World) -> None:
    """What was asked for besides the group matters to nobody then, whenever it fails."""
    dave = world.connect(DAVE)
    world.groups.hold()
    reads: list[Deferred[None]] = [Deferred(), Deferred()]
    world.timelines.reads = list(reads)
    done = world.say(dave, SyncGroup(SUPER, 0))
    world.groups.release()
    assert done is not None
    assert done.called
    assert dave.said == nothing(SUPER, 0)
    for read in reads:
        read.errback(Unavailable("as the test wants it"))


def test_connection_lost_while_the_group_is_found(world: World) -> None:
    """It ends without an error."""
    fill(world, 2)
    alice = world.connect(ALICE)
    world.groups.hold()
    done = world.say(alice, SyncGroup(SUPER, 1))
    world.leave(alice)
    world.groups.release()
    assert done is not None
    assert (done.called, alice.said) == (True, [])


# GROUP_SYNC_KEY


def saved(world: World, uid: int = ALICE, group: int = SUPER) -> int | None:
    return world.timelines.saved.get((UserKey(APP, uid), group))


def test_group_sync_key(world: World) -> None:
    """It is remembered if it is above what is remembered; no answer. It says nothing of the user's own timeline."""
    alice = world.connect(ALICE)
    for key in (5, 3):
        done = world.say(alice, GroupSyncKey(SUPER, key))
        assert done is not None
        assert done.called
    assert (saved(world), saved(world, group=0), saved(world, BOB), alice.units) == (5, None, None, [])


@pytest.mark.parametrize(("uid", "group"), [(DAVE, SUPER), (ALICE, NORMAL), (ALICE, FOREIGN), (ALICE, 99), (ALICE, -1)])
def test_group_sync_key_of_strangers(world: World, uid: int, group: int) -> None:
    """Nothing is remembered of those who have no business there: nobody fills the database with what they make up."""
    world.say(world.connect(uid), GroupSyncKey(group, 7))
    assert world.timelines.saved == {}
    assert world.metrics.ignored.values == {"group": 1}


@pytest.mark.parametrize("key", [0, -1, 2**53, 2**63 - 1])
def test_group_sync_keys_that_cannot_be(world: World, key: int) -> None:
    """They are not remembered."""
    assert world.say(world.connect(ALICE), GroupSyncKey(SUPER, key)) is None
    assert world.timelines.saved == {}
    assert world.metrics.ignored.values == {"sync_key": 1}


def test_group_sync_key_of_a_group_that_is_not_known_here(world: World) -> None:
    """The group is found first."""
    alice = world.connect(ALICE)
    world.groups.hold()
    done = world.say(alice, GroupSyncKey(SUPER, 5))
    assert done is not None
    assert not done.called
    world.groups.release()
    assert saved(world) == 5


@pytest.mark.parametrize("what", ["groups", "timelines"])
def test_group_sync_key_that_is_not_remembered(world: World, what: str) -> None:
    """That costs the client nothing."""
    alice = world.connect(ALICE)
    getattr(world, what).unavailable = True
    done = world.say(alice, GroupSyncKey(SUPER, 5))
    assert done is not None
    assert (done.called, alice.units, alice.closing) == (True, [], "")


def test_metadata_and_acks_in_step(world: World) -> None:
    """A member who synced moves on by pushes and by the ACKs of their own messages alone."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    assert sync(world, alice, 0)[-1] == Said(SyncGroupEnd(SUPER, 1))
    alice.forget()
    for n in range(3):
        world.say(alice, GroupIM(ALICE, SUPER, 0, 0, b"%d" % n), seq=n)
        world.say(bob, GroupIM(BOB, SUPER, 0, 0, b"%d" % n), seq=n)
    keys = [said.message for said in alice.said if isinstance(said.message, Metadata)]
    assert keys == [Metadata(key, key - 1) for key in range(2, 8)]
    assert sum(isinstance(said.message, Ack) for said in alice.said) == 3


def test_pushed_while_the_end_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one's own timeline: who took what was pushed meanwhile is not told to go back behind it."""
    fill(world, 2)  # keys 2 and 3
    alice, bob = world.connect(ALICE), world.connect(BOB)
    head: Deferred[int] = Deferred()
    monkeypatch.setattr(world.timelines, "head", lambda _timeline: head)
    world.say(alice, SyncGroup(SUPER, 3))
    world.say(bob, GroupIM(BOB, SUPER, 0, 1, b"meanwhile"))
    head.callback(3)
    assert alice.said[-2:] == answer(3, [], 4)
