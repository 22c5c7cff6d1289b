"""Clients that break the protocol, guess, flood, or take up room: closed or slowed down, and nobody else notices."""

import base64
import random
import socket
import time
from collections.abc import Callable, Iterator
from struct import pack
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from imserver.client.address import parse_address
from imserver.client.connection import ClientConnection, Received
from imserver.client.endpoints import connect
from imserver.client.errors import Closed, TookTooLong
from imserver.protocol.commands import Command
from imserver.protocol.frame import HEADER_SIZE, MAX_BODY, encode_frame
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    AuthStatus,
    AuthToken,
    EnterRoom,
    GroupIM,
    GroupSyncKey,
    LeaveRoom,
    Message,
    RoomIM,
    Sync,
    SyncEnd,
    SyncGroup,
    SyncKey,
    UnreadCount,
)
from tests.e2e.load import (
    KIB,
    MIB,
    NOBODY,
    TRANSPORTS,
    Memory,
    Raw,
    Talker,
    Witness,
    close_all,
    connect_from,
    connect_raw,
    metric,
    more_acks,
    percentile,
    until,
)
from tests.e2e.process import ServerProcess

#: Bytes of body that each command's fields take, at least, in versions 1 and 2.
SHORTEST = {
    Command.IM: 24,
    Command.ACK: 4,
    Command.GROUP_IM: 24,
    Command.AUTH_TOKEN: 3,
    Command.RT: 16,
    Command.ENTER_ROOM: 8,
    Command.LEAVE_ROOM: 8,
    Command.ROOM_IM: 16,
    Command.UNREAD_COUNT: 4,
    Command.CUSTOMER: 36,
    Command.CUSTOMER_SUPPORT: 36,
    Command.SYNC: 8,
    Command.SYNC_GROUP: 16,
    Command.SYNC_KEY: 8,
    Command.GROUP_SYNC_KEY: 16,
    Command.METADATA: 32,
    Command.CUSTOMER_V2: 36,
}


def run(coroutine: Any) -> Any:
    return pytest_twisted.blockon(Deferred.fromCoroutine(coroutine))


def assert_calm(server: ServerProcess) -> None:
    """What strangers do is counted; a log that they can fill, or a traceback, would be a defect."""
    for word in ("Traceback", "#error]", "#critical]", "#warn]", "Unhandled"):
        assert word not in server.log, server.log


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that all tests of wrong bytes share. Nothing that they do may get into its log."""
    from twisted.internet import reactor

    server = ServerProcess(
        reactor,
        tmp_path_factory.mktemp("impatient"),
        "[limits]\nsign_in_seconds = 2\nwebsocket_handshake_seconds = 1\nrefused_hold_seconds = 1\n",
    )
    run(server.start())
    yield server
    assert run(server.stop()) == 0
    assert_calm(server)


@pytest.fixture(scope="module")
def token(impatient: ServerProcess) -> str:
    token: str = run(impatient.tokens(1, 1))[1]
    return token


async def open_connection(server: ServerProcess, transport: str, token: str = "") -> ClientConnection:
    """A connection, signed in where there is a token."""
    from twisted.internet import reactor

    connection = await connect(reactor, server.address(transport))
    if token:
        assert (await connection.sign_in(token)).status == 0
    return connection


CODES = {"tcp": None, "websocket": 1002}


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("length", [-1, -(2**31), MAX_BODY + 1, 2**31 - 1])
@pytest_twisted.ensureDeferred
async def test_a_length_that_cannot_be(
    impatient: ServerProcess, token: str, transport: str, length: int, signed_in: bool
) -> None:
    """A header that announces such a body is refused at once, before any of the body is waited for."""
    connection = await open_connection(impatient, transport, token if signed_in else "")
    kind = "length" if transport == "tcp" else "message"
    before = await metric(impatient, "imserver_protocol_errors_total", kind=kind)
    connection.send_bytes(pack("!iiBBBB", length, 1, Command.PING, 2, 0, 0))
    await connection.closed.addTimeout(5, connection._clock)
    assert connection.close_code == CODES[transport]
    assert await metric(impatient, "imserver_protocol_errors_total", kind=kind) == before + 1


async def assert_each_is_refused(
    server: ServerProcess, transport: str, token: str, kind: str, frames: list[bytes]
) -> None:
    """Each of these frames costs its sender the connection, and is counted by its kind."""
    before = await metric(server, "imserver_protocol_errors_total", kind=kind)
    closed = await metric(server, "imserver_closed_total", reason="protocol")
    for at in range(0, len(frames), 50):
        few = frames[at : at + 50]
        connections = [await open_connection(server, transport, token) for _ in few]
        for connection, frame in zip(connections, few, strict=True):
            connection.send_bytes(frame)
        for connection, frame in zip(connections, few, strict=True):
            await connection.closed.addTimeout(5, connection._clock)
            assert connection.close_code == CODES[transport], frame
            assert not connection.inbox, frame
    assert await metric(server, "imserver_protocol_errors_total", kind=kind) == before + len(frames)
    assert await metric(server, "imserver_closed_total", reason="protocol") == closed + len(frames)


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_commands_that_clients_may_not_send(
    impatient: ServerProcess, token: str, transport: str, signed_in: bool
) -> None:
    """The server's own commands and all numbers that are none, with a body that would be long enough for any."""
    commands = [command for command in range(256) if command not in (*SHORTEST, Command.PING, Command.PONG)]
    frames = [encode_frame(1, command, 2, 0, bytes(64)) for command in commands]
    await assert_each_is_refused(impatient, transport, token if signed_in else "", "command", frames)


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_bodies_that_are_too_short(impatient: ServerProcess, token: str, transport: str, signed_in: bool) -> None:
    """A byte less than a command's fields take, in each version."""
    frames = [
        encode_frame(1, command, version, 0, bytes(length - 1))
        for command, size in SHORTEST.items()
        for version in (0, 1, 2)
        for length in (size - 4 * (version == 0 and command in (Command.IM, Command.GROUP_IM)),)
    ]
    frames.append(encode_frame(1, Command.ACK, 2, 0, bytes(4)))  # version 2 has a status
    sign_ins = (b"\x01\x05tok", b"\x01\x03tok", b"\x01\x03tok\x05dev")
    frames += [encode_frame(1, Command.AUTH_TOKEN, 2, 0, body) for body in sign_ins]
    await assert_each_is_refused(impatient, transport, token if signed_in else "", "short", frames)


