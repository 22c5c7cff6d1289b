"""The WebSocket adapter, with Autobahn's own client at the other end, or bytes made by hand."""

import gc
from base64 import b64encode
from collections.abc import Iterator
from struct import pack
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer
from twisted.internet.defer import Deferred

from imserver.interfaces import IConnection
from imserver.net.websocket import (
    Socket,
    WebSocketConnection,
    WebSocketFactory,
    message_head,
    origin_is_allowed,
)
from imserver.protocol.commands import Command
from imserver.protocol.frame import HEADER_SIZE, MAX_BODY, Frame
from tests.fakes.transport import FakeTransport, Wire
from tests.unit.net.server import PONG, Client, Server, commands, frame, key_of, live, parse, reply, stored
from tests.unit.net.test_connection import pong

IM, SYNC, PING, AUTH = Command.IM, Command.SYNC, Command.PING, Command.AUTH_TOKEN
TEXT, BINARY, CLOSE, WS_PING, WS_PONG = 1, 2, 8, 9, 10


class Page(WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn has no annotations
    """A client that remembers what it heard."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = False
        self.messages: list[bytes] = []
        self.pongs: list[bytes] = []
        #: Code and reason of the server's close frame, or what Autobahn makes of a connection without.
        self.ended: tuple[int, str] | None = None

    def onOpen(self) -> None:
        self.opened = True

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert isBinary
        self.messages.append(payload)

    def onPong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        self.ended = code, reason

    def frames(self) -> list[Frame]:
        """What came, each message being one frame."""
        frames = [parse(message) for message in self.messages]
        assert [len(each) for each in frames] == [1] * len(frames)
        return [each[0] for each in frames]


class Web:
    """A WebSocket listener."""

    def __init__(self, origins: tuple[str, ...] = (), trust_forwarded_for: bool = False, **limits: float) -> None:
        self.server = Server(**limits)
        self.factory = WebSocketFactory(self.server.listeners, self.server.clock, "/ws", origins, trust_forwarded_for)

    def open(
        self,
        path: str = "/ws",
        origin: str | None = None,
        headers: dict[str, str] | None = None,
        compress: bool = False,
        host: str = "192.0.2.1",
    ) -> "Tab":
        """A browser connects, and shakes hands as far as the server does."""
        factory = WebSocketClientFactory(
            f"ws://im.example.com:13891{path}", origin=origin, headers=headers, reactor=self.server.clock
        )
        factory.protocol = Page
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
        if compress:
            factory.setProtocolOptions(perMessageCompressionOffers=[PerMessageDeflateOffer()])
        page = factory.buildProtocol(None)
        socket = self.factory.buildProtocol(self.server.address(host))
        return Tab(page, socket, Wire(self.server.clock, socket, page, host))

    def raw(self, host: str = "192.0.2.1") -> "Raw":
        """A client that sends whatever bytes the test has."""
        socket = self.factory.buildProtocol(self.server.address(host))
        assert isinstance(socket, Socket)
        transport = FakeTransport(self.server.clock, host)
        transport.connect(socket)
        return Raw(self.server, transport, socket)

    def opened(self) -> "Raw":
        """The same with its handshake done."""
        raw = self.raw()
        raw.transport.send(handshake())
        head, _, rest = raw.read_bytes().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert rest == b""
        raw.transport.taken.clear()
        return raw


class Tab:
    """One browser tab, and the server's side of its connection."""

    def __init__(self, page: Page, socket: Any, wire: Wire) -> None:
        self.page = page
        self.socket = socket
        self.wire = wire
        wire.pump()

    @property
    def connection(self) -> WebSocketConnection:
        assert isinstance(self.socket, Socket)
        return self.socket.connection

    def send(self, message: bytes, binary: bool = True) -> None:
        self.page.sendMessage(message, isBinary=binary)
        self.wire.pump()

    def ended(self) -> tuple[int, str] | None:
        return self.page.ended


class Raw(Client):
    """A client of bytes."""

    def __init__(self, server: Server, transport: FakeTransport, socket: Socket) -> None:
        super().__init__(server, transport, socket.connection)
        self.socket = socket

    def read_bytes(self) -> bytes:
        """Read until nothing more comes; all bytes since the connection began."""
        self.take()
        return bytes(self.transport.taken)

    def read_messages(self) -> list[tuple[int, bytes]]:
        """Read until nothing more comes; all WebSocket messages since the handshake: opcode and payload."""
        return list(messages(self.read_bytes()))


def handshake(path: str = "/ws", **headers: str) -> bytes:
    """A request as browsers make it; a header may be set, or left out with ""."""
    lines = {
        "Host": "im.example.com:13891",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"GET {path} HTTP/1.1\r\n{text}\r\n".encode()


def masked(payload: bytes, opcode: int = BINARY, fin: bool = True, rsv: int = 0, mask: bytes = b"\1\2\3\4") -> bytes:
    """One WebSocket frame of a client."""
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += pack("!BH", 0x80 | 126, size)
    else:
        head += pack("!BQ", 0x80 | 127, size)
    keys = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(keys)).to_bytes(size)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The server's WebSocket messages: each in one frame, unmasked, its length in the shortest form."""
    at = 0
    while at < len(data):
        assert data[at] & 0x70 == 0
        assert data[at] & 0x80, "the server does not fragment"
        opcode, size = data[at] & 0x0F, data[at + 1]
        at += 2
        if size == 126:
            size = int.from_bytes(data[at : at + 2])
            at += 2
            assert size > 125
        else:
            assert size < 126
        assert at + size <= len(data)
        yield opcode, data[at : at + size]
        at += size


# The opening handshake.


def test_handshake() -> None:
    """On /ws a client is let in, also with a query."""
    web = Web()
    for path in ("/ws", "/ws?token=unused"):
        tab = web.open(path)
        assert tab.page.opened
        assert tab.ended() is None
    assert web.server.metrics.accepted.values == {"websocket": 2}
    assert web.server.metrics.connections.read() == {"tcp": 0, "websocket": 2}


def test_a_browser_that_offers_compression() -> None:
    """All browsers do; it is not taken up, and everything else goes on."""
    web = Web()
    web.server.chat.handlers = {PING: pong}
    tab = web.open(compress=True)
    assert tab.page.opened
    tab.send(frame(PING))
    assert commands(tab.page.frames()) == [Command.PONG]


@pytest.mark.parametrize("path", ["/", "/ws/", "/wss", "/metrics", "//ws"])
def test_another_path(path: str) -> None:
    """Anywhere else there is nothing."""
    web = Web()
    tab = web.open(path)
    assert not tab.page.opened
    assert tab.wire.server.taken.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert tab.wire.client.disconnected
    assert web.server.listeners.connections == set()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (handshake(Sec_WebSocket_Version="8"), 400),
        (handshake(Sec_WebSocket_Version=""), 400),
        (handshake(Sec_WebSocket_Key="short"), 400),
        (handshake(Sec_WebSocket_Key=""), 400),
        (handshake(Upgrade=""), 426),
        (handshake(Upgrade="h2c"), 400),
        (handshake(Connection="close"), 400),
        (handshake(Host=""), 400),
        (handshake(Host="[bad]:1]", Origin="http://im.example.com"), 403),
        (handshake(Origin="http://[::1"), 400),
        (handshake(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits=99"), 400),
        (handshake(Origin="nonsense"), 400),
        (handshake().replace(b"GET", b"POST"), 405),
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (b"\x16\x03\x01 a TLS client\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /ws HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", 426),
    ],
)
def test_a_handshake_that_is_none(request_: bytes, status: int) -> None:
    """Whatever comes, the client is told what is wrong with it, and the connection ends."""
    web = Web()
    raw = web.raw()
    raw.transport.send(request_)
    answer = raw.read_bytes()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    assert raw.is_gone()
    assert web.server.metrics.closed.values == {"handshake": 1}
    assert web.server.chat.begun == []


def test_a_handshake_in_pieces() -> None:
    """However it is cut, it is one handshake, and what follows it in the same read counts."""
    web = Web()
    web.server.chat.handlers = {PING: pong}
    raw = web.raw()
    for byte in handshake():
        raw.transport.send(bytes([byte]))
    assert raw.read_bytes().startswith(b"HTTP/1.1 101 ")
    raw = web.raw()
    raw.transport.send(handshake() + masked(frame(PING, 1)) + masked(frame(PING, 2))[:5])
    raw.transport.send(masked(frame(PING, 2))[5:])
    assert web.server.chat.seqs == [1, 2]


@pytest.mark.parametrize("size", [1, 1_000, 9_000])
def test_a_handshake_that_does_not_end(size: int) -> None:
    """A header has its bound, in whatever pieces it comes."""
    web = Web()
    raw = web.raw()
    endless = handshake(Cookie="x" * 20_000)
    while endless and raw.is_read():
        raw.transport.send(endless[:size])
        endless = endless[size:]
    assert raw.read_bytes().startswith(b"HTTP/1.1 431 ")
    assert raw.is_gone()
    assert len(raw.socket.data) <= 8192
    assert len(endless) > 10_000


def test_a_long_handshake() -> None:
    """Cookies and the like are no reason to turn a browser away."""
    web = Web()
    raw = web.raw()
    raw.transport.send(handshake(Cookie="x" * 7_000))
    assert raw.read_bytes().startswith(b"HTTP/1.1 101 ")


def test_the_time_for_a_handshake() -> None:
    """Who does not shake hands in time is closed; who does has its time to sign in."""
    web = Web()
    silent = web.raw()
    slow = web.raw()
    web.server.pass_time(9)
    slow.transport.send(handshake())
    slow.take()
    assert not silent.is_closed()
    web.server.pass_time(1)
    assert silent.is_closed()
    silent.socket.dataReceived(handshake())
    assert b"".join(silent.transport.writes) == b"", "it came too late"
    web.server.pass_time(6)
    assert silent.is_cut_off(), "its transport did not close by itself"
    web.server.pass_time(22)
    assert not slow.is_closed()
    web.server.pass_time(1)
    assert slow.is_closed()
    assert web.server.metrics.closed.values == {"handshake_timeout": 1, "sign_in_timeout": 1}


def test_over_the_limit() -> None:
    """Who may not come is turned away before any handshake."""
    web = Web(connections=1)
    web.open()
    tab = web.open()
    assert tab.wire.server.aborted
    assert tab.wire.client.disconnected
    assert web.server.metrics.refused.values == {"connections": 1}


# Origins.


@pytest.mark.parametrize(
    ("origin", "host", "patterns", "allowed"),
    [
        # No page, nothing to guard against.
        ("", "im.example.com", (), True),
        ("", "im.example.com", ("https://example.com",), True),
        # By default: pages of the same host, on any port, over http or https.
        ("http://im.example.com", "im.example.com", (), True),
        ("https://im.example.com:8080", "im.example.com:13891", (), True),
        ("https://IM.example.com", "im.EXAMPLE.com", (), True),
        ("http://127.0.0.1:5500", "127.0.0.1:13891", (), True),
        ("http://[::1]:5500", "[::1]:13891", (), True),
        ("http://localhost", "127.0.0.1", (), False),
        ("https://example.com", "im.example.com", (), False),
        ("https://evil.example", "im.example.com", (), False),
        ("https://im.example.com.evil.example", "im.example.com", (), False),
        ("https://evil.example/im.example.com", "im.example.com", (), False),
        ("null", "im.example.com", (), False),
        ("null", "", (), False),
        ("file://", "", (), False),
        ("https://im.example.com", "", (), False),
        ("https://im.example.com", "[", (), False),
        ("https://[", "im.example.com", (), False),
        # What the operator lists, and only that.
        ("https://evil.example", "im.example.com", ("*",), True),
        ("null", "im.example.com", ("*",), True),
        ("null", "im.example.com", ("null",), True),
        ("https://www.example.com", "im.example.com", ("https://*.example.com",), True),
        ("HTTPS://WWW.example.com", "im.example.com", ("https://*.Example.com",), True),
        ("http://www.example.com", "im.example.com", ("https://*.example.com",), False),
        ("https://www.example.com:8080", "im.example.com", ("https://*.example.com",), False),
        ("https://www.example.com:8080", "im.example.com", ("https://*.example.com:*",), True),
        ("https://example.com", "im.example.com", ("https://*.example.com", "https://example.com"), True),
        ("https://im.example.com", "im.example.com", ("https://www.example.com",), False),
        ("http://[::1]:5500", "im.example.com", ("http://[::1]:5500",), True),
    ],
)
def test_origins(origin: str, host: str, patterns: tuple[str, ...], allowed: bool) -> None:
    """Which pages may open a connection."""
    assert origin_is_allowed(origin, host, patterns) is allowed


@pytest.mark.parametrize(
    ("origins", "origin", "opened"),
    [
        ((), None, True),
        ((), "http://im.example.com", True),
        ((), "https://evil.example", False),
        ((), "null", False),
        (("*",), "https://evil.example", True),
        (("*",), "null", True),
        (("https://*.example.com",), "https://www.example.com", True),
    ],
)
def test_origin_in_a_handshake(origins: tuple[str, ...], origin: str | None, opened: bool) -> None:
    """A page that may not is told 403, and counted."""
    web = Web(origins)
    tab = web.open(origin=origin)
    assert tab.page.opened is opened
    assert tab.wire.server.taken.startswith(b"HTTP/1.1 101 " if opened else b"HTTP/1.1 403 ")
    assert web.server.metrics.refused.values == ({} if opened else {"origin": 1})


# Behind a proxy.


def test_forwarded_for_is_not_believed() -> None:
    """Anybody can say anything."""
    web = Web()
    tab = web.open(headers={"X-Forwarded-For": "203.0.113.9"})
    assert tab.connection.address == "192.0.2.1"


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("203.0.113.9, ", "192.0.2.1"),
    ],
)
def test_forwarded_for_of_a_trusted_proxy(header: str, address: str) -> None:
    """The last address is the one that the proxy itself saw; it is whom limits are for."""
    web = Web(trust_forwarded_for=True)
    tab = web.open(headers={"X-Forwarded-For": header})
    assert tab.page.opened
    assert tab.connection.address == address
    assert web.server.listeners.admission._by_address == {address: 1}
    tab.wire.client.lose()
    tab.wire.pump()
    assert web.server.listeners.admission._by_address == {}


