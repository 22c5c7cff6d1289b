"""IM, RT and UNREAD_COUNT: from one user to another."""

import pytest

from imserver.interfaces import Unavailable
from imserver.model import Push, UserKey, user_timeline
from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.frame import Frame
from imserver.protocol.messages import IM, RT, Ack, Metadata, SyncNotify, UnreadCount
from tests.fakes.chat import FakeConnection, Published, Said
from tests.leaks import FlushLoggedErrors
from tests.unit.chat.world import APP, NOW, World, acked, plain, pushed, refused

ALICE, BOB, CAROL, DAVE = 1, 2, 3, 4
HELLO = IM(ALICE, BOB, 12345, 77, b"hello")
#: As everybody gets it: the timestamp is the server's.
HEARD = IM(ALICE, BOB, NOW, 77, b"hello")
UUID = b'{"text":"hello","uuid":"7ac4"}'


# Storing


def test_message_goes_to_both_timelines(world: World) -> None:
    """It stands in the receiver's and in the sender's timeline, under the server's time and the client's msgid."""
    alice = world.connect(ALICE, b"phone")
    world.say(alice, HELLO)
    assert world.stored(ALICE) == world.stored(BOB) == [HEARD]
    devices = [world.timelines.entries[user_timeline(UserKey(APP, uid))][0].device for uid in (ALICE, BOB)]
    assert devices == [alice.device, 0]


def test_message_to_oneself_is_stored_once(world: World) -> None:
    """One timeline, one entry; the sender's other devices get it, and nobody's phone is rung."""
    alice, tablet = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet")
    world.say(alice, IM(ALICE, ALICE, 0, 1, b"note"), seq=4)
    note = IM(ALICE, ALICE, NOW, 1, b"note")
    assert world.stored(ALICE) == [note]
    assert alice.units == [acked(2, 4)]
    assert tablet.units == [pushed(2, note)]
    assert [published.user for published in world.bus.published] == [UserKey(APP, ALICE)]
    assert world.push_queue.pushed == []


def test_message_stays_in_its_app(world: World) -> None:
    """The receiver is a user of the sender's app, not one of the same number elsewhere."""
    alice, other = world.connect(ALICE), world.connect(BOB, appid=8)
    world.say(alice, HELLO)
    assert other.units == []
    assert world.stored(BOB, appid=8) == []
    assert world.stored(BOB) == [HEARD]


@pytest.mark.parametrize("sender", [0, BOB, -ALICE, 2**63 - 1])
def test_sender_must_be_the_uid(world: World, sender: int) -> None:
    """Who says to be somebody else is not listened to."""
    alice = world.connect(ALICE)
    assert world.say(alice, IM(sender, CAROL, 0, 1, b"hello")) is None
    assert alice.units == []
    assert world.timelines.entries == {}
    assert world.metrics.ignored.values == {"sender": 1}


@pytest.mark.parametrize("receiver", [0, -1, -(2**63), 2**53, 2**63 - 1])
def test_receivers_that_nobody_can_be(world: World, receiver: int) -> None:
    """uids are positive and below 2^53: for others no timeline is opened."""
    alice = world.connect(ALICE)
    assert world.say(alice, IM(ALICE, receiver, 0, 1, b"hello")) is None
    assert alice.units == []
    assert world.timelines.entries == {}
    assert world.metrics.ignored.values == {"receiver": 1}


def test_largest_receiver(world: World) -> None:
    """2^53 - 1 is a uid."""
    alice = world.connect(ALICE)
    world.say(alice, IM(ALICE, 2**53 - 1, 0, 1, b"hello"), seq=3)
    assert alice.units == [acked(2, 3)]
    assert len(world.stored(2**53 - 1)) == 1


@pytest.mark.parametrize("seq", [0, 1, 2**31 - 1, -1, -(2**31)])
def test_seq_is_handed_back(world: World, seq: int) -> None:
    """Whatever number the client gave its frame, the ACK carries it."""
    alice = world.connect(ALICE)
    world.say(alice, HELLO, seq=seq)
    assert alice.units == [acked(2, seq)]


