"""GROUP_IM: to the members of a normal group, in their own timelines, and of a super group, in the group's."""

from collections.abc import Callable

import pytest

from imserver.chat import backlog
from imserver.interfaces import Unavailable
from imserver.model import UserKey, group_timeline, user_timeline
from imserver.protocol.commands import AckStatus, Command, Flag, Platform
from imserver.protocol.frame import MAX_BODY, Frame
from imserver.protocol.messages import IM, Ack, GroupIM
from tests.fakes.chat import Published, Said
from tests.unit.chat.world import APP, NOW, World, acked, plain, pushed, pushed_in_group, refused

ALICE, BOB, CAROL, DAVE = 1, 2, 3, 4
GROUP, SUPER, NOWHERE = 50, 60, 70
HELLO = GroupIM(ALICE, GROUP, 12345, 77, b"hello")
HEARD = GroupIM(ALICE, GROUP, NOW, 77, b"hello")
SUPER_HELLO = GroupIM(ALICE, SUPER, 12345, 77, b"hello")
SUPER_HEARD = GroupIM(ALICE, SUPER, NOW, 77, b"hello")
UUID = b'{"text":"hello","uuid":"7ac4"}'
SUPER_ACK = Flag.SUPER_GROUP


@pytest.fixture
def world() -> World:
    """A normal group and a super group, of three each; Dave is in neither."""
    return settled(World())


def settled(world: World) -> World:
    world.groups.add_group(APP, GROUP, (ALICE, BOB, CAROL))
    world.groups.add_group(APP, SUPER, (ALICE, BOB, CAROL), is_super=True)
    return world


def says(content: bytes, sender: int = ALICE, group: int = GROUP, msgid: int = 0) -> GroupIM:
    return GroupIM(sender, group, 0, msgid, content)


# A normal group.


def test_every_member_gets_it(world: World) -> None:
    """An entry in every member's timeline, under the server's time; pushed to all but the sender, who is acknowledged
    with the key in their own timeline."""
    world.fill(ALICE, 2)
    alice, bob, carol, dave = (world.connect(uid) for uid in (ALICE, BOB, CAROL, DAVE))
    assert world.say(alice, HELLO, seq=4) is None
    assert alice.units == [acked(4, 4)]
    assert bob.units == carol.units == [pushed(2, HEARD)]
    assert dave.units == []
    assert world.stored(BOB) == world.stored(CAROL) == [HEARD]
    assert world.stored(ALICE)[-1] == HEARD
    assert world.stored(DAVE) == []
    assert world.stored_in_group(GROUP) == []


def test_the_senders_other_devices(world: World) -> None:
    """They get it under the key of the sender's timeline, but no other connection of the same device does."""
    phone, old, tablet = (world.connect(ALICE, device) for device in (b"phone", b"phone", b"tablet"))
    shared = world.connect(BOB, b"phone")
    assert shared.device == phone.device
    world.say(phone, HELLO)
    assert old.units == []
    assert tablet.units == shared.units == [pushed(2, HEARD)]
    assert Published(UserKey(APP, ALICE), pushed(2, HEARD), phone.device) in world.bus.published
    assert Published(UserKey(APP, BOB), pushed(2, HEARD), 0) in world.bus.published


def test_two_web_tabs_of_a_member(world: World) -> None:
    """Both are device 0, and see what the other says to a group of either kind."""
    for key, (message, heard, tell) in enumerate(
        ((HELLO, HEARD, pushed), (SUPER_HELLO, SUPER_HEARD, lambda *said: pushed_in_group(SUPER, *said))), 2
    ):
        tab, other = (world.connect(ALICE, b"guid-%d" % n, Platform.WEB, version=1) for n in range(2))
        world.say(tab, message)
        assert other.units == [tell(2, heard)], key


def test_the_device_stands_in_the_senders_entry(world: World) -> None:
    """There only: so a sync marks it as sent from here on that device."""
    bob = world.connect(BOB, b"phone")
    world.say(bob, says(b"hello", BOB))
    devices = [world.timelines.entries[user_timeline(UserKey(APP, uid))][0].device for uid in (ALICE, BOB, CAROL)]
    assert devices == [0, bob.device, 0]


def test_members_who_are_not_online(world: World) -> None:
    """They, but not the sender, go to the push queue, together."""
    world.settings(ALICE, notification_on=True)
    alice = world.connect(ALICE, platform=Platform.WEB)
    world.connect(CAROL)
    world.say(alice, HELLO)
    ((message, receivers),) = world.push_queue.pushed
    assert (message.command, receivers) == (Command.GROUP_IM, [UserKey(APP, BOB)])


