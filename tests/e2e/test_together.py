"""Clients of both transports, of all versions, with several devices, through a real `twistd imserver`."""

import json

import pytest
import pytest_twisted

from imserver.client.connection import ClientConnection, Received
from imserver.protocol.commands import Flag, Platform
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    EnterRoom,
    LeaveRoom,
    Message,
    Metadata,
    RoomIM,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncKey,
    SyncNotify,
)
from tests.e2e.process import ServerProcess

TRANSPORTS = ("tcp", "websocket")


async def taken(connection: ClientConnection) -> list[Received[Message]]:
    """All that the server has sent because of what was sent to it so far."""
    await connection.ping()
    received = list(connection.inbox)
    connection.inbox.clear()
    assert connection.seq_errors == 0
    return received


def messages(received: list[Received[Message]]) -> list[Message]:
    return [each.message for each in received]


async def synced(connection: ClientConnection, key: int) -> tuple[list[Received[Message]], int, int]:
    """What one SYNC brings, the key of SYNC_END, and how many SYNC_NOTIFY followed."""
    connection.send(Sync(key))
    received = await taken(connection)
    assert isinstance(received[0].message, SyncBegin)
    end = next(at for at, each in enumerate(received) if isinstance(each.message, SyncEnd))
    last = received[end].message
    assert isinstance(last, SyncEnd)
    return received[1:end], last.key, len(received) - end - 1


@pytest.mark.parametrize("sender_over", TRANSPORTS)
@pytest.mark.parametrize("receiver_over", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_peer_message(server: ServerProcess, sender_over: str, receiver_over: str) -> None:
    """A message is acknowledged with its key, and pushed whole, whatever the two transports are."""
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1], sender_over, "a")
    bob = await server.client(tokens[2], receiver_over, "b")
    seq = alice.send(IM(1, 2, 0, 5, "grüß dich 你好".encode()))
    assert messages(await taken(alice)) == [Metadata(2, 1), Ack(seq)]
    metadata, pushed, notify = await taken(bob)
    assert (metadata.message, notify.message) == (Metadata(2, 1), SyncNotify(2))
    assert isinstance(pushed.message, IM)
    assert pushed.message.content == "grüß dich 你好".encode()
    assert (pushed.message.sender, pushed.message.receiver, pushed.message.msgid) == (1, 2, 5)
    assert pushed.message.timestamp > 1_700_000_000
    assert pushed.frame.flag == Flag.PUSH
    assert pushed.frame.seq == metadata.frame.seq + 1
    for connection in (alice, bob):
        connection.close()
        await connection.closed


@pytest_twisted.ensureDeferred
async def test_three_devices(server: ServerProcess) -> None:
    """What one device sends, the user's other devices get; after a sync all three hold the same, marked SELF on one."""
    tokens = await server.tokens(1, 2)
    phone = await server.client(tokens[1], "tcp", "phone")
    desk = await server.client(tokens[1], "tcp", "desk", Platform.WINDOWS)
    tab = await server.client(tokens[1], "websocket", "", Platform.WEB, 1)
    peer = await server.client(tokens[2], "websocket", "peer")
    phone.send(IM(1, 2, 0, 1, b"from the phone"))
    await phone.ping()
    peer.send(IM(2, 1, 0, 1, b"answer"))
    await peer.ping()
    assert [type(m) for m in messages(await taken(phone))] == [Metadata, Ack, Metadata, IM, SyncNotify]
    for device in (desk, tab):
        got = messages(await taken(device))
        assert [m.content for m in got if isinstance(m, IM)] == [b"from the phone", b"answer"]
        assert [m for m in got if isinstance(m, Metadata)] == [Metadata(2, 1), Metadata(3, 2)]
    for device, own in ((phone, Flag.SELF), (desk, 0), (tab, 0)):
        entries, end, more = await synced(device, 0)
        assert [e.message.content for e in entries if isinstance(e.message, IM)] == [b"from the phone", b"answer"]
        assert [e.frame.flag for e in entries] == [own, 0]
        assert (end, more) == (3, 0)
    for connection in (phone, desk, tab, peer):
        connection.close()
        await connection.closed