def test_ack_waits_for_the_disk(world: World) -> None:
    """Nothing is answered, pushed or published before it is stored."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    assert world.say(alice, HELLO, seq=4) is None
    assert (alice.units, bob.units, world.bus.published, alice.unfinished) == ([], [], [], 1)
    world.timelines.release()
    assert (alice.units, bob.units, alice.unfinished) == ([acked(2, 4)], [pushed(2, HEARD)], 0)


def test_acks_come_in_the_order_of_the_messages(world: World) -> None:
    """A client that does not wait gets its ACKs, and the receiver the messages, in the order of sending."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    for seq in range(1, 6):
        world.say(alice, IM(ALICE, BOB, 0, seq, b"hello"), seq=seq)
    world.timelines.release()
    assert alice.units == [acked(seq + 1, seq) for seq in range(1, 6)]
    assert bob.units == [pushed(n + 1, IM(ALICE, BOB, NOW, n, b"hello")) for n in range(1, 6)]


def test_refusals_keep_their_place_among_acks(world: World) -> None:
    """A message that is refused at once is answered after the earlier ones that are still being stored."""
    alice = world.connect(ALICE, version=2)
    too_large = IM(ALICE, BOB, 0, 0, b"x" * 32744)
    world.timelines.hold()
    world.say(alice, HELLO, seq=1)
    world.chat.handle(alice, frame_of_version_0(too_large, seq=2))
    world.chat.handle(alice, frame_of_version_0(too_large, seq=3))
    world.say(alice, HELLO, seq=4)
    assert (alice.units, alice.unfinished) == ([], 4)
    world.timelines.release()
    assert alice.units == [
        acked(2, 1),
        refused(2, AckStatus.NOT_STORED),
        refused(3, AckStatus.NOT_STORED),
        acked(2, 4),  # a resend of the first
    ]
    assert alice.unfinished == 0
    alice.forget()
    assert world.chat.handle(alice, frame_of_version_0(too_large, seq=5)) is None
    assert alice.units == [refused(5, AckStatus.NOT_STORED)]


def test_refusal_after_a_message_that_is_not_stored(world: World) -> None:
    """It is answered then, too; a connection that went meanwhile is no trouble."""
    alice, gone = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    for sender, connection in ((ALICE, alice), (BOB, gone)):
        world.say(connection, IM(sender, CAROL, 0, 1, b"hello"), seq=1)
        world.chat.handle(connection, frame_of_version_0(IM(sender, CAROL, 0, 0, b"x" * 32744), seq=2))
    world.leave(gone)
    world.timelines.failing = Unavailable("as the test wants it")
    world.timelines.release()
    assert alice.units == [refused(1, AckStatus.NOT_STORED), refused(2, AckStatus.NOT_STORED)]
    assert gone.units == []


# Who gets it


def test_every_connection_of_the_receiver(world: World) -> None:
    """Each gets METADATA, the message with PUSH and SYNC_NOTIFY as one unit, which may be dropped for the notice."""
    alice = world.connect(ALICE)
    bobs = [world.connect(BOB, b"phone"), world.connect(BOB, b"phone"), world.connect(BOB, platform=Platform.WEB)]
    world.say(alice, HELLO)
    for bob in bobs:
        assert bob.units == [pushed(2, HEARD)]
        (push,) = bob.pushes
        assert push.timeline == user_timeline(UserKey(APP, BOB))
        assert push.notify == push.frames[2]


def test_receivers_of_every_version(world: World) -> None:
    """Clients of version 0 read no timestamp."""
    alice = world.connect(ALICE)
    bobs = [world.connect(BOB, version=version) for version in (0, 1, 2)]
    world.say(alice, HELLO)
    assert [bob.said[1].message for bob in bobs] == [IM(ALICE, BOB, 0, 77, b"hello"), HEARD, HEARD]


def test_senders_other_devices(world: World) -> None:
    """They get it under its key in the sender's timeline; the sender's own connection gets the ACK alone."""
    world.fill(BOB, 3)
    alice, tablet = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet")
    bob = world.connect(BOB)
    world.say(alice, HELLO, seq=4)
    assert alice.units == [acked(2, 4)]
    assert tablet.units == [pushed(2, HEARD)]
    assert bob.units == [pushed(5, HEARD)]