def test_forwarded_for_over_the_limit() -> None:
    """A client behind a proxy has the limit of its own address."""
    web = Web(trust_forwarded_for=True, connections_per_address=1)
    tabs = [web.open(headers={"X-Forwarded-For": f"203.0.113.{last}"}) for last in (1, 2, 1)]
    assert [tab.page.opened for tab in tabs] == [True, True, False]
    assert tabs[2].wire.server.taken.startswith(b"HTTP/1.1 503 ")
    assert web.server.listeners.admission._by_address == {"203.0.113.1": 1, "203.0.113.2": 1}


# Messages.


def echo(connection: Any, read: Frame) -> None:
    connection.enqueue(reply(read.seq, len(read.body)))


@pytest.mark.parametrize("size", [8, 113, 114, 115, 116, 1_000, MAX_BODY])
def test_one_frame_a_message(size: int) -> None:
    """A frame goes in and one comes back, on both sides of each form of a message's length."""
    web = Web()
    web.server.chat.handlers = {PING: echo}
    tab = web.open()
    tab.send(frame(PING, 77, bytes(size)))
    assert [len(read.body) for read in web.server.chat.begun] == [size]
    (answer,) = tab.page.frames()
    assert (answer.seq, key_of(answer), len(answer.body)) == (1, 77, size)


