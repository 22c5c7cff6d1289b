"""Chat rooms: who is in is who hears."""

import pytest

from imserver.interfaces import IConnection
from imserver.model import UserKey
from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.messages import Ack, EnterRoom, LeaveRoom, RoomIM
from tests.fakes.chat import FakeConnection, PublishedToRoom, Said
from tests.unit.chat.world import APP, World, plain

ALICE, BOB, CAROL = 1, 2, 3
ROOM = 9
HELLO = RoomIM(ALICE, ROOM, b"hello")


def enter(world: World, uid: int, device: bytes = b"", version: int = 2, appid: int = APP) -> FakeConnection:
    """A connection in the room."""
    connection = world.connect(uid, device, Platform.ANDROID if device else Platform.WEB, version, appid)
    assert world.say(connection, EnterRoom(ROOM)) is None
    assert connection.room == ROOM
    return connection


def members(world: World, room: int = ROOM, appid: int = APP) -> list[IConnection]:
    return list(world.registry.connections_in(appid, room))


def test_message_to_a_room(world: World) -> None:
    """All others in the room get it, once and as it was said; the sender gets an ACK without METADATA."""
    alice, bob, carol, outside = enter(world, ALICE), enter(world, BOB), enter(world, CAROL), world.connect(BOB)
    assert world.say(alice, HELLO, seq=4) is None
    assert bob.units == carol.units == [plain([HELLO])]
    assert alice.units == [plain([Ack(4)])]
    assert outside.units == []
    assert bob.pushes[0].timeline is None
    assert world.bus.published_to_rooms == [PublishedToRoom(APP, ROOM, plain([HELLO]), UserKey(APP, ALICE), 0)]
    assert (world.timelines.entries, world.push_queue.pushed) == ({}, [])


@pytest.mark.parametrize(
    ("said", "flag", "heard"),
    [
        (b'{"text":"so bad","other":"bad"}', 0, b'{"text":"so ***","other":"bad"}'),
        (b"bad", 0, b"bad"),
        (b"bad", Flag.TEXT, b"***"),
    ],
)
def test_words_that_are_not_to_be_said(said: bytes, flag: int, heard: bytes) -> None:
    """They are masked in rooms as they are between users."""
    world = World(words=["bad"])
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.say(alice, RoomIM(ALICE, ROOM, said), flag)
    assert bob.units == [[Said(RoomIM(ALICE, ROOM, heard), flag)]]


def test_message_in_an_empty_room(world: World) -> None:
    """Who is alone is answered all the same."""
    alice = enter(world, ALICE)
    world.say(alice, HELLO, seq=4)
    assert alice.units == [plain([Ack(4)])]


def test_senders_other_devices(world: World) -> None:
    """They hear it, but not another connection of the same device; two web tabs hear each other."""
    phone, old, tablet = enter(world, ALICE, b"phone"), enter(world, ALICE, b"phone"), enter(world, ALICE, b"tablet")
    tab, other_tab = enter(world, ALICE), enter(world, ALICE)
    shared = enter(world, BOB, b"phone")
    assert shared.device == phone.device
    world.say(phone, HELLO)
    assert old.units == []
    assert tablet.units == tab.units == other_tab.units == shared.units == [plain([HELLO])]
    assert world.bus.published_to_rooms[0].device == phone.device
    other_tab.forget()
    world.say(tab, HELLO)
    assert other_tab.units == [plain([HELLO])]


def test_rooms_of_another_app(world: World) -> None:
    """A room of the same number in another app is another room."""
    alice, stranger = enter(world, ALICE), enter(world, BOB, appid=8)
    world.say(alice, HELLO)
    assert stranger.units == []
    world.say(stranger, RoomIM(BOB, ROOM, b"hello"), seq=4)
    assert stranger.units == [plain([Ack(4)])]
    assert len(alice.units) == 1
    assert (members(world), members(world, appid=8)) == ([alice], [stranger])


def test_one_room_at_a_time(world: World) -> None:
    """Entering a room leaves the one before."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.say(bob, EnterRoom(ROOM + 1))
    assert bob.room == ROOM + 1
    world.say(alice, HELLO)
    assert bob.units == []
    assert (members(world), members(world, ROOM + 1)) == ([alice], [bob])


def test_entering_twice(world: World) -> None:
    """Who is in stays in, and hears things once."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.say(alice, EnterRoom(ROOM))
    assert members(world) == [alice, bob]
    world.say(bob, RoomIM(BOB, ROOM, b"hello"))
    assert alice.units == [plain([RoomIM(BOB, ROOM, b"hello")])]