def test_not_the_senders_other_connection_of_the_same_device(world: World) -> None:
    """A device's old connection does not hear what its new one says, but what others say."""
    old, alice = world.connect(ALICE, b"phone"), world.connect(ALICE, b"phone")
    world.say(alice, HELLO)
    assert old.units == []
    world.say(world.connect(BOB), IM(BOB, ALICE, 0, 1, b"hello yourself"))
    assert old.units == [pushed(3, IM(BOB, ALICE, NOW, 1, b"hello yourself"))]


def test_two_web_tabs_of_a_user(world: World) -> None:
    """Both are device 0, and see each other's messages."""
    tab, other = (world.connect(ALICE, b"guid-%d" % n, Platform.WEB, version=1) for n in range(2))
    assert tab.device == other.device == 0
    world.say(tab, HELLO, seq=9)
    assert tab.units == [acked(2, 9)]
    assert other.units == [pushed(2, HEARD)]


def test_same_device_number_of_another_user(world: World) -> None:
    """A phone that two users share is one device, and the receiver is still told."""
    alice, bob = world.connect(ALICE, b"phone"), world.connect(BOB, b"phone")
    assert alice.device == bob.device != 0
    world.say(alice, HELLO)
    assert bob.units == [pushed(2, HEARD)]


def test_other_nodes(world: World) -> None:
    """They are told for both users: for the sender's without the sender's device."""
    alice = world.connect(ALICE, b"phone")
    world.say(alice, HELLO)
    assert world.bus.published == [
        Published(UserKey(APP, ALICE), pushed(2, HEARD), alice.device),
        Published(UserKey(APP, BOB), pushed(2, HEARD), 0),
    ]


def test_a_node_alone(world: World) -> None:
    """Where there are no other nodes all who are here are told, and nothing is made for those who are not."""
    world.bus.alone = True
    alice, tablet, bob = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet"), world.connect(BOB)
    world.say(alice, HELLO)
    assert tablet.units == bob.units == [pushed(2, HEARD)]
    world.say(alice, IM(ALICE, CAROL, 0, 1, b"hello"))
    assert UserKey(APP, CAROL) not in {published.user for published in world.bus.published}
    assert [receivers for _, receivers in world.push_queue.pushed] == [[UserKey(APP, CAROL)]]


def test_metadata_rises_on_every_connection(world: World) -> None:
    """Pushes and ACKs of one timeline leave in the order of their keys, on all of its devices."""
    phone, tablet, bob = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet"), world.connect(BOB)
    world.timelines.hold()
    for n in range(4):
        world.say(phone, IM(ALICE, BOB, 0, n, b"from the phone"))
        world.say(bob, IM(BOB, ALICE, 0, n, b"from bob"))
        world.say(tablet, IM(ALICE, BOB, 0, n, b"from the tablet"))
    world.timelines.release()
    for connection in (phone, tablet, bob):
        keys = [said.message.key for said in connection.said if isinstance(said.message, Metadata)]
        assert keys == list(range(2, 14))


# Flags and content


@pytest.mark.parametrize("flag", range(64))
def test_flags_are_the_servers(world: World, flag: int) -> None:
    """Of what the sender sets only TEXT goes on: into the timeline, to the receiver, to the sender's other devices."""
    alice, tablet, bob = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet"), world.connect(BOB)
    world.say(alice, HELLO, flag)
    text = flag & Flag.TEXT
    assert bob.units == tablet.units == [pushed(2, HEARD, text)]
    assert alice.units == [acked(2, 1)]
    assert [entries[0].flag for entries in world.timelines.entries.values()] == [text, text]


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, 32743])
def test_contents_of_every_size(world: World, version: int, size: int) -> None:
    """From nothing to the largest that clients of every version can be given."""
    alice = world.connect(ALICE, version=version)
    bobs = [world.connect(BOB, version=version) for version in (0, 1, 2)]
    content = b"\xff" * size
    world.say(alice, IM(ALICE, BOB, 0, 1, content), seq=6)
    assert alice.units == [acked(2, 6)]
    assert world.stored(BOB) == [IM(ALICE, BOB, NOW, 1, content)]
    for bob in bobs:
        assert bob.said[1].message == IM(ALICE, BOB, NOW if bob.version else 0, 1, content)
    assert max(len(frame.bodies[2]) for frame in bobs[0].pushes[0].frames) <= 32767


def frame_of_version_0(message: IM, seq: int) -> Frame:
    return Frame(seq, message.command, 0, 0, message.encode(0))


