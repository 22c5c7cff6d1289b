"""TCP connections without a network.

It is Twisted's own transport but for the socket: it pauses its producer, stops and goes on reading, and closes
as a real one does. What the other end does, the test says.
"""

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from imserver.net.prompt import PromptWriter

#: Bytes of one read, as tcp.Connection.doRead has it.
READ_SIZE = 65536


class FakeTransport(PromptWriter):
    """The server's end of a connection."""

    def __init__(self, reactor: MemoryReactorClock, peer: str = "192.0.2.1") -> None:
        super().__init__(reactor)
        self._clock = reactor
        self._peer = IPv4Address("TCP", peer, 50000)
        self.protocol: IProtocol | None = None
        #: Every write, in order.
        self.writes: list[bytes] = []
        #: The bytes that the other end has read.
        self.taken = bytearray()
        #: The other end is told nothing more: it sees a reset.
        self.aborted = False
        self._window = 0
        #: What the other end sent, and this one has not read.
        self.unread = bytearray()
        self.connected = 1
        reactor.addReader(self)

    def connect(self, protocol: IProtocol) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)

    # What the server sees.

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def writeSomeData(self, data: bytes) -> int:
        size = min(len(data), self.SEND_LIMIT, self._window)
        self._window -= size
        self.taken += data[:size]
        return size

    def abortConnection(self) -> None:
        if self.disconnected or self.aborted:
            return
        self.aborted = True
        self._clock.removeReader(self)
        self._clock.removeWriter(self)
        self._clock.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure) -> None:
        if self.disconnected:
            return
        FileDescriptor.connectionLost(self, reason)
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(reason)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.254", 23000)

    # What the other end does.

    def drain(self, size: int | None = None) -> None:
        """Read up to `size` bytes, or all that is there."""
        self._window = 1 << 62 if size is None else size
        while self._window and self.is_writing():
            reason = FileDescriptor.doWrite(self)
            if reason is not None:
                self.connectionLost(Failure(ConnectionDone()))
        self._window = 0

    def open_window(self, size: int) -> None:
        """Have room for so many bytes from now on."""
        self._window = size

    def send(self, data: bytes) -> None:
        """Send bytes; the server reads them once it wants to, at most `READ_SIZE` at a time."""
        self.unread += data
        while self.unread and self.is_reading() and self.protocol is not None:
            data = bytes(self.unread[:READ_SIZE])
            del self.unread[:READ_SIZE]
            self.protocol.dataReceived(data)

    def read_no_more(self) -> None:
        """Let whatever comes stay where it is."""
        self._clock.removeReader(self)

    def lose(self) -> None:
        """Close."""
        self.connectionLost(Failure(ConnectionDone()))

    # What the test looks at.

    def is_reading(self) -> bool:
        """Does the server want to read?"""
        return self in self._clock.getReaders()

    def is_writing(self) -> bool:
        """Has the server anything to write, or a close to come after it?"""
        return self in self._clock.getWriters() and not self.aborted

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the other end has not read."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen


class Wire:
    """A connection between two protocols. Bytes go through only as far as the other end reads."""

    #: Bytes that are on their way to an end that does not read, at most.
    ROOM = 65536

    def __init__(self, reactor: MemoryReactorClock, server: IProtocol, client: IProtocol, host: str) -> None:
        self._clock = reactor
        self.server = FakeTransport(reactor, host)
        self.client = FakeTransport(reactor)
        #: What each end has sent so far.
        self._carried = {self.server: 0, self.client: 0}
        self.server.connect(server)
        self.client.connect(client)

    def pump(self) -> None:
        """Carry bytes, and the end of the connection, until nothing moves."""
        self._clock.advance(0)
        while self._carry(self.client, self.server) or self._carry(self.server, self.client):
            self._clock.advance(0)

    def _carry(self, source: FakeTransport, target: FakeTransport) -> bool:
        """Did anything move?"""
        before = len(target.unread), source.disconnected, target.disconnected
        if source.is_writing():
            source.drain(max(self.ROOM - len(target.unread), 0))
        carried = self._carried[source]
        self._carried[source] = len(source.taken)
        target.send(bytes(source.taken[carried:]))
        if source.disconnected and not target.disconnected and (source.aborted or target.is_reading()):
            target.connectionLost(Failure(ConnectionLost() if source.aborted else ConnectionDone()))
        after = len(target.unread), source.disconnected, target.disconnected
        return len(source.taken) > carried or before != after
