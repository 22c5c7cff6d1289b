"""The domain and real connections together: what clients do in one go, and what becomes of it."""

import pytest

from imserver.model import UserKey
from imserver.protocol.commands import AckStatus, Platform
from imserver.protocol.messages import (
    IM,
    Ack,
    AuthStatus,
    AuthToken,
    EnterRoom,
    GroupIM,
    Message,
    Metadata,
    Ping,
    Pong,
    RoomIM,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
    SyncKey,
)
from tests.fakes.chat import Said
from tests.unit.chat.line import Line, Outgoing, Server
from tests.unit.chat.world import APP, NOW, World, plain, pushed

ALICE, BOB = 1, 2
ROOM, GROUP = 9, 5


@pytest.fixture
def server(world: World) -> Server:
    return Server(world)


def auth(world: World, uid: int, device: bytes = b"", platform: Platform = Platform.WEB) -> Outgoing:
    return Outgoing(AuthToken(platform, world.token(uid), device), 1)


def enter(server: Server, uid: int, device: bytes = b"", version: int = 2) -> Line:
    """A client that is signed in and has synced an empty timeline."""
    line = server.connect(version)
    line.send(auth(server.world, uid, device, Platform.ANDROID), Outgoing(Sync(0), 2))
    assert line.read() == plain([AuthStatus(0), SyncBegin(0), SyncEnd(1)])
    return line


@pytest.mark.parametrize("cut", [None, 1, 7, 40])
def test_sign_in_in_one_go(world: World, server: Server, cut: int | None) -> None:
    """AUTH, ENTER_ROOM, SYNC, SYNC_GROUP and messages, without waiting, while the directory takes its time: all take
    effect, in that order, wherever TCP cuts the bytes."""
    sent = world.fill(ALICE, 2)
    world.directory.hold()
    line = server.connect(version=1)
    line.send(
        auth(world, ALICE),
        Outgoing(EnterRoom(ROOM), 2),
        Outgoing(Sync(0), 3),
        Outgoing(SyncGroup(GROUP, 0), 4),
        Outgoing(IM(ALICE, BOB, 0, 1, b"hello"), 5),
        Outgoing(RoomIM(ALICE, ROOM, b"hello"), 6),
        Outgoing(Ping(), 7),
        cut=cut,
    )
    assert line.read() == []
    world.directory.release()
    assert line.read() == plain(
        [
            AuthStatus(0),
            SyncBegin(0),
            *sent,
            SyncEnd(3),
            SyncGroupBegin(GROUP, 0),
            SyncGroupEnd(GROUP, 0),
            Metadata(4, 3),
            Ack(5),
            Ack(6),
            Pong(),
        ]
    )
    assert line.connection.room == ROOM


def test_refused_in_one_go(world: World, server: Server) -> None:
    """After a refusal nothing else that was sent takes effect. The connection is held for 5 s, then closed."""
    line = server.connect()
    line.send(
        Outgoing(AuthToken(Platform.ANDROID, b"nobody's", b"phone"), 1),
        auth(world, ALICE),
        Outgoing(EnterRoom(ROOM), 2),
        Outgoing(Sync(0), 3),
        Outgoing(Ping(), 4),
    )
    assert line.read() == [Said(AuthStatus(1))]
    line.send(auth(world, ALICE))
    server.pass_time(4)
    assert (line.read(), line.lost) == ([], False)
    server.pass_time(1)
    assert (line.read(), line.lost) == ([], True)
    assert line.connection.user is None
    assert world.metrics.closed.values == {"refused": 1}


def test_directory_unavailable_in_one_go(world: World, server: Server) -> None:
    """No AUTH_STATUS; the client is held, and closed."""
    world.directory.unavailable = True
    line = server.connect()
    line.send(auth(world, ALICE), Outgoing(Sync(0), 2))
    server.pass_time(4)
    assert (line.read(), line.lost) == ([], False)
    server.pass_time(1)
    assert (line.read(), line.lost) == ([], True)
    assert world.metrics.closed.values == {"directory_unavailable": 1}


def test_lost_while_signing_in(world: World, server: Server) -> None:
    """Nothing is left of a client that went before the directory answered."""
    world.directory.hold()
    line = server.connect()
    line.send(auth(world, ALICE), Outgoing(EnterRoom(ROOM), 2))
    line.hang_up()
    world.directory.release()
    assert not world.registry.connections_of(UserKey(APP, ALICE))
    assert not world.registry.connections_in(APP, ROOM)
    assert not server.listeners.connections


