"""AUTH_TOKEN: who a connection is, and what it may do before anybody knows."""

import pytest
from twisted.internet.defer import Deferred

from imserver.model import UserKey
from imserver.protocol.commands import CLIENT_MAY_SEND, Command, Platform
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import Frame
from imserver.protocol.messages import (
    IM,
    MESSAGES,
    RT,
    Ack,
    AuthStatus,
    AuthToken,
    Customer,
    CustomerSupport,
    CustomerV2,
    EnterRoom,
    GroupIM,
    GroupSyncKey,
    LeaveRoom,
    Message,
    Metadata,
    Ping,
    Pong,
    RoomIM,
    Sync,
    SyncGroup,
    SyncKey,
    UnreadCount,
)
from tests.fakes.chat import FakeConnection, Said
from tests.unit.chat.world import APP, World

ALICE, BOB = 1, 2

#: One of each command that a client may send, as user 0 would who is what a stranger looks like.
FROM_A_STRANGER: list[Message] = [
    IM(0, BOB, 0, 1, b"hello"),
    GroupIM(0, 5, 0, 1, b"hello"),
    Pong(),
    RT(0, BOB, b"hello"),
    EnterRoom(9),
    LeaveRoom(9),
    RoomIM(0, 9, b"hello"),
    UnreadCount(3),
    Customer(0, 0, 1, BOB, 0, b"hello"),
    CustomerSupport(0, 0, 1, BOB, 0, b"hello"),
    CustomerV2(0, 0, APP, BOB, 0, b"hello"),
    Sync(0),
    SyncGroup(5, 0),
    SyncKey(4),
    GroupSyncKey(5, 4),
    Metadata(1, 0),
]


def sign_ins(world: World) -> dict[str, int]:
    return world.metrics.sign_ins.values


def test_sign_in(world: World) -> None:
    """A good token makes the connection its user's, under the number of its device."""
    connection = FakeConnection()
    done = world.say(connection, AuthToken(Platform.ANDROID, world.token(ALICE), b"pixel"))
    assert done is not None
    assert done.called
    assert connection.said == [Said(AuthStatus(0))]
    assert (connection.user, connection.device, connection.device_id) == (UserKey(APP, ALICE), 1, "pixel")
    assert world.registry.connections_of(UserKey(APP, ALICE)) == [connection]
    assert world.bus.subscribed == [UserKey(APP, ALICE)]
    assert sign_ins(world) == {"ok": 1}


@pytest.mark.parametrize(("claimed", "answered"), [(0, 0), (1, 1), (2, 2), (3, 2), (255, 2)])
def test_version_is_that_of_auth_token(world: World, claimed: int, answered: int) -> None:
    """Whatever versions the client's later frames carry, it is answered in the one that it signed in with."""
    connection = FakeConnection(version=0)
    token = AuthToken(Platform.WEB, world.token(ALICE), b"").encode(2)
    world.chat.handle(connection, Frame(1, Command.AUTH_TOKEN, claimed, 0, token))
    assert connection.version == answered
    world.chat.handle(connection, Frame(2, Command.IM, 0, 0, IM(ALICE, BOB, 0, 0, b"without timestamp").encode(0)))
    assert connection.version == answered
    assert world.stored(BOB) == [IM(ALICE, BOB, int(world.now), 0, b"without timestamp")]
    assert connection.said[-1] == Said(Ack(2))


def test_user_is_subscribed_once(world: World) -> None:
    """The bus hears of a user's first and last connection, not of those between."""
    first, second = world.connect(ALICE), world.connect(ALICE)
    world.leave(first)
    assert world.bus.subscribed == [UserKey(APP, ALICE)]
    assert world.bus.unsubscribed == []
    world.leave(second)
    assert world.bus.unsubscribed == [UserKey(APP, ALICE)]
    assert not world.registry.connections_of(UserKey(APP, ALICE))


def test_status_waits_for_the_subscription(world: World) -> None:
    """AUTH_STATUS leaves when messages from other nodes arrive, not before."""
    standing: Deferred[None] = Deferred()
    world.bus.subscribing = standing
    connection = FakeConnection()
    done = world.say(connection, AuthToken(Platform.ANDROID, world.token(ALICE), b""))
    assert done is not None
    assert (connection.said, done.called) == ([], False)
    standing.callback(None)
    assert connection.said == [Said(AuthStatus(0))]
    assert done.called


def test_connection_lost_while_the_subscription_is_made(world: World) -> None:
    """Who goes while it waits for the bus leaves nothing behind, and is no sign-in."""
    standing: Deferred[None] = Deferred()
    world.bus.subscribing = standing
    connection = FakeConnection()
    world.say(connection, AuthToken(Platform.ANDROID, world.token(ALICE), b""))
    world.leave(connection)
    standing.callback(None)
    assert world.bus.unsubscribed == [UserKey(APP, ALICE)]
    assert not world.registry.connections_of(UserKey(APP, ALICE))
    assert connection.said == []
    assert sign_ins(world) == {}


