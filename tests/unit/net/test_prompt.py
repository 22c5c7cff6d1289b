"""Writing to a socket at once, and when the reactor is asked to watch it."""

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, serverFromString
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from imserver.net.prompt import SocketTransport, write_promptly
from tests.contract.sql_storage import running_reactor
from tests.fakes.transport import FakeTransport


class CountedReactor(MemoryReactorClock):
    """Counts how often it is told to watch, or to watch no longer."""

    told = 0

    def __init__(self) -> None:
        MemoryReactorClock.__init__(self)

    def addWriter(self, writer: object) -> None:
        self.told += 1
        MemoryReactorClock.addWriter(self, writer)

    def removeWriter(self, writer: object) -> None:
        self.told += 1
        MemoryReactorClock.removeWriter(self, writer)


@pytest.fixture
def reactor() -> Iterator[CountedReactor]:
    reactor = CountedReactor()
    yield reactor
    assert not reactor.getDelayedCalls()


def test_with_room_the_reactor_hears_nothing(reactor: CountedReactor) -> None:
    transport = FakeTransport(reactor)
    transport.open_window(1000)
    for _ in range(3):
        transport.write_now(b"x" * 100)
    assert (bytes(transport.taken), reactor.told) == (b"x" * 300, 0)


def test_what_there_is_no_room_for_waits_for_the_reactor(reactor: CountedReactor) -> None:
    """It is told once, whatever comes after, and once more when all has left: by itself, or with the next write."""
    transport = FakeTransport(reactor)
    transport.open_window(10)
    transport.write_now(b"0123456789abc")
    assert (bytes(transport.taken), transport.is_writing(), reactor.told) == (b"0123456789", True, 1)
    transport.write_now(b"def")
    assert (bytes(transport.taken), transport.is_writing(), reactor.told) == (b"0123456789", True, 1)
    transport.drain(4)
    assert (transport.is_writing(), reactor.told) == (True, 1)
    transport.drain()
    assert (bytes(transport.taken), transport.is_writing(), reactor.told) == (b"0123456789abcdef", False, 2)
    transport.write_now(b"g")
    transport.open_window(10)
    transport.write_now(b"h")
    assert (bytes(transport.taken), transport.is_writing(), reactor.told) == (b"0123456789abcdefgh", False, 4)


def test_an_error_is_left_to_the_reactor(reactor: CountedReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which finds it when it tries, and ends the connection in its own order."""
    transport = FakeTransport(reactor)
    error = ConnectionLost()
    monkeypatch.setattr(transport, "writeSomeData", lambda _data: error)
    transport.write_now(b"x")
    assert transport.is_writing()
    assert FileDescriptor.doWrite(transport) is error


@pytest_twisted.ensureDeferred
async def test_over_a_real_socket() -> None:
    """More than the kernel takes at once arrives whole, in order; the connection closes after it."""
    sent = bytes(range(256)) * 16_384
    gone: Deferred[bytes] = Deferred()
    transports: list[Any] = []

    class Sender(Protocol):
        def connectionMade(self) -> None:
            transport: Any = self.transport
            transports.append(transport)
            for at in range(0, len(sent), 65_536):
                transport.write_now(sent[at : at + 65_536])
            transport.loseConnection()

    class Receiver(Protocol):
        def __init__(self) -> None:
            self.received = bytearray()

        def dataReceived(self, data: bytes) -> None:
            self.received += data

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            gone.callback(bytes(self.received))

    reactor = running_reactor()
    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory.forProtocol(Sender))
    write_promptly(port)
    await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port), Receiver())
    assert await gone == sent
    assert isinstance(transports[0], SocketTransport)
    await port.stopListening()