# WebSocket, byte for byte.

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONTINUED, TEXT, BINARY, CLOSE = 0, 1, 2, 8


def message(opcode: int, payload: bytes, first: int = 0x80) -> bytes:
    """A WebSocket frame, masked (with zeros) as clients must."""
    size = len(payload)
    head = pack("!BB", first | opcode, 0x80 | size) if size < 126 else pack("!BBH", first | opcode, 0x80 | 126, size)
    return head + bytes(4) + payload


PING = encode_frame(1, Command.PING, 2, 0, b"")


@pytest.mark.parametrize(
    ("sent", "code", "kind"),
    [
        (message(TEXT, PING), 1003, "text"),
        (message(TEXT, b"", first=0), 1003, "text"),
        (message(BINARY, PING + PING), 1002, "message"),
        (message(BINARY, PING[:-1]), 1002, "message"),
        (message(BINARY, b""), 1002, "message"),
        (message(BINARY, PING + b"x"), 1002, "message"),
        (message(BINARY, bytes(MAX_BODY + HEADER_SIZE + 1)), 1002, "length"),
        (message(BINARY, bytes(20_000), first=0) + message(CONTINUED, bytes(20_000)), 1002, "length"),
        (message(3, b""), 1002, "websocket"),
        (message(BINARY, PING, first=0xC0), 1002, "websocket"),
        (message(CONTINUED, PING), 1002, "websocket"),
        (bytes((0x82, 12)) + PING, 1002, "websocket"),
        (pack("!BBQ", 0x82, 0xFF, 2**63 - 1) + bytes(4), 1002, "length"),
    ],
    ids=(
        "text",
        "text-begun",
        "two-frames",
        "less-than-a-frame",
        "nothing",
        "more-than-a-frame",
        "too-long",
        "too-long-in-parts",
        "unknown-opcode",
        "compressed",
        "continues-nothing",
        "not-masked",
        "no-end",
    ),
)
@pytest_twisted.ensureDeferred
async def test_messages_that_are_not_one_frame(impatient: ServerProcess, sent: bytes, code: int, kind: str) -> None:
    """Text is refused with 1003, everything else that is not exactly one frame a binary message with 1002."""
    from twisted.internet import reactor

    before = await metric(impatient, "imserver_protocol_errors_total", kind=kind)
    raw = await connect_raw(reactor, impatient.address("websocket"))
    raw.send(HANDSHAKE % b"/ws" + message(BINARY, PING))
    pong = bytes((0x82, 12)) + encode_frame(1, Command.PONG, 2, 0, b"")
    await until(reactor, lambda: raw.got.endswith(pong), 5)
    raw.got = b""
    raw.send(sent)
    await until(reactor, lambda: len(raw.got) > 4, 5)
    assert raw.got[0] == 0x80 | CLOSE
    assert int.from_bytes(raw.got[2:4]) == code
    raw.transport.loseConnection()
    await raw.gone
    assert await metric(impatient, "imserver_protocol_errors_total", kind=kind) == before + 1