@pytest.mark.parametrize("size", [32744, 32747])
def test_content_that_fits_version_0_only(world: World, size: int) -> None:
    """A client of version 0 can send more than others can be given: it is not stored. (It gets no ACK.)"""
    alice, bob = world.connect(ALICE, version=0), world.connect(BOB)
    assert world.say(alice, IM(ALICE, BOB, 0, 1, b"x" * size)) is None
    assert alice.units == bob.units == []
    assert world.timelines.entries == {}
    assert world.metrics.refusals.values == {"not_stored": 1}


# Refusals


@pytest.mark.parametrize(("version", "answer"), [(0, []), (1, []), (2, [refused(5, AckStatus.MUTED)])])
def test_forbidden_users_are_not_heard(world: World, version: int, answer: list[list[Said]]) -> None:
    """Version 2 is told why; older clients, to whom any ACK means success, are told nothing."""
    world.settings(ALICE, forbidden=True)
    alice, bob = world.connect(ALICE, version=version), world.connect(BOB)
    assert world.say(alice, HELLO, seq=5) is None
    assert alice.units == answer
    assert bob.units == []
    assert world.timelines.entries == {}
    assert world.metrics.refusals.values == {"muted": 1}


# Friends, blacklists, words


@pytest.fixture
def related() -> World:
    """Alice and Bob are friends; Carol has Alice as a friend, but has blocked her; Dave has her not."""
    world = World(friends=True, blacklist=True)
    world.relations.set_friends(APP, ALICE, BOB, True)
    world.relations.friends |= {(APP, ALICE, DAVE), (APP, CAROL, ALICE), (APP, ALICE, CAROL)}
    world.relations.set_blocked(APP, CAROL, ALICE, True)
    return world


@pytest.mark.parametrize(
    ("receiver", "status"),
    [
        (BOB, AckStatus.SUCCESS),
        (CAROL, AckStatus.IN_YOUR_BLACKLIST),
        (DAVE, AckStatus.NOT_YOUR_FRIEND),
        (DAVE + 1, AckStatus.NOT_MY_FRIEND),
        (ALICE, AckStatus.SUCCESS),
    ],
)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_relations(related: World, receiver: int, status: AckStatus, version: int) -> None:
    """Where they matter, who may not send is told so in version 2, and stores nothing; nor does an RT get through."""
    alice, other = related.connect(ALICE, version=version), related.connect(receiver)
    related.say(alice, IM(ALICE, receiver, 0, 1, b"hello"), seq=5)
    related.say(alice, RT(ALICE, receiver, b"typing"))
    if status is AckStatus.SUCCESS:
        assert alice.units[0] == acked(2, 5)
        assert other.units[-1] == plain([RT(ALICE, receiver, b"typing")])
    else:
        assert alice.units == ([refused(5, status)] if version == 2 else [])
        assert other.units == []
        assert related.timelines.entries == {}
        assert related.metrics.refusals.values == {status.name.lower(): 1}
        assert related.metrics.ignored.values == {"policy": 1}


def test_a_relation_that_takes_time(related: World) -> None:
    """The client's next commands wait until the message has its place in storage, and no longer."""
    alice, bob = related.connect(ALICE), related.connect(BOB)
    related.relations.hold()
    done = related.say(alice, HELLO, seq=4)
    assert done is not None
    assert (done.called, alice.units) == (False, [])
    related.timelines.hold()
    related.relations.release()
    assert done.called
    assert (alice.units, alice.unfinished) == ([], 1)
    related.timelines.release()
    assert (alice.units, bob.units) == ([acked(2, 4)], [pushed(2, HEARD)])


def test_a_relation_that_is_not_known(related: World) -> None:
    """The client is told to try again: that the database is away does not make anybody a friend, or blocked."""
    alice, bob = related.connect(ALICE), related.connect(BOB)
    related.relations.unavailable = True
    for message in (HELLO, RT(ALICE, BOB, b"typing")):
        done = related.say(alice, message, seq=4)
        assert done is not None
        assert done.called
    assert alice.units == [refused(4, AckStatus.NOT_STORED)]
    assert (bob.units, related.timelines.entries) == ([], {})