@pytest.mark.parametrize("group", [GROUP, SUPER])
@pytest.mark.parametrize("alone", [False, True])
def test_a_sender_who_is_gone_is_not_rung(world: World, group: int, alone: bool) -> None:
    """Not even where they went before it was stored."""
    world.bus.alone = alone
    alice = world.connect(ALICE)
    world.timelines.hold()
    world.say(alice, says(b"bye", group=group))
    world.leave(alice)
    world.timelines.release()
    assert [receivers for _, receivers in world.push_queue.pushed] == [[UserKey(APP, BOB), UserKey(APP, CAROL)]]


# A super group.


def test_one_entry_in_a_super_group(world: World) -> None:
    """It stands in the group's timeline, and in nobody's own; pushes and ACK say that it is one of a super group, with
    the key there."""
    alice, bob, carol, dave = (world.connect(uid) for uid in (ALICE, BOB, CAROL, DAVE))
    assert world.say(alice, SUPER_HELLO, seq=4) is None
    world.say(bob, says(b"hi", BOB, SUPER), seq=5)
    answer = GroupIM(BOB, SUPER, NOW, 0, b"hi")
    assert alice.units == [acked(2, 4, SUPER_ACK), pushed_in_group(SUPER, 3, answer)]
    assert bob.units == [pushed_in_group(SUPER, 2, SUPER_HEARD), acked(3, 5, SUPER_ACK)]
    assert carol.units == [pushed_in_group(SUPER, 2, SUPER_HEARD), pushed_in_group(SUPER, 3, answer)]
    assert dave.units == []
    assert world.stored_in_group(SUPER) == [SUPER_HEARD, answer]
    assert world.timelines.entries.keys() == {group_timeline(APP, SUPER)}