def test_a_flush_is_one_write() -> None:
    """The frames of a flush are each their own message, all in one write, with consecutive seq."""
    web = Web()
    tab = web.open()
    writes = len(tab.wire.server.writes)
    tab.connection.enqueue(PONG)
    tab.connection.enqueue_non_block(stored(5, 200))
    tab.connection.enqueue_non_block(live(1, 70))
    tab.wire.pump()
    assert len(tab.wire.server.writes) == writes + 1
    frames = tab.page.frames()
    assert [read.seq for read in frames] == [1, 2, 3, 4, 5]
    assert commands(frames) == [Command.PONG, Command.METADATA, IM, Command.SYNC_NOTIFY, Command.ROOM_IM]


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (12, b"\x82\x0c"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (127, b"\x82\x7e\x00\x7f"),
        (32_779, b"\x82\x7e\x80\x0b"),
        (65_535, b"\x82\x7e\xff\xff"),
    ],
)
def test_message_head(size: int, head: bytes) -> None:
    """RFC 6455, 5.2: FIN and binary, then the length in its shortest form, no mask."""
    assert message_head(size) == head


def test_a_burst_in_one_read() -> None:
    """Many messages in one read are many commands, in their order."""
    web = Web()
    raw = web.opened()
    raw.transport.send(b"".join(masked(frame(PING, seq)) for seq in range(1, 501)))
    assert web.server.chat.seqs == list(range(1, 501))