def test_an_rt_waits_for_its_relation(related: World) -> None:
    """And is sent once that is known."""
    alice, bob = related.connect(ALICE), related.connect(BOB)
    related.relations.hold()
    done = related.say(alice, RT(ALICE, BOB, b"typing"))
    assert done is not None
    assert (done.called, bob.units) == (False, [])
    related.relations.release()
    assert (done.called, bob.units) == (True, [plain([RT(ALICE, BOB, b"typing")])])


def test_words_that_are_not_to_be_said() -> None:
    """They are masked in `text` of JSON, whatever flags the sender sets, and with TEXT in the whole content, in IM and
    RT. What is stored is what is pushed; a resend is known by what the client sent."""
    world = World(words=["bad", "worse"])
    alice, tablet, bob = world.connect(ALICE), world.connect(ALICE, b"tablet"), world.connect(BOB, version=0)
    for said, flag, heard in (
        (b'{"text":"so bad","other":"bad"}', 0, b'{"text":"so ***","other":"bad"}'),
        (b'{"text":"so bad","other":"bad"}', Flag.TEXT, b'{"text":"so ***","other":"***"}'),
        (b"bad", 0, b"bad"),
        (b"bad", Flag.TEXT, b"***"),
    ):
        bob.forget()
        tablet.forget()
        world.say(alice, IM(ALICE, BOB, 0, 0, said), flag)
        world.say(alice, RT(ALICE, BOB, said), flag)
        im, rt = bob.units
        assert im[1].message == IM(ALICE, BOB, 0, 0, heard)
        assert tablet.units[0][1].message == world.stored(BOB)[-1] == IM(ALICE, BOB, NOW, 0, heard)
        assert rt == [Said(RT(ALICE, BOB, heard), flag)]
    alice.forget()
    for seq, text in enumerate((b"bad", b"bad", b"worse")):
        world.say(alice, IM(ALICE, BOB, 0, 5, b'{"text":"%s"}' % text), seq=seq)
    assert alice.units == [acked(6, 0), acked(6, 1), acked(7, 2)]


def test_words_are_not_looked_for_in_what_is_refused() -> None:
    """It costs time for each character."""
    world = World(words=["bad"])
    world.settings(ALICE, forbidden=True)
    alice = world.connect(ALICE)
    for message in (IM(ALICE, BOB, 0, 0, b'{"text":"bad"}'), RT(ALICE, BOB, b'{"text":"bad"}')):
        world.say(alice, message, Flag.TEXT)
    assert world.words.looked_at == []


@pytest.mark.parametrize(("version", "answer"), [(0, []), (1, []), (2, [refused(5, AckStatus.NOT_STORED)])])
def test_not_stored(world: World, version: int, answer: list[list[Said]]) -> None:
    """A message that is not on disk is not acknowledged, and nobody hears of it."""
    alice, bob = world.connect(ALICE, version=version), world.connect(BOB)
    world.timelines.failing = Unavailable("as the test wants it")
    world.say(alice, HELLO, seq=5)
    assert (alice.units, alice.unfinished) == (answer, 0)
    assert (bob.units, world.bus.published, world.push_queue.pushed) == ([], [], [])
    assert world.metrics.refusals.values == {"not_stored": 1}


def test_too_many_messages_wait(world: World) -> None:
    """A message that storage does not take is answered in its turn, and what is taken after it, too."""
    alice = world.connect(ALICE)
    world.timelines.hold()
    world.say(alice, HELLO, seq=1)
    world.timelines.full = True
    world.say(alice, IM(ALICE, BOB, 0, 2, b"second"), seq=2)
    world.timelines.full = False
    world.say(alice, IM(ALICE, BOB, 0, 3, b"third"), seq=3)
    assert (alice.units, alice.unfinished) == ([], 3)
    world.timelines.release()
    assert alice.units == [acked(2, 1), refused(2, AckStatus.NOT_STORED), acked(3, 3)]
    assert alice.unfinished == 0
    world.timelines.full = True
    world.say(alice, HELLO, seq=4)
    assert (alice.units[3:], alice.unfinished) == ([refused(4, AckStatus.NOT_STORED)], 0)


