"""The domain behind real connections, over transports in memory: what a client sees of both together."""

from typing import NamedTuple

import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock

from imserver.model import Limits
from imserver.net.connection import Connection, Listeners
from imserver.net.tcp import TcpFactory, TcpProtocol
from imserver.protocol.frame import FrameDecoder, encode_frame
from imserver.protocol.messages import Message, decode_from_server
from tests.fakes.chat import Said
from tests.fakes.transport import FakeTransport
from tests.unit.chat.world import World


class Server:
    """The listening side."""

    def __init__(self, world: World, **limits: float) -> None:
        self.world = world
        self.clock = MemoryReactorClock()
        limits_ = msgspec.structs.replace(Limits(), **limits)
        self.listeners = Listeners(world.chat, limits_, world.metrics, self.clock, lambda: world.now)
        self._tcp = TcpFactory(self.listeners)

    def connect(self, version: int = 2) -> "Line":
        """A client comes over TCP. Until it signs in nobody knows who it is."""
        protocol = self._tcp.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        assert isinstance(protocol, TcpProtocol)
        transport = FakeTransport(self.clock)
        transport.connect(protocol)
        return Line(self, transport, protocol.connection, version)

    def pass_time(self, seconds: int) -> None:
        """Time goes by, with a sweep every second."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.listeners.sweep()
            self.clock.advance(0)


class Outgoing(NamedTuple):
    """What a client says."""

    message: Message
    seq: int = 1
    flag: int = 0


class Line:
    """The client's end of a connection."""

    def __init__(self, server: Server, transport: FakeTransport, connection: Connection, version: int) -> None:
        self._server = server
        self.transport = transport
        self.connection = connection
        self._version = version
        self._decoder = FrameDecoder()
        self._parsed = 0
        self._seq = 0

    @property
    def lost(self) -> bool:
        return bool(self.transport.disconnected)

    def send(self, *outgoing: Outgoing, cut: int | None = None) -> None:
        """Say all that in one go, in pieces of `cut` bytes."""
        data = b"".join(
            encode_frame(seq, message.command, self._version, flag, message.encode(self._version))
            for message, seq, flag in outgoing
        )
        for at in range(0, len(data), cut or len(data)):
            self.transport.send(data[at : at + (cut or len(data))])

    def read(self) -> list[Said]:
        """Read until nothing more comes: what came since the last time. The server numbered it without a gap."""
        self._server.clock.advance(0)
        while self.transport.is_writing() or (self.transport.unread and self.transport.is_reading()):
            self.transport.drain()
            self.transport.send(b"")  # what waits until the server reads again
            self._server.clock.advance(0)
        self._decoder.feed(bytes(self.transport.taken[self._parsed :]))
        self._parsed = len(self.transport.taken)
        came = []
        while (frame := self._decoder.next_frame()) is not None:
            self._seq += 1
            assert (frame.seq, frame.version) == (self._seq, self._version)
            came.append(Said(decode_from_server(frame.command, frame.version, frame.body), frame.flag))
        assert len(self._decoder) == 0, "bytes that are no frame"
        return came

    def hang_up(self) -> None:
        """The client goes."""
        self.transport.lose()
        self._server.clock.advance(0)