def test_one_byte_at_a_time() -> None:
    """However the bytes are cut, the messages are the same."""
    web = Web(messages_per_second=0)
    raw = web.opened()
    for byte in masked(frame(PING, 1)) + masked(b"x" * 125, WS_PING) + masked(frame(PING, 2, bytes(300))):
        raw.transport.send(bytes([byte]))
    assert [(read.seq, len(read.body)) for read in web.server.chat.begun] == [(1, 0), (2, 300)]
    assert raw.read_messages() == [(WS_PONG, b"x" * 125)]


def test_fragments_are_put_together() -> None:
    """A message may come in several WebSocket frames, empty ones and pings among them."""
    web = Web()
    raw = web.opened()
    whole = frame(IM, 9, b"0123456789")
    raw.transport.send(
        masked(whole[:5], BINARY, fin=False)
        + masked(b"", 0, fin=False)
        + masked(b"hello", WS_PING)
        + masked(whole[5:20], 0, fin=False)
        + masked(whole[20:], 0)
    )
    assert [(read.seq, read.body) for read in web.server.chat.begun] == [(9, b"0123456789")]
    assert raw.read_messages() == [(WS_PONG, b"hello")]
    # And one that was begun when the connection was slimmed.
    raw = web.raw()
    raw.transport.send(handshake() + masked(whole[:5], BINARY, fin=False))
    raw.transport.send(masked(whole[5:], 0))
    assert len(web.server.chat.begun) == 2