def test_a_bug_in_storage(world: World, flush_logged_errors: FlushLoggedErrors) -> None:
    """An error that nobody foresaw is logged, and the client is told to try again: it may be that it is stored."""
    alice = world.connect(ALICE)
    world.timelines.failing = ZeroDivisionError("as the test wants it")
    world.say(alice, HELLO, seq=5)
    assert (alice.units, alice.unfinished) == ([refused(5, AckStatus.NOT_STORED)], 0)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_bug_while_telling(world: World, flush_logged_errors: FlushLoggedErrors) -> None:
    """A message that is on disk is acknowledged, whatever goes wrong when others are told of it."""
    alice, bob = world.connect(ALICE), world.connect(BOB)

    def broken(push: Push) -> None:
        raise ZeroDivisionError("as the test wants it")

    bob.enqueue_non_block = broken  # type: ignore[method-assign]  # this fake alone has a bug
    world.say(alice, HELLO, seq=5)
    assert alice.units == [acked(2, 5)]
    assert world.stored(BOB) == [HEARD]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_sender_gone_before_it_is_stored(world: World) -> None:
    """The message is delivered all the same."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    world.say(alice, HELLO)
    world.leave(alice)
    world.timelines.release()
    assert alice.units == []
    assert bob.units == [pushed(2, HEARD)]


# Resends


def test_resend_by_uuid(world: World) -> None:
    """Under another seq and msgid, from another device, with other text: the same uuid is answered with the first's
    keys, and told to nobody."""
    phone = world.connect(ALICE, b"phone")
    world.say(phone, IM(ALICE, BOB, 0, 0, UUID), seq=1)
    world.say(phone, IM(ALICE, CAROL, 0, 0, b"between"), seq=2)
    tablet, web, bob = world.connect(ALICE, b"tablet"), world.connect(ALICE), world.connect(BOB)
    phone.forget()
    world.push_queue.pushed.clear()
    world.say(phone, IM(ALICE, BOB, 0, 0, UUID), seq=3)
    world.say(tablet, IM(ALICE, BOB, 0, 8, b'{"uuid":"7ac4","text":"changed"}'), seq=4)
    world.say(web, IM(ALICE, BOB, 0, 9, UUID), seq=5)
    assert (phone.units, tablet.units, web.units) == ([acked(2, 3)], [acked(2, 4)], [acked(2, 5)])
    assert (bob.units, world.push_queue.pushed) == ([], [])
    assert world.stored(BOB) == [IM(ALICE, BOB, NOW, 0, UUID)]
    assert world.metrics.resends.values == {"": 3}


def test_resend_while_the_first_is_being_stored(world: World) -> None:
    """Both are answered, with the same keys, in order; the receiver hears it once."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.timelines.hold()
    world.say(alice, IM(ALICE, BOB, 0, 0, UUID), seq=1)
    world.say(alice, IM(ALICE, BOB, 0, 0, UUID), seq=2)
    world.timelines.release()
    assert alice.units == [acked(2, 1), acked(2, 2)]
    assert bob.units == [pushed(2, IM(ALICE, BOB, NOW, 0, UUID))]


def test_uuid_window(world: World) -> None:
    """For 24 hours a uuid stands for one message, then for another."""
    alice = world.connect(ALICE)
    world.say(alice, IM(ALICE, BOB, 0, 0, UUID), seq=1)
    world.now += 24 * 3600 - 1
    world.say(alice, IM(ALICE, BOB, 0, 0, UUID), seq=2)
    world.now += 1
    world.say(alice, IM(ALICE, BOB, 0, 0, UUID), seq=3)
    assert alice.units == [acked(2, 1), acked(2, 2), acked(3, 3)]
    assert len(world.stored(BOB)) == 2


def test_resend_by_msgid(world: World) -> None:
    """Without a uuid the same content under the same msgid from the same device is a resend, for ten minutes."""
    alice = world.connect(ALICE, b"phone")
    for seconds in (0, 599, 1):
        world.now += seconds
        world.say(alice, HELLO)
    assert alice.units == [acked(2, 1), acked(2, 1), acked(3, 1)]
    world.say(alice, IM(ALICE, BOB, 0, 77, b"hallo"))
    world.say(alice, IM(ALICE, BOB, 0, 78, b"hello"))
    world.say(world.connect(ALICE, b"tablet"), HELLO)
    assert len(world.stored(BOB)) == 5


