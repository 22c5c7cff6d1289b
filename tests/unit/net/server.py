"""Connections with nothing real around them: in-memory transports, a clock that stands still, a scripted domain."""

import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import MemoryReactorClock

from imserver.metrics import Metrics
from imserver.model import Limits, Push, SignIn, Unit, UserKey, user_timeline
from imserver.net.connection import Connection, Listeners
from imserver.net.tcp import TcpFactory, TcpProtocol
from imserver.protocol.commands import Command, Flag, Platform
from imserver.protocol.frame import Frame, FrameDecoder, OutFrame, encode_frame
from imserver.protocol.messages import IM, Metadata, Pong, RoomIM, SyncEnd, SyncNotify
from tests.fakes.commands import FakeChat
from tests.fakes.transport import FakeTransport

ALICE = UserKey(7, 1)
PONG = Unit((Pong().frame(),))


class Server:
    """What all connections of a test share."""

    def __init__(self, **limits: float) -> None:
        self.clock = MemoryReactorClock()
        self.metrics = Metrics()
        self.chat = FakeChat()
        self.limits = msgspec.structs.replace(Limits(), **limits)
        self.listeners = Listeners(self.chat, self.limits, self.metrics, self.clock, lambda: 1_700_000_000.0)
        self._tcp = TcpFactory(self.listeners)

    def address(self, host: str = "192.0.2.1") -> IAddress:
        return IPv4Address("TCP", host, 50000)

    def connect(self, host: str = "192.0.2.1") -> "Client":
        """A client comes over TCP."""
        protocol = self._tcp.buildProtocol(self.address(host))
        assert isinstance(protocol, TcpProtocol)
        transport = FakeTransport(self.clock, host)
        transport.connect(protocol)
        return Client(self, transport, protocol.connection)

    def sign_in(self, host: str = "192.0.2.1") -> "Client":
        """A client comes and is signed in."""
        client = self.connect(host)
        client.sign_in()
        return client

    def settle(self) -> None:
        """Let all that is to happen now happen."""
        self.clock.advance(0)

    def pass_time(self, seconds: float) -> None:
        """Time goes by, in steps of a second, with a sweep after each."""
        while seconds > 0:
            step = min(seconds, 1.0)
            self.clock.advance(step)
            self.listeners.sweep()
            self.clock.advance(0)
            seconds -= step


class Client:
    """One client, and the server's side of its connection."""

    def __init__(self, server: Server, transport: FakeTransport, connection: Connection) -> None:
        self._server = server
        self.transport = transport
        self.connection = connection

    def sign_in(self) -> None:
        """The client is Alice, on a phone."""
        self.connection.signed_in(SignIn(ALICE, 0), Platform.ANDROID, b"phone", 2)

    def send(self, *frames: bytes) -> None:
        self.transport.send(b"".join(frames))

    def read(self) -> list[Frame]:
        """Read until nothing more comes; all frames since the connection began."""
        self.take()
        return self.received()

    def take(self) -> None:
        """Read until nothing more comes."""
        self._server.settle()
        while self.transport.is_writing():
            self.transport.drain()
            self._server.settle()

    def is_read(self) -> bool:
        """Does the server read from this client?"""
        return self.transport.is_reading()

    def is_closed(self) -> bool:
        """Has the server closed its connection, whether or not that has come through?"""
        return self.connection.closed

    def is_gone(self) -> bool:
        """Has the connection ended as it should, with all that was written?"""
        return bool(self.transport.disconnected) and not self.transport.aborted

    def is_cut_off(self) -> bool:
        """Has the server cut it off?"""
        return self.transport.aborted

    def received(self) -> list[Frame]:
        """The frames that the client has read so far."""
        return parse(bytes(self.transport.taken))


def parse(data: bytes) -> list[Frame]:
    """The frames in `data`, which must hold nothing else."""
    decoder = FrameDecoder()
    decoder.feed(data)
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    assert len(decoder) == 0, "bytes that are no frame"
    return frames


def frame(command: Command, seq: int = 1, body: bytes = b"", version: int = 2) -> bytes:
    """A client's frame."""
    return encode_frame(seq, command, version, 0, body)


def reply(key: int, size: int = 0) -> Unit:
    """A reply that can be told by its key, with a body of at least 8 bytes."""
    body = SyncEnd(key).encode(2) + bytes(max(size - 8, 0))
    return Unit((OutFrame(Command.SYNC_END, 0, (body, body, body)),))


def live(number: int, size: int = 0) -> Push:
    """A push of what is not stored, told by its number."""
    return Push((RoomIM(1, number, bytes(size)).frame(),))


def stored(key: int, size: int = 0, user: UserKey = ALICE) -> Push:
    """A push of a stored message, as delivery makes it."""
    notify = SyncNotify(key).frame()
    return Push(
        (Metadata(key, key - 1).frame(), IM(2, user.uid, 0, 0, bytes(size)).frame(Flag.PUSH), notify),
        user_timeline(user),
        notify,
    )


def key_of(received: Frame) -> int:
    """The first int64 of a body: what tells frames of one kind from each other."""
    return int.from_bytes(received.body[:8])


def commands(frames: list[Frame]) -> list[Command]:
    return [Command(received.command) for received in frames]