@pytest.mark.parametrize(
    ("transport", "sent", "answer"),
    [
        ("websocket", b"\x00\x01garbage\r\n\r\n", b"HTTP/1.1 400 "),
        ("websocket", b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 "),
        ("websocket", HANDSHAKE % b"/elsewhere", b"HTTP/1.1 404 "),
        ("websocket", HANDSHAKE[:60] + b"x" * 9000, b"HTTP/1.1 431 "),
        ("websocket", HANDSHAKE.replace(b"GET %s", b"POST /ws"), b"HTTP/1.1 405 "),
        ("tcp", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        ("tcp", HANDSHAKE % b"/ws", b""),
        ("tcp", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), b""),
    ],
    ids=("garbage", "no-upgrade", "path", "endless", "post", "http-to-tcp", "websocket-to-tcp", "tls-to-tcp"),
)
@pytest_twisted.ensureDeferred
async def test_strangers_at_the_door(impatient: ServerProcess, transport: str, sent: bytes, answer: bytes) -> None:
    """Who speaks something else is told so where that is possible, and closed."""
    from twisted.internet import reactor

    reason = "handshake" if transport == "websocket" else "protocol"
    before = await metric(impatient, "imserver_closed_total", reason=reason)
    raw = await connect_raw(reactor, impatient.address(transport))
    raw.send(sent)
    got = await raw.is_closed(reactor)
    assert got.startswith(answer)
    assert bool(got) == bool(answer)
    assert await metric(impatient, "imserver_closed_total", reason=reason) == before + 1


# A byte at a time.


class Trickle:
    """Sends bytes one at a time, a turn of the reactor between them, or so many seconds."""

    def __init__(self, reactor: Any, raw: Raw, data: bytes, seconds: float = 0) -> None:
        self._raw = raw
        self._bytes = [data[at : at + 1] for at in range(len(data))]
        raw.transport.setTcpNoDelay(True)
        self._call = LoopingCall(self._send)
        self._call.clock = reactor
        self.sent = self._call.start(seconds)

    def _send(self) -> None:
        if self._bytes and not self._raw.gone.called:
            self._raw.send(self._bytes.pop(0))
        else:
            self._call.stop()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_one_byte_at_a_time(impatient: ServerProcess, token: str, transport: str) -> None:
    """However slowly it comes, a sign-in is a sign-in and a PING a PING."""
    from twisted.internet import reactor

    frames = [encode_frame(1, Command.AUTH_TOKEN, 2, 0, AuthToken(2, token.encode(), b"x").encode(2)), PING, PING]
    answers = [encode_frame(n, c, 2, 0, body) for n, c, body in ((1, 3, bytes(4)), (2, 14, b""), (3, 14, b""))]
    data, expected = b"".join(frames), b"".join(answers)
    if transport == "websocket":
        data = HANDSHAKE % b"/ws" + b"".join(message(BINARY, frame) for frame in frames)
        expected = b"".join(bytes((0x82, len(answer))) + answer for answer in answers)
    raw = await connect_raw(reactor, impatient.address(transport))
    await Trickle(reactor, raw, data).sent
    await until(reactor, lambda: raw.got.endswith(expected), 5)
    raw.transport.abortConnection()
    await raw.gone


@pytest_twisted.ensureDeferred
async def test_who_takes_too_long(impatient: ServerProcess) -> None:
    """A byte now and then gains nobody time: neither before the handshake is done, nor before the sign-in is."""
    from twisted.internet import reactor

    async def dawdle(transport: str, sent: bytes) -> float:
        """Seconds until it is closed."""
        raw = await connect_raw(reactor, impatient.address(transport))
        began = time.monotonic()
        trickle = Trickle(reactor, raw, sent, 0.05)
        await raw.is_closed(reactor, 10)
        await trickle.sent
        return time.monotonic() - began

    async def closed() -> list[float]:
        reasons = ("sign_in_timeout", "handshake_timeout")
        return [await metric(impatient, "imserver_closed_total", reason=reason) for reason in reasons]

    before = await closed()
    sign_in, pings, handshake = await gatherResults(
        [
            Deferred.fromCoroutine(dawdle("tcp", encode_frame(1, Command.AUTH_TOKEN, 2, 0, bytes(250)))),
            Deferred.fromCoroutine(dawdle("tcp", PING * 20)),
            Deferred.fromCoroutine(dawdle("websocket", HANDSHAKE % b"/ws")),
        ]
    )
    # The server looks once a second.
    for seconds, limit in ((sign_in, 2), (pings, 2), (handshake, 1)):
        assert limit - 0.1 < seconds < limit + 3
    assert await closed() == [before[0] + 2, before[1] + 1]


# Who is not signed in.


@pytest_twisted.ensureDeferred
async def test_nothing_before_sign_in(impatient: ServerProcess, token: str) -> None:
    """Whatever a client sends before it has signed in reaches nobody and changes nothing, also with sender 0."""
    victim = await open_connection(impatient, "tcp", token)
    victim.send(EnterRoom(5))
    await victim.ping()
    before = await metric(impatient, "imserver_ignored_total", reason="not_signed_in")
    stranger = await open_connection(impatient, "tcp")
    commands = (
        *(RT(sender, 1, b"hello") for sender in (0, 1)),
        *(IM(sender, 1, 0, 1, b"hello") for sender in (0, 1)),
        *(EnterRoom(5), RoomIM(0, 5, b"hello"), LeaveRoom(5)),
        *(UnreadCount(99), SyncKey(99), Sync(0), GroupIM(0, 1, 0, 1, b"hello"), SyncGroup(1, 0), GroupSyncKey(1, 9)),
    )
    for command in commands:
        stranger.send(command)
    await stranger.ping()
    assert not stranger.inbox
    await victim.ping()
    assert not victim.inbox
    assert await metric(impatient, "imserver_ignored_total", reason="not_signed_in") == before + len(commands)
    user = await impatient.operate("GET", "/admin/users/7/1")
    assert (user["unread"], user["head"], user["saved_key"]) == (0, 1, 0)
    await close_all(victim, stranger)


async def never_sign_in(server: ServerProcess, count: int, limit: float) -> None:
    """Twice so many connections come, say nothing or PING, and have to go after `limit` seconds."""
    from twisted.internet import reactor

    await server.start()
    tokens = await server.tokens(1, 1)
    memory = Memory(reactor, server)
    talker = Talker(1, NOBODY, 200, 1)
    await talker.connect(reactor, server, tokens[1])
    talker.talk()
    await more_acks(reactor, [talker], 500)
    before = talker.latencies()

    async def come_and_go() -> None:
        strangers: list[Raw] = []
        while len(strangers) < count:
            strangers.append(await connect_raw(reactor, server.address(TRANSPORTS[len(strangers) % 2])))
            if len(strangers) % 4 == 1:
                strangers[-1].send(PING)
        assert await metric(server, "imserver_connections", transport="tcp") == count / 2 + 1
        for stranger in strangers:
            await stranger.is_closed(reactor, limit + 5)

    await come_and_go()
    assert percentile(talker.latencies(), 0.99) < 3 * percentile(before, 0.99) + 0.05
    await talker.hush()
    # What is there now, the allocator keeps for the next ones; anything on top of it would be left of somebody.
    before_all_over = memory.now()
    await come_and_go()
    assert memory.now() - before_all_over < count * 2 * KIB
    reasons = ("sign_in_timeout", "handshake_timeout")
    assert [await metric(server, "imserver_closed_total", reason=reason) for reason in reasons] == [count, count]
    assert await metric(server, "imserver_connections", transport="websocket") == 0
    memory.stop()
    await close_all(talker.connection)
    assert await server.stop() == 0
    assert_calm(server)


SHORT_TIMES = "[limits]\nsign_in_seconds = {0}\nwebsocket_handshake_seconds = {0}\nmessages_per_second = 0\n"


@pytest_twisted.ensureDeferred
async def test_connections_that_never_sign_in(new_server: Callable[[str], ServerProcess]) -> None:
    """They are closed in time and counted, nobody else waits longer, and they leave nothing behind."""
    await never_sign_in(new_server(SHORT_TIMES.format(1)), 200, 1)


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_two_thousand_connections_that_never_sign_in(new_server: Callable[[str], ServerProcess]) -> None:
    """The same with 2000 at a time."""
    await never_sign_in(new_server(SHORT_TIMES.format(5)), 2000, 5)


@pytest_twisted.ensureDeferred
async def test_guessing_tokens(new_server: Callable[[str], ServerProcess]) -> None:
    """One guess a connection, which is then held; too many from one address, and it may not even try a right one."""
    from twisted.internet import reactor

    server = new_server("[limits]\nrefused_hold_seconds = 1.5\nfailed_sign_ins_per_address = 20\n")
    await server.start()
    token = (await server.tokens(1, 1))[1]

    async def sign_ins(result: str) -> float:
        return await metric(server, "imserver_sign_ins_total", result=result)

    guesses = [AuthToken(2, b"%043d" % n, b"x").encode(2) for n in range(2000)]
    raw = await connect_raw(reactor, server.address("tcp"))
    began = time.monotonic()
    raw.send(b"".join(encode_frame(n, Command.AUTH_TOKEN, 2, 0, guess) for n, guess in enumerate(guesses, 1)))
    refused = encode_frame(1, Command.AUTH_STATUS, 2, 0, AuthStatus(1).encode(2))
    assert await raw.is_closed(reactor) == refused
    assert time.monotonic() - began > 1.4
    assert await sign_ins("refused") == 1

    held = [await connect(reactor, server.address(TRANSPORTS[n % 2])) for n in range(50)]
    for n, connection in enumerate(held, 1):
        assert (await connection.sign_in(b"%043d" % n if n < 50 else token)).status == 1
    for connection in held:
        await connection.closed
    assert (await sign_ins("refused"), await sign_ins("throttled")) == (20, 31)

    elsewhere = await connect_from(reactor, "127.0.0.2", server.address("tcp"))
    assert (await elsewhere.sign_in(token)).status == 0
    await close_all(elsewhere)
    assert await server.stop() == 0
    assert_calm(server)


# What a client may take for itself.


def is_turned_away(address: str, host: str) -> bool:
    """Does the server close a connection from this address as soon as it comes?"""
    where = parse_address(address)
    try:
        with socket.create_connection((where.host, where.port), timeout=5, source_address=(host, 0)) as connection:
            return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest_twisted.ensureDeferred
async def test_limits_of_connections(new_server: Callable[[str], ServerProcess]) -> None:
    """Beyond the limits, of an address and in all, over both transports together, one is closed as it comes."""
    from twisted.internet import reactor

    server = new_server("[limits]\nconnections = 5\nconnections_per_address = 3\n")
    await server.start()
    token = (await server.tokens(1, 1))[1]
    first = [await server.client(token, transport) for transport in ("tcp", "websocket", "tcp")]
    for transport in TRANSPORTS:
        assert is_turned_away(server.address(transport), "127.0.0.1")
    second = [await connect_from(reactor, "127.0.0.2", server.address(transport)) for transport in TRANSPORTS]
    assert is_turned_away(server.address("websocket"), "127.0.0.3")
    refused = [await metric(server, "imserver_refused_total", reason=reason) for reason in ("address", "connections")]
    assert refused == [2, 1]
    for connection in (*first, *second):
        await connection.ping()
    await close_all(first.pop())

    async def is_gone() -> bool:
        return await metric(server, "imserver_connections", transport="tcp") == 2

    await until(reactor, is_gone, 5)
    first.append(await server.client(token))
    await close_all(*first, *second)
    assert await server.stop() == 0
    assert_calm(server)


@pytest_twisted.ensureDeferred
async def test_flood(new_server: Callable[[str], ServerProcess]) -> None:
    """Who sends faster than limits.messages_per_second is read at that pace; nothing is lost, nobody else waits."""
    from twisted.internet import reactor

    server = new_server("[limits]\nmessages_per_second = 100\n")
    await server.start()
    tokens = await server.tokens(1, 3)
    witness = Witness(reactor, await server.client(tokens[3]), patience=1)
    await deferLater(reactor, 0.5)
    before = witness.latencies()

    async def flood(uid: int, transport: str) -> None:
        acks: list[int] = []

        def received(received: Received[Message]) -> None:
            if isinstance(received.message, Ack) and received.message.status == 0:
                acks.append(received.message.seq)

        flooder = await connect(reactor, server.address(transport), received=received)
        assert (await flooder.sign_in(tokens[uid])).status == 0
        began = time.monotonic()
        seqs = [flooder.send(IM(uid, NOBODY, 0, n, bytes(2 * KIB))) for n in range(1, 401)]
        await until(reactor, lambda: len(acks) == len(seqs), 20)
        assert acks == seqs
        # It may be a second ahead, and by what one read brings (64 KiB).
        assert time.monotonic() - began > (len(seqs) - 32) / 100 - 1.1
        await close_all(flooder)

    await gatherResults([Deferred.fromCoroutine(flood(uid, transport)) for uid, transport in enumerate(TRANSPORTS, 1)])
    assert await metric(server, "imserver_read_pauses_total", reason="rate") >= 2
    await witness.stop()
    assert percentile(witness.latencies(), 0.99) < 3 * percentile(before, 0.99) + 0.05
    await close_all(witness.connection)
    assert await server.stop() == 0
    assert_calm(server)


@pytest_twisted.ensureDeferred
async def test_out_of_files(new_server: Callable[[str], ServerProcess]) -> None:
    """The server takes as many clients as it may have files open, and has some left: the clients whom it has and the
    operator are served, the others are turned away without a word in the log, and when some go others may come."""
    from twisted.internet import reactor

    server = new_server("")
    server.open_files = 300
    await server.start()
    tokens = await server.tokens(1, 2)
    early = await server.client(tokens[1], "tcp")
    doors = [parse_address(server.address(transport)) for transport in TRANSPORTS]
    crowd = [socket.create_connection((doors[n % 2].host, doors[n % 2].port)) for n in range(400)]

    async def others_are_refused() -> bool:
        return await metric(server, "imserver_refused_total", reason="connections") == 400 - 43

    await until(reactor, others_are_refused, 10)
    for number in range(1, 11):
        early.send(IM(1, 2, 0, number, b"still here"))
        early.send(Sync(1))
    await early.ping()
    assert sum(isinstance(each.message, Ack) and each.message.status == 0 for each in early.inbox) == 10
    assert [each.message.key for each in early.inbox if isinstance(each.message, SyncEnd)] == list(range(2, 12))
    for each in crowd:
        each.close()

    async def serves_again() -> bool:
        return await metric(server, "imserver_connections", transport="tcp") == 1

    await until(reactor, serves_again, 5)
    late = await server.client(tokens[2], "websocket")
    late.send(Sync(1))
    await late.ping()
    assert sum(isinstance(each.message, IM) for each in late.inbox) == 10
    await close_all(early, late)
    assert await server.stop() == 0
    assert_calm(server)
    assert "EMFILE" not in server.log
    assert "At most 44 clients at a time" in server.log


# Anything at all.

#: The database's cache of 16 MiB, which fills, and what twelve connections that come and go leave in the allocator.
NOISE_COSTS = 24 * MIB
#: int64 fields that each command's body begins with.
NUMBERS = {
    **dict.fromkeys((Command.IM, Command.GROUP_IM, Command.RT, Command.ROOM_IM, Command.METADATA), 2),
    **dict.fromkeys((Command.ENTER_ROOM, Command.LEAVE_ROOM, Command.SYNC, Command.SYNC_KEY), 1),
    **dict.fromkeys((Command.SYNC_GROUP, Command.GROUP_SYNC_KEY), 2),
    **dict.fromkeys((Command.CUSTOMER, Command.CUSTOMER_SUPPORT, Command.CUSTOMER_V2), 4),
    **dict.fromkeys((Command.ACK, Command.PONG, Command.UNREAD_COUNT, Command.AUTH_TOKEN), 0),
}


class Noise:
    """Random frames: most of them such that a client could send them, some that break the protocol."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._bytes = self.chance.randbytes(1 << 20)
        self._commands = tuple(NUMBERS.items())

    def some_bytes(self, most: int) -> bytes:
        length = int(most * self.chance.random() ** 4)
        at = int(self.chance.random() * (len(self._bytes) - length))
        return self._bytes[at : at + length]

    def frame(self, uid: int) -> bytes:
        pick, die = self.chance.choice, self.chance.random
        command, count = pick(self._commands)
        if command == Command.SYNC and die() < 0.95:
            command = Command.SYNC_KEY  # a SYNC is answered with many frames
        values = (uid, uid, uid, uid, 0, 1, -1, 2**53, 2**63 - 1, -(2**63), int(die() * 100_000))
        body = pack(f"!{count}q", *(pick(values) for _ in range(count))) + bytes(16)
        body += self.some_bytes(MAX_BODY - len(body) if die() < 0.02 else 100)
        number, length = int(command), len(body)
        wrong = die()
        if wrong < 0.003:
            number = int(die() * 256)
        elif wrong < 0.006:
            body = body[: int(die() * 24)]
            length = len(body)
        elif wrong < 0.008:
            length = pick((-1, MAX_BODY + 1, 2**31 - 1, -(2**31), length + 1, length - 1))
        seq, version, flag = int(die() * 2**31), pick((0, 1, 2, 2, 2, 255)), int(die() * 256)
        return pack("!iiBBBB", length, seq, number, version, flag, 7) + body


async def send_noise(server: ServerProcess, frames: int, seed: int) -> None:
    """Until the server has read so many frames, twelve clients send noise, and come again when they are closed."""
    from twisted.internet import reactor

    await server.start()
    tokens = await server.tokens(1, 13)
    witness = Witness(reactor, await server.client(tokens[13]), patience=1)
    memory = Memory(reactor, server)
    noise = Noise(seed)
    chance = noise.chance
    enough = False

    async def make(uid: int) -> None:
        transport = TRANSPORTS[uid % 3 == 0]
        while not enough:
            connection = await connect(reactor, server.address(transport), received=lambda _: None)
            try:
                if chance.random() < 0.8:
                    await connection.sign_in(tokens[uid], device=f"{chance.random()}"[:4])
                while not enough:
                    sent = [noise.frame(uid) for _ in range(32)]
                    if chance.random() < 0.02:
                        sent.append(noise.some_bytes(5000))
                    for each in sent if transport == "websocket" else [b"".join(sent)]:
                        connection.send_bytes(each)
                    await connection.ping(timeout=1)
            except (Closed, TookTooLong):
                pass  # one of the frames cost it the connection, or what follows is taken for the rest of its body
            connection.abort()
            await connection.closed

    async def read_enough() -> bool:
        return bool((await server.operate("GET", "/admin/status"))["frames_in"] >= frames)

    makers = [Deferred.fromCoroutine(make(uid)) for uid in range(1, 13)]
    before = memory.most()
    try:
        await until(reactor, read_enough, 300)
    finally:
        enough = True
        await gatherResults(makers)
    await witness.stop()
    assert percentile(witness.latencies(), 0.99) < 0.25
    assert memory.most() - before < NOISE_COSTS
    assert await metric(server, "imserver_closed_total", reason="internal_error") == 0
    for kind in ("length", "command", "short", "message"):
        assert await metric(server, "imserver_protocol_errors_total", kind=kind) > 0
    memory.stop()
    await close_all(witness.connection)
    assert await server.stop() == 0
    assert_calm(server)


NOISY = (
    "[limits]\nfailed_sign_ins_per_address = 0\nrefused_hold_seconds = 0.1\nmessages_per_second = 0\n"
    "bytes_per_second = 0\n"
)


@pytest_twisted.ensureDeferred
async def test_random_frames(new_server: Callable[[str], ServerProcess]) -> None:
    """Whatever clients send, the server lives, logs nothing, stays within its memory and answers others at once."""
    await send_noise(new_server(NOISY), 20_000, random.randrange(1 << 32))


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_a_million_random_frames(new_server: Callable[[str], ServerProcess]) -> None:
    """The same with a million frames."""
    await send_noise(new_server(NOISY), 1_000_000, random.randrange(1 << 32))