def test_no_uuid_and_no_msgid(world: World) -> None:
    """Who says the same twice, and numbers neither, said it twice."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    for seq in (1, 2):
        world.say(alice, IM(ALICE, BOB, 0, 0, b"hello"), seq=seq)
    assert alice.units == [acked(2, 1), acked(3, 2)]
    assert len(bob.units) == 2


def test_same_uuid_elsewhere(world: World) -> None:
    """To another receiver, from another sender, back, or in another app it is another message."""
    alice, bob, carol, stranger = (
        world.connect(ALICE),
        world.connect(BOB),
        world.connect(CAROL),
        world.connect(ALICE, appid=8),
    )
    for connection, sender, receiver in (
        (alice, ALICE, BOB),
        (alice, ALICE, CAROL),
        (bob, BOB, ALICE),
        (carol, CAROL, BOB),
        (stranger, ALICE, BOB),
    ):
        world.say(connection, IM(sender, receiver, 0, 0, UUID))
    assert world.metrics.resends.values == {"": 0}
    assert [len(world.stored(uid)) for uid in (ALICE, BOB, CAROL)] == [3, 3, 2]
    assert len(world.stored(BOB, appid=8)) == 1


# The push queue


def test_offline_receiver(world: World) -> None:
    """Who has no connection is given to the push queue, with the message as it is stored; the sender never is."""
    alice = world.connect(ALICE, platform=Platform.WEB)
    world.leave(world.connect(BOB))
    world.say(alice, HELLO, Flag.TEXT)
    ((message, receivers),) = world.push_queue.pushed
    assert receivers == [UserKey(APP, BOB)]
    assert (message.command, message.flag, IM.decode(message.body, 2)) == (HELLO.command, Flag.TEXT, HEARD)
    assert world.metrics.offline_pushes.values == {"": 1}


@pytest.mark.parametrize(
    ("platform", "notification_on", "rung"),
    [
        (Platform.ANDROID, False, False),
        (Platform.IOS, True, False),
        (Platform.WEB, False, False),
        (Platform.WINDOWS, False, False),
        (Platform.MACOS, True, True),
        (Platform.WEB, True, True),
    ],
)
def test_online(world: World, platform: Platform, notification_on: bool, rung: bool) -> None:
    """A phone is online; a desktop is, unless its user wants the phone to ring although it is on."""
    world.settings(BOB, notification_on=notification_on)
    bob = world.connect(BOB, platform=platform)
    world.say(world.connect(ALICE), HELLO)
    assert bob.units == [pushed(2, HEARD)]
    assert [receivers for _, receivers in world.push_queue.pushed] == [[UserKey(APP, BOB)]] * rung


def test_online_elsewhere(world: World) -> None:
    """Who is online on another node is not rung."""
    world.bus.elsewhere.add(UserKey(APP, BOB))
    world.say(world.connect(ALICE), HELLO)
    assert world.push_queue.pushed == []


def test_senders_phone_is_not_rung(world: World) -> None:
    """Not even where the sender's own devices do not count as online."""
    world.settings(ALICE, notification_on=True)
    alice = world.connect(ALICE, platform=Platform.WINDOWS)
    world.connect(BOB)
    world.say(alice, HELLO)
    world.say(alice, IM(ALICE, ALICE, 0, 1, b"note"))
    assert world.push_queue.pushed == []


# RT


def test_rt(world: World) -> None:
    """It goes to all of the receiver's connections and other nodes: not stored, not answered, nobody is rung."""
    alice, tablet = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet")
    bobs = [world.connect(BOB, b"phone"), world.connect(BOB, b"phone"), world.connect(BOB, platform=Platform.WEB)]
    typing = RT(ALICE, BOB, b"typing")
    assert world.say(alice, typing) is None
    for bob in bobs:
        assert bob.units == [plain([typing])]
        assert bob.pushes[0].timeline is None
    assert alice.units == tablet.units == []
    assert world.bus.published == [Published(UserKey(APP, BOB), plain([typing]), 0)]
    world.say(alice, RT(ALICE, CAROL, b"typing"))
    assert (world.timelines.entries, world.push_queue.pushed) == ({}, [])


def test_rt_to_oneself(world: World) -> None:
    """One's other devices get it, not the connection that said it."""
    alice, tablet = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet")
    world.say(alice, RT(ALICE, ALICE, b"typing"))
    assert alice.units == []
    assert tablet.units == [plain([RT(ALICE, ALICE, b"typing")])]