@pytest_twisted.ensureDeferred
async def test_two_tabs(server: ServerProcess) -> None:
    """Two browser tabs of one user are two devices without a number: each sees what the other sends."""
    tokens = await server.tokens(1, 2)
    tabs = [await server.client(tokens[1], "websocket", device, Platform.WEB, 1) for device in ("", "guid of the page")]
    for tab in tabs:
        tab.send(EnterRoom(5))
        await tab.ping()
    for msgid, (writing, other) in enumerate((tabs, reversed(tabs)), 1):
        seq = writing.send(IM(1, 2, 0, msgid, b"from this tab"))
        room_seq = writing.send(RoomIM(1, 5, b"in the room"))
        own = messages(await taken(writing))
        assert [type(message) for message in own] == [Metadata, Ack, Ack]
        assert own[1:] == [Ack(seq), Ack(room_seq)]
        metadata, im, notify, room_im = messages(await taken(other))
        assert metadata == own[0]
        assert isinstance(im, IM)
        assert im.content == b"from this tab"
        assert isinstance(metadata, Metadata)
        assert notify == SyncNotify(metadata.key)
        assert room_im == RoomIM(1, 5, b"in the room")
    for tab in tabs:
        tab.close()
        await tab.closed


@pytest.mark.parametrize("flag", [0xFF, 0xFF & ~Flag.TEXT])
@pytest_twisted.ensureDeferred
async def test_flags_are_the_servers(server: ServerProcess, flag: int) -> None:
    """Of the flags that a sender sets only TEXT is passed on: in pushes, rooms, real-time messages and syncs."""
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1], "tcp", "a")
    desk = await server.client(tokens[1], "tcp", "desk")
    bob = await server.client(tokens[2], "websocket", "b")
    for each in (alice, bob):
        each.send(EnterRoom(5))
        await each.ping()
    for message in (IM(1, 2, 0, 1, b"x"), RT(1, 2, b"x"), RoomIM(1, 5, b"x")):
        alice.send(message, flag)
    assert {each.frame.flag for each in await taken(alice)} == {0}
    text = flag & Flag.TEXT
    for device, pushed in ((bob, [IM, RT, RoomIM]), (desk, [IM])):
        received = [each for each in await taken(device) if not isinstance(each.message, Metadata | SyncNotify)]
        assert [type(each.message) for each in received] == pushed
        assert [each.frame.flag for each in received] == [text | Flag.PUSH, text, text][: len(pushed)]
    for device, own in ((alice, Flag.SELF), (desk, 0), (bob, 0)):
        entries, _, _ = await synced(device, 0)
        assert [entry.frame.flag for entry in entries] == [text | own]
    for connection in (alice, desk, bob):
        connection.close()
        await connection.closed


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_offline_then_sync_over_a_page(server: ServerProcess, transport: str) -> None:
    """3001 messages while away: one answer holds 3000 and says that there is more; the saved key goes on from there."""
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1], "tcp", "a")
    sent = [json.dumps({"text": f"number {n}", "uuid": f"u{n}"}).encode() for n in range(3001)]
    for content in sent:
        alice.send(IM(1, 2, 0, 0, content))
    await alice.ping(timeout=30)
    assert sum(isinstance(each.message, Ack) for each in alice.inbox) == 3001
    bob = await server.client(tokens[2], transport, "b")
    first, end, more = await synced(bob, 0)
    assert [e.message.content for e in first if isinstance(e.message, IM)] == sent[:3000]
    assert (end, more) == (3001, 1)
    bob.send(SyncKey(end))
    bob.close()
    await bob.closed
    again = await server.client(tokens[2], transport, "another")
    again.send(Sync(0))
    rest = messages(await taken(again))
    assert rest[0] == SyncBegin(3001)
    assert [m.content for m in rest if isinstance(m, IM)] == sent[3000:]
    assert rest[-1] == SyncEnd(3002)
    for connection in (alice, again):
        connection.close()
        await connection.closed


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_versions(server: ServerProcess, transport: str) -> None:
    """A client of each version talks to one of each other version, in its own layout."""
    tokens = await server.tokens(1, 3)
    clients = {
        version: await server.client(tokens[version + 1], transport, f"v{version}", version=version)
        for version in (0, 1, 2)
    }
    for version, client in clients.items():
        for other in clients:
            client.send(IM(version + 1, other + 1, 0, 9, f"{version} to {other}".encode()))
        await client.ping()
    for version, client in clients.items():
        received = await taken(client)
        assert {each.frame.version for each in received} == {version}
        ims = [each.message for each in received if isinstance(each.message, IM)]
        assert [m.content for m in ims] == [f"{o} to {version}".encode() for o in (0, 1, 2) if o != version]
        assert all((m.timestamp == 0) == (version == 0) for m in ims)
        assert sum(isinstance(each.message, Ack) for each in received) == 3
        client.close()
        await client.closed


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("size", [0, 1, 125 - 36, 126 - 36, 32743])
@pytest_twisted.ensureDeferred
async def test_content_of_any_size(server: ServerProcess, transport: str, size: int) -> None:
    """Nothing, and 32 KB less the header, arrive as they were sent, pushed and synced."""
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1], transport, "a")
    bob = await server.client(tokens[2], transport, "b")
    content = bytes(n % 251 for n in range(size))
    alice.send(IM(1, 2, 0, 1, content))
    assert [type(m) for m in messages(await taken(alice))] == [Metadata, Ack]
    pushed = messages(await taken(bob))[1]
    entries, _, _ = await synced(bob, 0)
    for message in (pushed, entries[0].message):
        assert isinstance(message, IM)
        assert message.content == content
    for connection in (alice, bob):
        connection.close()
        await connection.closed