def test_what_is_dropped_of_a_super_group(world: World) -> None:
    """A client that loses pushes of it is told the newest key of the group's timeline."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, SUPER_HELLO)
    (push,) = bob.pushes
    assert push.timeline == group_timeline(APP, SUPER)
    assert push.notify == push.frames[2]


def test_other_devices_and_nodes_of_a_super_group(world: World) -> None:
    """As in a normal group; the push queue too."""
    phone, old, tablet = (world.connect(ALICE, device) for device in (b"phone", b"phone", b"tablet"))
    world.say(phone, SUPER_HELLO)
    heard = pushed_in_group(SUPER, 2, SUPER_HEARD)
    assert (old.units, tablet.units) == ([], [heard])
    assert world.bus.published == [
        Published(UserKey(APP, ALICE), heard, phone.device),
        Published(UserKey(APP, BOB), heard, 0),
        Published(UserKey(APP, CAROL), heard, 0),
    ]
    assert [receivers for _, receivers in world.push_queue.pushed] == [[UserKey(APP, BOB), UserKey(APP, CAROL)]]


def test_a_node_alone(world: World) -> None:
    """Where there are no other nodes nothing is made for them."""
    world.bus.alone = True
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, HELLO)
    world.say(alice, SUPER_HELLO)
    assert bob.units == [pushed(2, HEARD), pushed_in_group(SUPER, 2, SUPER_HEARD)]
    assert world.bus.published == []


# Who may.


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize(
    ("sender", "group", "status"),
    [(DAVE, GROUP, AckStatus.NOT_GROUP_MEMBER), (DAVE, SUPER, AckStatus.NOT_GROUP_MEMBER)]
    + [(ALICE, group, AckStatus.GROUP_NONEXISTENT) for group in (NOWHERE, 0, -1, 2**53, 2**63 - 1, -(2**63))],
)
def test_strangers(world: World, sender: int, group: int, status: AckStatus, version: int) -> None:
    """Not a member, no such group: clients of every version are answered, and nothing is stored."""
    connection = world.connect(sender, version=version)
    assert world.say(connection, says(b"hello", sender, group), seq=4) is None
    assert connection.units == [plain([Ack(4, status if version == 2 else AckStatus.SUCCESS)])]
    assert world.timelines.entries == {}
    assert world.metrics.refusals.values == {status.name.lower(): 1}


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_a_group_of_another_app(world: World, group: int) -> None:
    """For it there is no such group, though a user of that number is a member where there is; nobody hears of it."""
    stranger, bob = world.connect(ALICE, appid=8), world.connect(BOB)
    world.say(stranger, says(b"hello", ALICE, group), seq=4)
    assert stranger.units == [refused(4, AckStatus.GROUP_NONEXISTENT)]
    assert (bob.units, world.timelines.entries) == ([], {})


@pytest.mark.parametrize("sender", [0, BOB, -ALICE])
def test_sender_must_be_the_uid(world: World, sender: int) -> None:
    """Who says to be another member is not listened to."""
    alice = world.connect(ALICE)
    assert world.say(alice, says(b"hello", sender)) is None
    assert (alice.units, world.timelines.entries) == ([], {})
    assert world.metrics.ignored.values == {"sender": 1}


@pytest.mark.parametrize(("version", "answer"), [(0, []), (1, []), (2, [refused(5, AckStatus.MUTED)])])
@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_the_muted_and_the_forbidden(world: World, group: int, version: int, answer: list[list[Said]]) -> None:
    """Version 2 is told why, so that nobody takes it for a fault of the network; for older ones any ACK is success."""
    world.groups.change_member(APP, group, ALICE, muted=True)
    world.settings(BOB, forbidden=True)
    for uid in (ALICE, BOB):
        connection = world.connect(uid, version=version)
        assert world.say(connection, says(b"hello", uid, group), seq=5) is None
        assert connection.units == answer
    assert world.timelines.entries == {}
    assert world.metrics.refusals.values == {"muted": 2}


def change(what: str) -> Callable[[World], object]:
    return {
        "left": lambda world: world.changes.remove(APP, GROUP, [ALICE]),
        "muted": lambda world: world.changes.set_mute(APP, GROUP, ALICE, True),
        "disbanded": lambda world: world.changes.disband(APP, GROUP),
    }[what]


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("left", AckStatus.NOT_GROUP_MEMBER),
        ("muted", AckStatus.MUTED),
        ("disbanded", AckStatus.GROUP_NONEXISTENT),
    ],
)
def test_changes_are_in_force_for_the_next_message(world: World, what: str, status: AckStatus) -> None:
    """Who was just put out, muted, or has no group any more says nothing in it, on no connection."""
    phone, tablet = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet")
    world.say(phone, HELLO, seq=1)
    change(what)(world)
    phone.forget()
    tablet.forget()
    world.say(phone, says(b"again"), seq=2)
    world.say(tablet, says(b"again"), seq=3)
    assert phone.units == [refused(2, status)]
    assert tablet.units == [refused(3, status)]
    assert [message for message in world.stored(BOB) if isinstance(message, GroupIM)] == [HEARD]


def test_who_joins_speaks_and_hears_at_once(world: World) -> None:
    """And who is no longer muted."""
    dave, bob = world.connect(DAVE), world.connect(BOB)
    world.groups.add_members(APP, GROUP, [DAVE])
    world.groups.change_member(APP, GROUP, BOB, muted=True)
    world.groups.change_member(APP, GROUP, BOB, muted=False)
    world.say(dave, says(b"hello", DAVE))
    world.say(bob, says(b"welcome", BOB))
    assert dave.units == [acked(2, 1), pushed(3, GroupIM(BOB, GROUP, NOW, 0, b"welcome"))]


def test_times_in_a_normal_group(world: World) -> None:
    """They are the clock's, whoever has just joined: each member has a timeline of their own."""
    world.groups.add_members(APP, GROUP, [DAVE])
    world.say(world.connect(ALICE), HELLO)
    (message,) = world.timelines.messages
    assert message.created == NOW


def test_a_group_that_became_a_super_group(world: World) -> None:
    """From then on the group's timeline is where its messages stand, from its beginning."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, HELLO)
    world.groups.upgrade(APP, GROUP)
    alice.forget()
    bob.forget()
    world.say(alice, HELLO, seq=2)  # a resend; see below
    world.say(alice, says(b"super"), seq=3)
    assert alice.units[1] == acked(2, 3, SUPER_ACK)
    assert bob.units == [pushed_in_group(GROUP, 2, GroupIM(ALICE, GROUP, NOW, 0, b"super"))]


# Flags and content.


@pytest.mark.parametrize("group", [GROUP, SUPER])
@pytest.mark.parametrize("flag", range(64))
def test_flags_are_the_servers(world: World, flag: int, group: int) -> None:
    """Of what the sender sets only TEXT goes on."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, says(b"hello", group=group), flag)
    text = flag & Flag.TEXT
    own = Flag.PUSH if group == GROUP else Flag.PUSH | Flag.SUPER_GROUP
    assert bob.units[0][1].flag == text | own
    assert {entry.flag for entries in world.timelines.entries.values() for entry in entries} == {text}


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_members_of_every_version(world: World, group: int, version: int) -> None:
    """Clients of version 0 send and read no timestamp."""
    alice = world.connect(ALICE, version=version)
    bobs = [world.connect(BOB, version=version) for version in (0, 1, 2)]
    world.say(alice, GroupIM(ALICE, group, 5, 77, b"hello"))
    heard = GroupIM(ALICE, group, NOW, 77, b"hello")
    assert [bob.said[1].message for bob in bobs] == [GroupIM(ALICE, group, 0, 77, b"hello"), heard, heard]