def test_room_0(world: World) -> None:
    """There is no room 0: it is not entered, left, or spoken in, and nobody loses the room they are in."""
    alice, outside = enter(world, ALICE), world.connect(BOB)
    for connection in (alice, outside):
        world.say(connection, EnterRoom(0))
        world.say(connection, LeaveRoom(0))
        world.say(connection, RoomIM(connection.uid, 0, b"hello"))
        assert connection.units == []
    assert (alice.room, outside.room) == (ROOM, 0)
    assert (members(world), members(world, 0)) == ([alice], [])
    assert world.metrics.ignored.values == {"room": 6}


def test_leaving(world: World) -> None:
    """Who left hears nothing more, and may not speak."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.say(bob, LeaveRoom(ROOM))
    assert bob.room == 0
    world.say(alice, HELLO)
    world.say(bob, RoomIM(BOB, ROOM, b"hello"))
    assert bob.units == []
    assert alice.units == [plain([Ack(1)])]
    world.say(alice, LeaveRoom(ROOM))
    assert members(world) == []


def test_leaving_another_room(world: World) -> None:
    """Only one's own room can be left."""
    alice = enter(world, ALICE)
    world.say(alice, LeaveRoom(ROOM + 1))
    assert members(world) == [alice]
    assert world.metrics.ignored.values == {"room": 1}


def test_connection_lost(world: World) -> None:
    """Who is gone is no longer in the room."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.leave(bob)
    assert members(world) == [alice]


def test_speaking_in_another_room(world: World) -> None:
    """Only from within a room one speaks to it: elsewhere nothing is said, and nothing answered."""
    alice, bob, outside = enter(world, ALICE), enter(world, BOB), world.connect(CAROL)
    world.say(alice, RoomIM(ALICE, ROOM + 1, b"hello"))
    world.say(outside, RoomIM(CAROL, ROOM, b"hello"))
    assert alice.units == bob.units == outside.units == []
    assert world.metrics.ignored.values == {"room": 2}


@pytest.mark.parametrize("sender", [0, BOB])
def test_sender_must_be_the_uid(world: World, sender: int) -> None:
    """Who says to be somebody else is not listened to."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.say(alice, RoomIM(sender, ROOM, b"hello"))
    assert alice.units == bob.units == []
    assert world.metrics.ignored.values == {"sender": 1}


@pytest.mark.parametrize(("version", "answer"), [(0, []), (1, []), (2, [plain([Ack(5, AckStatus.MUTED)])])])
def test_forbidden_users_are_not_heard(world: World, version: int, answer: list[list[Said]]) -> None:
    """Version 2 is told why; older clients, to whom any ACK means success, are told nothing."""
    world.settings(ALICE, forbidden=True)
    alice, bob = enter(world, ALICE, version=version), enter(world, BOB)
    world.say(alice, HELLO, seq=5)
    assert alice.units == answer
    assert bob.units == []
    assert world.bus.published_to_rooms == []
    assert world.metrics.refusals.values == {"muted": 1}


@pytest.mark.parametrize("flag", range(64))
def test_flags_are_the_servers(world: World, flag: int) -> None:
    """Only TEXT goes on."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    world.say(alice, HELLO, flag)
    assert bob.units == [[Said(HELLO, flag & Flag.TEXT)]]
    assert alice.units == [plain([Ack(1)])]


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 32751])
def test_contents_of_every_size(world: World, version: int, size: int) -> None:
    """From nothing to all that a frame holds, between clients of any version."""
    alice, bob = enter(world, ALICE, version=version), enter(world, BOB, version=2 - version)
    message = RoomIM(ALICE, ROOM, b"\xff" * size)
    world.say(alice, message)
    assert bob.units == [plain([message])]


def test_room_messages_are_sent_as_often_as_they_are_said(world: World) -> None:
    """They are not stored, so no resend is recognised."""
    alice, bob = enter(world, ALICE), enter(world, BOB)
    for seq in (1, 2):
        world.say(alice, RoomIM(ALICE, ROOM, b'{"uuid":"7ac4"}'), seq=seq)
    assert len(bob.units) == len(alice.units) == 2
