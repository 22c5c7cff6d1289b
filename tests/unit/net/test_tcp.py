"""The TCP adapter: who is let in, who is turned away, and that nothing of a connection stays."""

import gc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from imserver.model import SignIn
from imserver.net.connection import Connection
from imserver.net.prompt import write_promptly
from imserver.net.tcp import TcpConnection, TcpFactory, TcpProtocol
from imserver.protocol.commands import Command, Platform
from tests.contract.sql_storage import running_reactor
from tests.fakes.transport import FakeTransport, Wire
from tests.unit.net.server import ALICE, Server, commands, frame, key_of, live, parse, reply
from tests.unit.net.test_connection import pong


def build(factory: TcpFactory, server: Server, host: str = "192.0.2.1") -> FakeTransport:
    """A client comes to the factory, whatever that thinks of it."""
    transport = FakeTransport(server.clock, host)
    protocol = factory.buildProtocol(server.address(host))
    assert protocol is not None
    transport.connect(protocol)
    return transport


def test_over_the_limit_it_is_turned_away() -> None:
    """Who may not come is cut off at once, gets no connection and costs nothing."""
    server = Server(connections_per_address=1)
    first = server.connect()
    factory = TcpFactory(server.listeners)
    turned_away = build(factory, server)
    assert turned_away.aborted
    server.settle()
    assert turned_away.disconnected
    assert len(server.listeners.connections) == 1
    assert server.chat.gone == []
    assert server.metrics.refused.values == {"address": 1}
    assert server.metrics.accepted.values == {"tcp": 1}
    first.transport.lose()
    assert not build(factory, server).aborted


def test_bytes_of_one_that_was_turned_away() -> None:
    """Bytes that came with it go nowhere."""
    server = Server(connections=1)
    server.connect()
    protocol = TcpFactory(server.listeners).buildProtocol(server.address())
    transport = FakeTransport(server.clock)
    transport.connect(protocol)
    protocol.dataReceived(frame(Command.PING))
    assert server.chat.begun == []


@pytest_twisted.ensureDeferred
async def test_a_unix_socket(tmp_path: Path) -> None:
    """A listener on a path, a real one: its clients have no address and no TCP options, and are served."""
    server = Server()
    server.chat.handlers = {Command.PING: pong}
    came: Deferred[Connection] = Deferred()
    gone: Deferred[bytes] = Deferred()

    class Factory(TcpFactory):
        def buildProtocol(self, addr: IAddress | None) -> Protocol:
            protocol = super().buildProtocol(addr)
            assert isinstance(protocol, TcpProtocol)
            received = protocol.dataReceived

            def data_received(data: bytes) -> None:
                received(data)
                came.callback(protocol.connection)

            protocol.dataReceived = data_received  # type: ignore[method-assign]
            return protocol

    class Client(Protocol):
        taken = b""

        def connectionMade(self) -> None:
            transport: Any = self.transport
            transport.write(frame(Command.PING))

        def dataReceived(self, data: bytes) -> None:
            self.taken += data

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            gone.callback(self.taken)

    reactor = running_reactor()
    path = f"unix:{tmp_path / 'im.socket'}"
    port = await serverFromString(reactor, path).listen(Factory(server.listeners))
    write_promptly(port)
    await connectProtocol(clientFromString(reactor, path), Client())
    either: list[Deferred[Any]] = [came, gone]
    first, _ = await DeferredList(either, fireOnOneCallback=True)
    assert isinstance(first, Connection), "nobody was served"
    assert first.address == "local"
    first.close("as the test wants it")
    assert commands(parse(await gone)) == [Command.PONG]
    await port.stopListening()


def test_small_frames_leave_at_once() -> None:
    """An ACK does not wait for more to come."""
    assert Server().connect().transport.no_delay


def test_nothing_of_a_connection_stays() -> None:
    """A connection that is lost is freed at once, without the garbage collector."""
    server = Server()
    server.chat.handlers = {Command.PING: pong}
    client = server.sign_in()
    client.send(frame(Command.PING))
    assert commands(client.read()) == [Command.PONG]
    client.transport.lose()
    gc.collect()
    gc.disable()
    try:
        server.chat.gone.clear()
        del client
        assert [found for found in gc.get_objects() if isinstance(found, TcpConnection | TcpProtocol)] == []
    finally:
        gc.enable()