@pytest.mark.parametrize("size", [0, 1, 32743])
def test_contents_of_every_size(world: World, size: int) -> None:
    """From nothing to the largest that clients of every version can be given."""
    alice, bob = world.connect(ALICE, version=0), world.connect(BOB)
    for group in (GROUP, SUPER):
        world.say(alice, says(b"\xff" * size, group=group))
    assert [len(frame.bodies[2]) for push in bob.pushes for frame in push.frames if len(frame.bodies[2]) > 32] == (
        [size + 24] * 2 if size > 32 else []
    )
    assert [said.message.content for said in bob.said if isinstance(said.message, GroupIM)] == [b"\xff" * size] * 2


@pytest.mark.parametrize("size", [32744, 32747])
@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_content_that_fits_version_0_only(world: World, group: int, size: int) -> None:
    """It is not stored: others could not be given it, and it would stand in everybody's way."""
    alice = world.connect(ALICE)
    message = says(b"x" * size, group=group)
    frame = Frame(4, message.command, 0, 0, message.encode(0))
    assert len(frame.body) <= MAX_BODY
    assert world.chat.handle(alice, frame) is None
    assert alice.units == [refused(4, AckStatus.NOT_STORED)]
    assert world.timelines.entries == {}


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_words_that_are_not_to_be_said(group: int) -> None:
    """They are masked in `text`, whatever flags the sender sets, and with TEXT in the whole content; as the message is
    stored, so it is pushed."""
    world = settled(World(words=["bad"]))
    alice, bob = world.connect(ALICE), world.connect(BOB)
    for said, flag, heard in (
        (b'{"text":"so bad","other":"bad"}', 0, b'{"text":"so ***","other":"bad"}'),
        (b'{"text":"so bad","other":"bad"}', Flag.TEXT, b'{"text":"so ***","other":"***"}'),
        (b"bad", 0, b"bad"),
        (b"bad", Flag.TEXT, b"***"),
    ):
        bob.forget()
        world.say(alice, says(said, group=group), flag)
        (push,) = bob.units
        assert push[1].message == GroupIM(ALICE, group, NOW, 0, heard)
        stored = world.stored(BOB) if group == GROUP else world.stored_in_group(SUPER)
        assert stored[-1] == push[1].message


# Resends.


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_resends(world: World, group: int) -> None:
    """The same uuid, or msgid and content, from the same sender to the same group: stored and told once."""
    flag = SUPER_ACK if group == SUPER else 0
    alice, bob = world.connect(ALICE, b"phone"), world.connect(BOB)
    for seq, message in enumerate((says(UUID, group=group), says(b"hi", group=group, msgid=5)) * 2, 1):
        world.say(alice, message, seq=seq)
    assert alice.units == [acked(2, 1, flag), acked(3, 2, flag), acked(2, 3, flag), acked(3, 4, flag)]
    assert len(bob.units) == 2
    assert world.metrics.resends.values == {"": 2}


def test_what_is_no_resend(world: World) -> None:
    """The same uuid to another group, to a user of the group's number, or from another member."""
    world.groups.add_group(APP, GROUP + 1, (ALICE, BOB))
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, says(UUID))
    world.say(alice, says(UUID, group=GROUP + 1))
    world.say(alice, IM(ALICE, GROUP, 0, 0, UUID))
    world.say(bob, says(UUID, BOB))
    assert world.metrics.resends.values == {"": 0}


def test_a_resend_after_others_came_and_went(world: World) -> None:
    """It is known again though the sender's place among the members is another, and answered with the sender's key."""
    world.groups.add_group(APP, NOWHERE, (BOB, CAROL))
    world.fill(CAROL, 3)
    carol = world.connect(CAROL)
    world.say(carol, says(UUID, CAROL, NOWHERE), seq=1)
    world.groups.add_members(APP, NOWHERE, [ALICE])
    world.say(carol, says(UUID, CAROL, NOWHERE), seq=2)
    world.groups.remove_members(APP, NOWHERE, [ALICE, BOB])
    world.say(carol, says(UUID, CAROL, NOWHERE), seq=3)
    assert carol.units == [acked(5, 1), acked(5, 2), acked(5, 3)]
    assert world.stored(ALICE) == []