@pytest_twisted.ensureDeferred
async def test_rooms_and_realtime(server: ServerProcess) -> None:
    """A room is heard by those in it, on both transports; an RT by its receiver alone; neither is stored."""
    tokens = await server.tokens(1, 3)
    alice = await server.client(tokens[1], "tcp", "a")
    bob = await server.client(tokens[2], "websocket", "b")
    carol = await server.client(tokens[3], "tcp", "c")
    for each in (alice, bob, carol):
        each.send(EnterRoom(77))
        await each.ping()
    carol.send(LeaveRoom(77))
    await carol.ping()
    seq = alice.send(RoomIM(1, 77, b"hello room"))
    alice.send(RT(1, 3, b"typing"))
    assert messages(await taken(alice)) == [Ack(seq)]
    assert messages(await taken(bob)) == [RoomIM(1, 77, b"hello room")]
    assert messages(await taken(carol)) == [RT(1, 3, b"typing")]
    for uid, each in enumerate((alice, bob, carol), 1):
        assert await synced(each, 0) == ([], 1, 0), uid
        each.close()
        await each.closed


@pytest_twisted.ensureDeferred
async def test_pipelined_sign_in(server: ServerProcess) -> None:
    """AUTH, ENTER_ROOM, SYNC and a message in one write, as the JavaScript client does, take effect in order."""
    from twisted.internet import reactor

    from imserver.client.endpoints import connect
    from imserver.protocol.frame import encode_frame
    from imserver.protocol.messages import AuthStatus, AuthToken, Ping, Pong

    tokens = await server.tokens(1, 1)
    connection = await connect(reactor, server.address("tcp"))
    burst = (
        AuthToken(3, tokens[1].encode(), b""),
        EnterRoom(5),
        Sync(0),
        RoomIM(1, 5, b"anybody?"),
        IM(1, 1, 0, 1, b"note to self"),
        Ping(),
    )
    connection.send_bytes(
        b"".join(encode_frame(n, m.command, 1, 0, m.encode(1)) for n, m in enumerate(burst, 1)),
    )
    connection.version = 1
    answers = [(await connection.expect(Message)).message for _ in range(7)]
    assert answers == [
        AuthStatus(0),
        SyncBegin(0),
        SyncEnd(1),
        Ack(4),
        Metadata(2, 1),
        Ack(5),
        Pong(),
    ]
    connection.close()
    await connection.closed