@pytest.mark.parametrize(
    ("message", "binary", "code", "kind"),
    [
        (frame(PING), False, 1003, "text"),
        (b"", False, 1003, "text"),
        (b"", True, 1002, "message"),
        (frame(PING)[:-1], True, 1002, "message"),
        (frame(PING, body=b"1234")[:-1], True, 1002, "message"),
        (frame(PING) + b"x", True, 1002, "message"),
        (frame(PING) + frame(PING), True, 1002, "message"),
        ((-1).to_bytes(4, signed=True) + bytes(7), True, 1002, "message"),
        ((-1).to_bytes(4, signed=True) + bytes(8), True, 1002, "message"),
        ((2**31 - 1).to_bytes(4) + bytes(8), True, 1002, "message"),
        (frame(PING, body=bytes(MAX_BODY + 1)), True, 1002, "length"),
        (bytes(100_000), True, 1002, "length"),
    ],
)
def test_what_is_no_message(message: bytes, binary: bool, code: int, kind: str) -> None:
    """Text, or anything that is not exactly one frame: closed with the code that says so, and counted."""
    web = Web()
    web.server.chat.handlers = {PING: pong}
    tab = web.open()
    tab.send(frame(PING, 1))
    tab.send(message, binary)
    assert tab.ended() == (code, "text" if code == 1003 else "protocol")
    assert commands(tab.page.frames()) == [Command.PONG]
    assert web.server.metrics.protocol_errors.values == {kind: 1}
    assert web.server.chat.seqs == [1]
    assert tab.wire.server.disconnected
    assert web.server.listeners.connections == set()


def test_a_message_too_long_in_fragments() -> None:
    """The bound is for the whole message, and holds before the bytes come."""
    web = Web()
    raw = web.opened()
    piece = bytes(30_000)
    raw.transport.send(masked(piece, BINARY, fin=False))
    assert not raw.is_closed()
    raw.transport.send(masked(piece, 0, fin=False)[:10])
    assert raw.is_closed()
    assert raw.read_messages() == [(CLOSE, pack("!H", 1002) + b"protocol")]