def test_a_resend_after_the_group_became_a_super_group(world: World) -> None:
    """The first stands in the members' own timelines: it is not stored again, and its key there is none here."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, says(UUID), seq=1)
    world.groups.upgrade(APP, GROUP)
    world.say(alice, says(UUID), seq=2)
    assert alice.units == [acked(2, 1), [Said(Ack(2), SUPER_ACK)]]
    assert len(bob.units) == 1
    assert world.stored_in_group(GROUP) == []


# Not stored.


@pytest.mark.parametrize("group", [GROUP, SUPER])
@pytest.mark.parametrize(("version", "answer"), [(1, []), (2, [refused(5, AckStatus.NOT_STORED)])])
def test_not_stored(world: World, group: int, version: int, answer: list[list[Said]]) -> None:
    """It is not acknowledged, nobody hears of it, and everything goes on."""
    alice, bob = world.connect(ALICE, version=version), world.connect(BOB)
    world.timelines.failing = Unavailable("as the test wants it")
    world.say(alice, says(b"lost", group=group), seq=5)
    assert (alice.units, alice.unfinished) == (answer, 0)
    assert (bob.units, world.bus.published, world.push_queue.pushed) == ([], [], [])
    world.timelines.failing = None
    world.say(alice, says(b"kept", group=group), seq=6)
    assert len(bob.units) == 1


# A group that has to be found first.


def test_a_group_that_is_not_known_here(world: World) -> None:
    """It is found, and the message sent; meanwhile the client's next commands wait."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.groups.hold()
    done = world.say(alice, HELLO, seq=4)
    assert done is not None
    assert (done.called, alice.units) == (False, [])
    world.timelines.hold()
    world.groups.release()
    assert done.called
    assert (alice.units, alice.unfinished) == ([], 1)
    world.timelines.release()
    assert (alice.units, bob.units) == ([acked(2, 4)], [pushed(2, HEARD)])


def test_a_group_that_cannot_be_found_now(world: World) -> None:
    """The client is told to try again; that is not the same as no such group."""
    alice = world.connect(ALICE)
    world.groups.unavailable = True
    done = world.say(alice, HELLO, seq=4)
    assert done is not None
    assert done.called
    assert alice.units == [refused(4, AckStatus.NOT_STORED)]


def test_a_sender_who_leaves_while_the_group_is_found(world: World) -> None:
    """The message is sent all the same."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.groups.hold()
    done = world.say(alice, HELLO)
    world.leave(alice)
    world.groups.release()
    assert done is not None
    assert done.called
    assert (alice.units, bob.units) == ([], [pushed(2, HEARD)])


def test_a_bug_in_the_directory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a refusal: the connection is told of it, and ends."""

    def broken() -> None:
        raise ZeroDivisionError("as the test wants it")

    monkeypatch.setattr(world.groups, "group", lambda _appid, _group: world.groups.answer(broken))
    done = world.say(world.connect(ALICE), HELLO)
    assert done is not None
    failures: list[object] = []
    done.addErrback(lambda failure: failures.append(failure.value))
    assert [type(failure) for failure in failures] == [ZeroDivisionError]


# Large groups.


@pytest.mark.parametrize("place", [0, 2500, 4999])
def test_five_thousand_members(world: World, place: int) -> None:
    """All of them, whatever the sender's place; the frames have the same size as in a group of three."""
    uids = [10 * n + 7 for n in range(5000)]
    world.groups.add_group(APP, NOWHERE, uids)
    sender, listener = world.connect(uids[place], b"phone"), world.connect(uids[1234])
    world.say(sender, says(b"x" * 32743, uids[place], NOWHERE), seq=4)
    heard = GroupIM(uids[place], NOWHERE, NOW, 0, b"x" * 32743)
    assert sender.units == [acked(2, 4)]
    assert listener.units == [pushed(2, heard)]
    assert all(world.stored(uid) == [heard] for uid in uids)
    entries = [world.timelines.entries[user_timeline(UserKey(APP, uid))][0] for uid in uids]
    assert [n for n, entry in enumerate(entries) if entry.device] == [place]
    assert len(world.push_queue.pushed[0][1]) == 4998
    assert max(len(frame.bodies[2]) for frame in listener.pushes[0].frames) == MAX_BODY