# Under TLS.


class TlsClient(Protocol):
    """Remembers what it read."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.taken += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Tls:
    """A listener as `ssl:` endpoints make it, and clients that speak TLS to it."""

    def __init__(self, server: Server, certificate: PrivateCertificate) -> None:
        self._server = server
        self._factory = TLSMemoryBIOFactory(certificate.options(), False, TcpFactory(server.listeners), server.clock)
        clients = Factory.forProtocol(TlsClient)
        self._clients = TLSMemoryBIOFactory(CertificateOptions(), True, clients, server.clock)

    def connect(self) -> FakeTransport:
        """A client that never says a word."""
        transport = FakeTransport(self._server.clock)
        transport.connect(self._factory.buildProtocol(self._server.address()))
        return transport

    def shake_hands(self) -> tuple[Connection, TlsClient, Wire]:
        server = self._factory.buildProtocol(self._server.address())
        client = self._clients.buildProtocol(None)
        wire = Wire(self._server.clock, server, client, "192.0.2.1")
        wire.pump()
        assert isinstance(server.wrappedProtocol, TcpProtocol)
        assert isinstance(client.wrappedProtocol, TlsClient)
        return server.wrappedProtocol.connection, client.wrappedProtocol, wire


@pytest.fixture(scope="module")
def certificate() -> PrivateCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    pem = signed + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


#: Twisted does what pyOpenSSL no longer likes.
tls = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


@tls
def test_over_the_limit_under_tls(certificate: PrivateCertificate) -> None:
    """Under TLS, too, who may not come is cut off, and does not stay for ever."""
    server = Server(connections=1)
    listener = Tls(server, certificate)
    assert not listener.connect().aborted
    turned_away = listener.connect()
    assert turned_away.aborted
    server.settle()
    assert turned_away.disconnected


@tls
def test_under_tls(certificate: PrivateCertificate) -> None:
    """A large answer passes through TLS in pieces that its transport takes, and the end is a good-bye on both sides."""
    server = Server(messages_per_second=0)
    server.chat.handlers = {Command.PING: lambda connection, read: connection.enqueue(reply(read.seq, 30_000))}
    connection, client, wire = Tls(server, certificate).shake_hands()
    assert client.transport is not None
    client.transport.write(b"".join(frame(Command.PING, seq) for seq in range(1, 101)))
    wire.pump()
    assert [key_of(read) for read in parse(bytes(client.taken))] == list(range(1, 101))
    connection.enqueue(reply(101, 30_000))
    connection.close("stopping")
    wire.pump()
    assert len(parse(bytes(client.taken))) == 101
    assert client.lost is not None
    assert client.lost.check(ConnectionDone)
    assert wire.server.disconnected
    assert not wire.server.aborted
    assert server.listeners.connections == set()


@tls
def test_a_slow_client_under_tls(certificate: PrivateCertificate) -> None:
    """Under TLS, too, a client that does not read costs its caps, and one that takes nothing is cut off."""
    server = Server()
    connection, _, wire = Tls(server, certificate).shake_hands()
    connection.signed_in(SignIn(ALICE, 0), Platform.ANDROID, b"phone", 2)
    wire.client.read_no_more()
    for number in range(2_000):
        connection.enqueue_non_block(live(number, 10_000))
        wire.pump()
    assert wire.server.unsent < 3 * 65_536
    assert connection._push_bytes <= server.limits.queue_bytes
    assert not connection.closed
    server.pass_time(76)
    wire.pump()
    assert wire.server.aborted
    assert server.metrics.closed.values == {"stalled": 1}
    assert server.listeners.connections == set()


@tls
def test_who_never_shakes_hands_under_tls(certificate: PrivateCertificate) -> None:
    """A client that connects and says nothing is gone when its time to sign in is."""
    server = Server()
    transport = Tls(server, certificate).connect()
    server.pass_time(31)
    assert transport.disconnected
    assert server.listeners.connections == set()