VIOLATIONS = {
    "not masked": b"\x82\x0c" + frame(PING),
    "a reserved bit": masked(frame(PING), rsv=4),
    "a reserved kind of message": masked(frame(PING), opcode=3),
    "a reserved kind of control frame": masked(b"", opcode=11),
    "a control frame in pieces": masked(b"", WS_PING, fin=False),
    "a ping too long": masked(bytes(200), WS_PING),
    "a ping without end": bytes([0x89, 0xFF]) + pack("!Q", 2**62) + bytes(4),
    "nothing to continue": masked(frame(PING), 0),
    "a message within a message": masked(frame(PING)[:4], BINARY, fin=False) + masked(frame(PING)),
    "a long form of a short length": b"\x82\xfe\x00\x0c" + bytes(4) + frame(PING),
    "a length of 2^62": bytes([0x82, 0xFF]) + pack("!Q", 2**62) + bytes(4),
    "a negative length": bytes([0x82, 0xFF]) + pack("!Q", 2**64 - 1) + bytes(4),
    "a close code that is none": masked(pack("!H", 1005), CLOSE),
    "half a close code": masked(b"x", CLOSE),
    "a reason that is no text": masked(pack("!H", 1000) + b"\xff\xfe", CLOSE),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_what_websocket_forbids(violation: bytes) -> None:
    """The client is told 1002; what it sends then costs nothing, and if it does not go it is cut off."""
    web = Web()
    web.server.chat.handlers = {PING: pong}
    raw = web.opened()
    raw.transport.send(masked(frame(PING, 1)))
    raw.transport.send(violation)
    assert raw.is_closed()
    sent = raw.read_messages()
    assert [opcode for opcode, _ in sent] == [BINARY, CLOSE]
    assert sent[1][1][:2] == pack("!H", 1002)
    assert web.server.chat.seqs == [1]
    assert sum(web.server.metrics.protocol_errors.values.values()) == 1
    for _ in range(50):
        raw.transport.send(bytes(65_536))
    assert held(raw.socket) < 200_000
    assert raw.read_messages() == sent
    web.server.pass_time(6)
    assert raw.is_cut_off()
    assert web.server.listeners.connections == set()


def held(socket: Socket) -> int:
    """Bytes that a socket's attributes hold."""
    size = 0
    for value in vars(socket).values():
        if isinstance(value, bytes | bytearray):
            size += len(value)
        elif isinstance(value, list):
            size += sum(len(item) for item in value if isinstance(item, bytes | bytearray))
    return size


def test_bytes_after_a_handshake_that_failed() -> None:
    """Under TLS bytes may still arrive then; they are not kept."""
    web = Web()
    raw = web.raw()
    raw.socket.dataReceived(b"nonsense\r\n\r\n")
    for _ in range(10):
        raw.socket.dataReceived(bytes(10_000))
    assert held(raw.socket) < 20_000


# Pings.


def test_ping() -> None:
    """Clients and proxies that ping get their bytes back."""
    web = Web()
    tab = web.open()
    tab.page.sendPing(b"are you there")
    tab.wire.pump()
    assert tab.page.pongs == [b"are you there"]


@pytest.mark.parametrize(
    "drop",
    [masked(bytes(125), WS_PING), masked(bytes(125), WS_PONG), masked(b"", 0, fin=False)],
    ids=["ping", "pong", "piece"],
)
def test_a_flood_of_what_is_no_message(drop: bytes) -> None:
    """A client that sends it and does not read does not make the server's buffers grow, and is read at its pace."""
    web = Web()
    raw = web.opened()
    raw.transport.send(masked(b"begun", BINARY, fin=False))
    for _ in range(100):
        raw.transport.send(drop * 500)
        web.server.clock.advance(0.001)
    assert raw.transport.unsent < 2 * 65_536
    assert raw.transport.unread, "its own TCP is where the flood stays"
    assert set(web.server.metrics.read_pauses.values) == {"rate"}
    assert not raw.is_closed()
    assert held(raw.socket) < 1_000


def test_no_pong_while_nothing_is_taken() -> None:
    """Pings of a client that takes nothing are not answered; once it does, new ones are."""
    web = Web()
    raw = web.opened()
    for _ in range(3):
        raw.connection.enqueue(reply(1, 30_000))
    web.server.settle()
    raw.transport.send(masked(b"1", WS_PING))
    raw.take()
    raw.transport.send(masked(b"2", WS_PING))
    assert [payload for opcode, payload in raw.read_messages() if opcode == WS_PONG] == [b"2"]


def test_an_unasked_pong() -> None:
    """A pong that nobody asked for is passed over."""
    web = Web()
    tab = web.open()
    tab.page.sendPong(b"here I am")
    tab.wire.pump()
    assert not tab.connection.closed


# The end.


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("kicked", 1000),
        ("stopping", 1001),
        ("protocol", 1002),
        ("text", 1003),
        ("internal_error", 1011),
        ("refused", 1000),
    ],
)
def test_the_server_closes(reason: str, code: int) -> None:
    """What is queued leaves, then a close frame with its code; the client answers, and the connection ends."""
    web = Web()
    tab = web.open()
    tab.connection.enqueue(PONG)
    tab.connection.close(reason)
    tab.connection.enqueue(PONG)
    tab.wire.pump()
    assert commands(tab.page.frames()) == [Command.PONG]
    assert tab.ended() == (code, reason)
    assert tab.wire.server.disconnected
    assert len(web.server.chat.gone) == 1
    assert web.server.metrics.closed.values == {reason: 1}