# Too much at once.


def test_messages_to_groups_wait_for_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While many entries are under way the next message to a group waits, whoever sends it: its client is not read on.
    They go on in the order in which they came, one from each, and none is refused."""
    monkeypatch.setattr(backlog, "MOST_ENTRIES", 5)
    alice, bob, carol = world.connect(ALICE), world.connect(BOB), world.connect(CAROL)
    world.timelines.hold()
    assert world.say(alice, says(b"1"), seq=1) is None
    assert world.say(alice, says(b"2"), seq=2) is None  # six entries are under way now
    third = world.say(carol, says(b"3", CAROL), seq=3)
    fourth = world.say(bob, says(b"4", BOB, SUPER), seq=4)
    assert third is not None
    assert fourth is not None
    assert (third.called, fourth.called) == (False, False)
    assert world.metrics.group_messages_waiting.read() == {"": 2}
    # What is said to one user does not wait.
    assert world.say(world.connect(DAVE), IM(DAVE, ALICE, 0, 0, b"quick")) is None
    world.timelines.release()
    assert (third.called, fourth.called) == (True, True)
    assert [said.message.content for said in bob.said if isinstance(said.message, GroupIM)] == [b"1", b"2", b"3"]
    assert bob.units[-1] == acked(2, 4, SUPER_ACK)
    assert carol.units[-2:] == [acked(4, 3), pushed_in_group(SUPER, 2, GroupIM(BOB, SUPER, NOW, 0, b"4"))]
    assert world.metrics.group_messages_waiting.read() == {"": 0}
    assert world.say(alice, says(b"5")) is None


def test_who_waits_goes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was let in does not come before others who wait with what it says next, though there is room."""
    monkeypatch.setattr(backlog, "MOST_ENTRIES", 8)
    world.groups.add_group(APP, NOWHERE, range(1, 11))
    alice, bob, carol = world.connect(ALICE), world.connect(BOB), world.connect(CAROL)
    world.timelines.hold()
    world.say(alice, says(b"1", group=NOWHERE))
    second, third = world.say(carol, says(b"2", CAROL)), world.say(bob, says(b"3", BOB))
    assert second is not None
    assert third is not None
    second.addCallback(lambda _: world.say(carol, says(b"4", CAROL)))
    world.timelines.release()
    assert [message.content for message in world.stored(BOB) if isinstance(message, GroupIM)] == [
        b"1",
        b"2",
        b"3",
        b"4",
    ]


def test_who_waits_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told to try again, so early that they do not take the connection for dead."""
    monkeypatch.setattr(backlog, "MOST_ENTRIES", 1)
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    world.say(alice, says(b"1"), seq=1)
    done = world.say(bob, says(b"2", BOB), seq=2)
    world.seconds += backlog.PATIENCE + 0.01
    world.timelines.release()
    assert done is not None
    assert done.called
    assert bob.units == [pushed(2, GroupIM(ALICE, GROUP, NOW, 0, b"1")), refused(2, AckStatus.NOT_STORED)]
    assert world.say(bob, says(b"3", BOB), seq=3) is None


def test_what_is_not_stored_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends, a message is no longer under way; nor is one that was not even taken."""
    monkeypatch.setattr(backlog, "MOST_ENTRIES", 1)
    alice = world.connect(ALICE)
    world.timelines.full = True
    assert world.say(alice, says(b"1"), seq=1) is None
    world.timelines.full = False
    world.timelines.failing = Unavailable("as the test wants it")
    assert world.say(alice, says(b"2"), seq=2) is None
    world.posts.group(APP, ALICE, GROUP, b"3").addErrback(lambda failure: failure.trap(Unavailable))
    world.timelines.failing = None
    assert world.say(alice, says(b"4"), seq=4) is None
    assert alice.units == [refused(1, AckStatus.NOT_STORED), refused(2, AckStatus.NOT_STORED), acked(2, 4)]


def test_posts_count_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What back ends send is under way as well, until it is on disk."""
    monkeypatch.setattr(backlog, "MOST_ENTRIES", 1)
    alice = world.connect(ALICE)
    world.timelines.hold()
    world.posts.group(APP, BOB, GROUP, b"1")
    done = world.say(alice, says(b"2"))
    assert done is not None
    assert (done.called, world.stored(CAROL)) == (False, [])
    world.timelines.release()
    assert done.called
    assert [message.content for message in world.stored(CAROL) if isinstance(message, GroupIM)] == [b"1", b"2"]