@pytest.mark.parametrize("flag", range(64))
def test_rt_flags(world: World, flag: int) -> None:
    """Only TEXT goes on."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, RT(ALICE, BOB, b"typing"), flag)
    assert bob.units == [[Said(RT(ALICE, BOB, b"typing"), flag & Flag.TEXT)]]


@pytest.mark.parametrize("size", [0, 32751])
def test_rt_of_every_size(world: World, size: int) -> None:
    """From nothing to all that a frame holds."""
    alice, bob = world.connect(ALICE, version=0), world.connect(BOB)
    world.say(alice, RT(ALICE, BOB, b"x" * size))
    assert bob.units == [plain([RT(ALICE, BOB, b"x" * size)])]


def test_rt_and_the_same_device(world: World) -> None:
    """Another connection of the device that sends it hears nothing, but the same device of somebody else does."""
    old, phone, shared = (world.connect(uid, b"phone") for uid in (ALICE, ALICE, BOB))
    world.say(phone, RT(ALICE, ALICE, b"typing"))
    world.say(phone, RT(ALICE, BOB, b"typing"))
    assert old.units == []
    assert shared.units == [plain([RT(ALICE, BOB, b"typing")])]
    assert [published.device for published in world.bus.published] == [phone.device, 0]


def test_rt_of_somebody_else(world: World) -> None:
    """The sender must be the uid."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    for sender in (0, CAROL):
        world.say(alice, RT(sender, BOB, b"typing"))
    assert bob.units == alice.units == []
    assert world.metrics.ignored.values == {"sender": 2}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_rt_of_the_forbidden(world: World, version: int) -> None:
    """Who may not speak may not speak in real time either. RT has no answer, so there is none."""
    world.settings(ALICE, forbidden=True)
    alice, bob = world.connect(ALICE, version=version), world.connect(BOB)
    world.say(alice, RT(ALICE, BOB, b"typing"))
    assert alice.units == bob.units == []
    assert world.metrics.ignored.values == {"policy": 1}


def test_rt_stays_in_its_app(world: World) -> None:
    """A user of the same number in another app does not get it."""
    alice, other = world.connect(ALICE), world.connect(BOB, appid=8)
    world.say(alice, RT(ALICE, BOB, b"typing"))
    assert other.units == []


@pytest.mark.parametrize("receiver", [0, -1, 2**53])
def test_rt_to_nobody(world: World, receiver: int) -> None:
    """For numbers that nobody can have other nodes are not asked."""
    alice = world.connect(ALICE)
    world.say(alice, RT(ALICE, receiver, b"typing"))
    assert world.bus.published == []
    assert world.metrics.ignored.values == {"receiver": 1}


# UNREAD_COUNT


def unread(world: World, uid: int) -> int:
    return world.directory._users[UserKey(APP, uid)].unread


@pytest.mark.parametrize(("count", "remembered"), [(3, 3), (0, 0), (2**31 - 1, 2**31 - 1), (-1, 0), (-(2**31), 0)])
def test_unread_count(world: World, count: int, remembered: int) -> None:
    """It is remembered for the connection's user; there are no fewer than none. No answer."""
    alice = world.connect(ALICE)
    world.directory.set_unread(UserKey(APP, ALICE), 7)
    done = world.say(alice, UnreadCount(count))
    assert done is not None
    assert done.called
    assert unread(world, ALICE) == remembered
    assert alice.units == []


def test_unread_count_that_is_not_remembered(world: World) -> None:
    """That costs the client nothing."""
    alice = world.connect(ALICE)
    world.directory.unavailable = True
    done = world.say(alice, UnreadCount(3))
    assert done is not None
    assert done.called
    assert (alice.units, alice.closing) == ([], "")


def test_pushes_are_answered_by_nothing(world: World) -> None:
    """What clients say to a push (ACK, with its seq) changes nothing."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, HELLO)
    alice.forget()
    assert world.say(bob, Ack(1)) is None
    assert alice.units == []
    assert bob.said[-1] == Said(SyncNotify(2))


def test_ack_seconds(world: World) -> None:
    """The time from a message's arrival to its ACK is measured, of those that are acknowledged."""
    alice: FakeConnection = world.connect(ALICE)
    world.timelines.hold()
    world.say(alice, HELLO)
    world.seconds += 0.25
    world.timelines.release()
    assert world.metrics.ack_seconds.sum == 0.25