def test_who_does_not_answer_a_close_is_cut_off() -> None:
    """Nobody waits for ever for a client's close frame."""
    web = Web()
    raw = web.opened()
    raw.connection.close("kicked")
    assert raw.read_messages() == [(CLOSE, pack("!H", 1000) + b"kicked")]
    raw.transport.send(masked(frame(PING)))
    web.server.pass_time(4)
    assert not raw.is_cut_off()
    web.server.pass_time(1)
    assert raw.is_cut_off()
    assert web.server.chat.begun == []


@pytest.mark.parametrize(
    "close", [masked(b"", CLOSE), masked(pack("!H", 1000), CLOSE), masked(pack("!H", 4000) + b"bye", CLOSE)]
)
def test_the_client_closes(close: bytes) -> None:
    """Its close frame is answered, nothing leaves after that, and the connection ends."""
    web = Web()
    raw = web.opened()
    raw.connection.enqueue_non_block(live(1))
    raw.transport.send(masked(frame(SYNC, 1)) + close + masked(frame(PING, 2)))
    assert raw.is_closed()
    raw.connection.enqueue_non_block(live(2))
    raw.connection.enqueue(PONG)
    sent = raw.read_messages()
    assert [opcode for opcode, _ in sent][-1] == CLOSE
    assert sent[-1][1] == pack("!H", 1000)
    assert raw.is_gone()
    assert len(web.server.chat.gone) == 1
    assert web.server.metrics.closed.values == {}, "it was not the server that closed"
    assert web.server.chat.seqs == [1]


def test_a_client_that_closes_and_stays() -> None:
    """Who says good-bye and then neither reads nor goes is cut off; nothing more is written for it meanwhile."""
    web = Web()
    raw = web.opened()
    for _ in range(3):
        raw.connection.enqueue(reply(1, 30_000))
    web.server.settle()
    raw.transport.send(masked(b"", CLOSE))
    unsent = raw.transport.unsent
    for number in range(1_000):
        raw.connection.enqueue_non_block(live(number, 10_000))
    web.server.settle()
    assert raw.transport.unsent == unsent
    late = web.opened()
    for _ in range(3):
        late.connection.enqueue(reply(1, 30_000))
    web.server.settle()
    late.transport.send(masked(b"", CLOSE))
    late.take()
    assert late.is_gone(), "it read what there was, and both have said good-bye"
    web.server.pass_time(6)
    assert raw.is_cut_off()
    assert raw.transport.disconnected


def test_a_refused_client_is_held() -> None:
    """AUTH_STATUS 1, a while of nothing, then a close frame."""
    web = Web()
    web.server.chat.handlers = {AUTH: lambda connection, _: connection.refuse()}
    tab = web.open()
    tab.send(frame(AUTH))
    tab.send(frame(PING))
    assert commands(tab.page.frames()) == [Command.AUTH_STATUS]
    web.server.pass_time(4)
    tab.wire.pump()
    assert tab.ended() is None
    web.server.pass_time(1)
    tab.wire.pump()
    assert tab.ended() == (1000, "refused")
    assert web.server.chat.seqs == [1]