def test_messages_in_one_go(world: World, server: Server) -> None:
    """While they are being stored nothing else of the client takes effect; then all is answered in order: what is
    stored, what is refused, what is a resend, what came after. The receiver hears it in that order."""
    alice, bob = enter(server, ALICE, b"phone"), enter(server, BOB)
    world.timelines.hold()
    alice.send(
        Outgoing(IM(ALICE, BOB, 0, 0, b'{"uuid":"a"}'), 1),
        Outgoing(GroupIM(ALICE, GROUP, 0, 0, b"to a group"), 2),
        Outgoing(IM(ALICE, BOB, 0, 0, b'{"uuid":"b"}'), 3),
        Outgoing(Ack(2), 4),
        Outgoing(IM(ALICE, BOB, 0, 0, b'{"uuid":"a"}'), 5),
        Outgoing(SyncKey(3), 6),
        Outgoing(Sync(1), 7),
        Outgoing(EnterRoom(ROOM), 8),
        Outgoing(RoomIM(ALICE, ROOM, b"to a room"), 9),
    )
    assert (alice.read(), bob.read(), alice.connection.room, world.timelines.saved) == ([], [], 0, {})
    world.timelines.release()
    first, second = (IM(ALICE, BOB, NOW, 0, b'{"uuid":"%s"}' % uuid) for uuid in (b"a", b"b"))
    came = alice.read()
    assert [said.message for said in came] == [
        Metadata(2, 1),
        Ack(1),
        Ack(2, AckStatus.GROUP_NONEXISTENT),
        Metadata(3, 2),
        Ack(3),
        Metadata(2, 1),
        Ack(5),
        SyncBegin(1),
        first,
        second,
        SyncEnd(3),
        Ack(9),
    ]
    assert bob.read() == [*pushed(2, first), *pushed(3, second)]


def test_closed_with_messages_under_way(world: World, server: Server) -> None:
    """What a client that is gone had sent is stored and pushed; what had to wait for that is not done."""
    alice, bob = enter(server, ALICE), enter(server, BOB)
    world.timelines.hold()
    alice.send(Outgoing(IM(ALICE, BOB, 0, 0, b"hello"), 1), Outgoing(EnterRoom(ROOM), 2))
    alice.hang_up()
    world.timelines.release()
    assert bob.read() == pushed(2, IM(ALICE, BOB, NOW, 0, b"hello"))
    assert not world.registry.connections_in(APP, ROOM)
    assert not world.registry.connections_of(UserKey(APP, ALICE))


@pytest.mark.parametrize("message", [GroupIM(ALICE, GROUP, 0, 0, b""), IM(ALICE, BOB, 0, 0, b"hello")])
def test_closed_with_a_refusal_under_way(world: World, server: Server, message: Message) -> None:
    """Nor does an answer that had to wait for its turn."""
    alice = enter(server, ALICE)
    world.timelines.hold()
    alice.send(Outgoing(IM(ALICE, BOB, 0, 0, b"hello"), 1), Outgoing(message, 2))
    alice.hang_up()
    world.timelines.release()
    assert world.chat.delivery._newest == {}


def test_large_sync(world: World, server: Server) -> None:
    """A client that does not read is not sent more than some pages; when it reads it gets all, and the rest after
    that, and what it asked after its SYNC is answered after that."""
    number, size = 40, 30000
    bob = world.connect(BOB)
    sent = [IM(BOB, ALICE, NOW, n, bytes(size)) for n in range(number)]
    for message in sent:
        world.say(bob, message)
    world.timelines.page = 8
    alice = server.connect()
    alice.send(auth(world, ALICE), Outgoing(Sync(0), 2), Outgoing(Ping(), 3))
    for _ in range(10):
        server.clock.advance(0)
    assert sum(map(len, alice.transport.writes)) < 10 * size
    assert alice.read() == plain([AuthStatus(0), SyncBegin(0), *sent, SyncEnd(number + 1), Pong()])


def test_sync_while_the_receiver_is_written_to(world: World, server: Server) -> None:
    """What comes between two pages is pushed between them, where the client refuses it, and is found by the sync that
    its notice calls for."""
    alice, bob = enter(server, ALICE), world.connect(BOB)
    alice.read()
    world.timelines.page = 1
    sent = [IM(BOB, ALICE, NOW, n, bytes(30000)) for n in range(6)]
    for message in sent[:5]:
        world.say(bob, message)
    alice.read()
    alice.send(Outgoing(Sync(1), 3))
    server.clock.advance(0)
    world.say(bob, sent[5])
    assert alice.read() == [*plain([SyncBegin(1), *sent[:4]]), *pushed(7, sent[5]), *plain([sent[4], SyncEnd(6)])]
    alice.send(Outgoing(Sync(6), 4))
    assert alice.read() == plain([SyncBegin(6), sent[5], SyncEnd(7)])