def test_second_auth_is_ignored(world: World) -> None:
    """Who is signed in stays who it is, also with another's token, or with nobody's."""
    connection = world.connect(ALICE)
    for token in (world.token(BOB), b"nobody's"):
        assert world.say(connection, AuthToken(Platform.WEB, token, b"")) is None
    assert connection.said == []
    assert connection.closing == ""
    assert connection.user == UserKey(APP, ALICE)
    assert not world.registry.connections_of(UserKey(APP, BOB))
    assert world.metrics.ignored.values == {"second_auth": 2}


def test_refused(world: World) -> None:
    """Nobody's token: AUTH_STATUS 1, and the connection is not anybody's."""
    connection = FakeConnection()
    world.say(connection, AuthToken(Platform.ANDROID, b"nobody's", b"pixel"))
    assert connection.said == [Said(AuthStatus(1))]
    assert (connection.user, connection.closing) == (None, "refused")
    assert world.bus.subscribed == []
    assert sign_ins(world) == {"refused": 1}


def test_throttled(world: World) -> None:
    """Where too many failed, a good token is refused too, without asking the directory."""
    connection = FakeConnection()
    connection.throttled = True
    world.directory.hold()  # an answer would never come
    assert world.say(connection, AuthToken(Platform.ANDROID, world.token(ALICE), b"")) is None
    assert connection.said == [Said(AuthStatus(1))]
    assert connection.closing == "refused"
    assert sign_ins(world) == {"throttled": 1}


def test_directory_unavailable(world: World) -> None:
    """No AUTH_STATUS, which would tell the user that the token is bad: the client is let go, and comes back."""
    world.directory.unavailable = True
    connection = FakeConnection()
    world.say(connection, AuthToken(Platform.ANDROID, world.token(ALICE), b""))
    assert connection.said == []
    assert (connection.user, connection.closing) == (None, "directory_unavailable")
    assert sign_ins(world) == {"unavailable": 1}


@pytest.mark.parametrize("token", [b"7-1", b"nobody's"])
def test_connection_lost_while_signing_in(world: World, token: bytes) -> None:
    """Who goes before the directory answers is not signed in: nobody would ever take it out again."""
    world.token(ALICE)
    world.directory.hold()
    connection = FakeConnection()
    done = world.say(connection, AuthToken(Platform.ANDROID, token, b""))
    world.leave(connection)
    world.directory.release()
    assert done is not None
    assert done.called
    assert not world.registry.connections_of(UserKey(APP, ALICE))
    assert (world.bus.subscribed, world.bus.unsubscribed) == ([], [])
    assert sign_ins(world) == {}


def test_lost_stranger(world: World) -> None:
    """A connection that never signed in has nothing to undo."""
    world.chat.lost(FakeConnection())
    assert world.bus.unsubscribed == []


def test_every_command_is_tried() -> None:
    """The list of what a stranger may try is complete."""
    tried = {message.command for message in FROM_A_STRANGER}
    assert tried == CLIENT_MAY_SEND - {Command.AUTH_TOKEN, Command.PING, Command.ACK}


@pytest.mark.parametrize("message", FROM_A_STRANGER, ids=lambda message: message.command.name)
def test_nothing_before_sign_in(world: World, message: Message) -> None:
    """Before AUTH_TOKEN no command does anything but be counted: nothing is answered, stored, sent or remembered."""
    bob = world.connect(BOB)
    world.say(bob, EnterRoom(9))
    world.directory.set_unread(UserKey(0, 0), 1)
    stranger = FakeConnection()
    assert world.say(stranger, message) is None
    assert stranger.units == bob.units == []
    assert (stranger.room, stranger.closing) == (0, "")
    assert (world.timelines.entries, world.timelines.saved) == ({}, {})
    assert world.directory._users[UserKey(0, 0)].unread == 1
    assert world.metrics.ignored.values == {"not_signed_in": 1}


def test_ping_and_ack_before_sign_in(world: World) -> None:
    """PING is answered; an ACK is heard."""
    stranger = FakeConnection(version=1)
    world.say(stranger, Ping())
    world.say(stranger, Ack(3))
    assert stranger.said == [Said(Pong())]
    assert world.metrics.ignored.values == {}


@pytest.mark.parametrize("command", sorted(set(range(256)) - CLIENT_MAY_SEND))
def test_commands_of_the_server(world: World, command: int) -> None:
    """What clients may not send is an error of the protocol, whoever sends it."""
    for connection in (FakeConnection(), world.connect(ALICE)):
        with pytest.raises(ProtocolError) as caught:
            world.chat.handle(connection, Frame(1, command, 2, 0, b"\0" * 64))
        assert caught.value.kind == "command"


@pytest.mark.parametrize("command", sorted(CLIENT_MAY_SEND - {Command.PING, Command.PONG}))
def test_body_too_short(world: World, command: int) -> None:
    """So is a body that is too short for its command, before and after sign-in."""
    assert MESSAGES[command].command == command
    for connection in (FakeConnection(), world.connect(ALICE)):
        with pytest.raises(ProtocolError) as caught:
            world.chat.handle(connection, Frame(1, command, 2, 0, b"\0\0"))
        assert caught.value.kind == "short"