def test_the_connection_is_lost() -> None:
    """A client that is simply gone, in any state, is gone for the domain, once."""
    web = Web()
    unfinished = web.raw()
    unfinished.transport.send(handshake()[:50])
    opened = web.opened()
    inside = web.opened()
    inside.transport.send(masked(frame(PING))[:10])
    closing = web.opened()
    closing.connection.close("kicked")
    for raw in (unfinished, opened, inside, closing):
        raw.transport.lose()
    assert web.server.chat.gone == [raw.connection for raw in (unfinished, opened, inside, closing)]
    assert web.server.listeners.connections == set()
    assert web.server.listeners.admission._by_address == {}
    web.server.settle()
    assert web.server.clock.getDelayedCalls() == []


# What a connection costs.


def test_an_open_connection_is_slim() -> None:
    """After the handshake, and after messages, an instance holds only what is its own."""
    web = Web()
    web.server.chat.handlers = {PING: pong}
    raw = web.opened()
    kept = set(vars(raw.socket))
    assert kept <= {"transport", "factory", "connection", "state", "data", "connected", "peer"}
    raw.transport.send(masked(frame(PING)) + masked(b"", WS_PING))
    assert len(vars(raw.socket)) <= len(kept) + 10
    assert held(raw.socket) < 100


def test_connections_share_nothing_that_changes() -> None:
    """What is the class's is everybody's: two connections in the middle of a message do not meet."""
    web = Web()
    first, second = web.opened(), web.opened()
    one, two = masked(frame(IM, 1, b"a" * 200)), masked(frame(IM, 2, b"b" * 100), mask=b"abcd")
    first.transport.send(one[:50])
    second.transport.send(two[:40])
    first.transport.send(one[50:])
    second.transport.send(two[40:])
    assert [(read.seq, read.body) for read in web.server.chat.begun] == [(1, b"a" * 200), (2, b"b" * 100)]


@pytest.mark.parametrize("end", ["lost", "client", "server", "handshake", "refused handshake"])
def test_nothing_of_a_connection_stays(end: str) -> None:
    """However a connection ends, it is freed at once, without the garbage collector."""
    web = Web()
    web.server.chat.handlers = {PING: pong}
    gc.collect()
    gc.disable()
    try:
        raw = web.raw() if "handshake" in end else web.opened()
        if end == "refused handshake":
            raw.transport.send(handshake("/nowhere"))
            raw.take()
        elif end != "handshake":
            raw.transport.send(masked(frame(PING)))
            raw.take()
            if end == "client":
                raw.transport.send(masked(b"", CLOSE))
            elif end == "server":
                raw.connection.close("kicked")
                raw.transport.send(masked(b"", CLOSE))
            raw.take()
        if end in ("lost", "handshake"):
            raw.transport.lose()
        assert raw.transport.disconnected
        web.server.settle()
        web.server.chat.gone.clear()
        del raw
        assert [found for found in gc.get_objects() if isinstance(found, Socket | WebSocketConnection)] == []
    finally:
        gc.enable()


def test_a_message_while_a_command_is_under_way() -> None:
    """Turns are the same as over TCP: what follows a SYNC waits for it, and reading stops when too much waits."""
    web = Web()
    done: Deferred[None] = Deferred()

    def sync(_connection: IConnection, _read: Frame) -> Deferred[None]:
        return done

    web.server.chat.handlers = {SYNC: sync}
    raw = web.opened()
    raw.transport.send(
        masked(frame(SYNC, 1)) + b"".join(masked(frame(PING, seq, bytes(200))) for seq in range(2, 1_002))
    )
    assert web.server.chat.seqs == [1]
    assert not raw.is_read()
    assert raw.transport.unread
    done.callback(None)
    raw.transport.send(b"")
    assert web.server.chat.seqs == list(range(1, 1_002))
    assert raw.is_read()


def test_sizes_of_this_test() -> None:
    """What these tests take for the largest message is it."""
    assert len(frame(PING, body=bytes(MAX_BODY))) == HEADER_SIZE + MAX_BODY
