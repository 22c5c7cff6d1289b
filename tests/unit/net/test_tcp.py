"""The TCP adapter: who is let in, who is turned away, and that nothing of a connection stays."""

import gc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.address import UNIXAddress
from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory

from imserver.net.tcp import TcpConnection, TcpFactory, TcpProtocol
from imserver.protocol.commands import Command
from tests.fakes.transport import FakeTransport
from tests.unit.net.server import Server, commands, frame
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


def test_a_unix_socket() -> None:
    """A listener on a path: its clients have no address and no TCP options."""
    server = Server()
    protocol = TcpFactory(server.listeners).buildProtocol(UNIXAddress(b"/run/imserver.socket"))
    assert isinstance(protocol, TcpProtocol)

    class UnixTransport(FakeTransport):
        setTcpNoDelay: Any = property()  # not there

    transport = UnixTransport(server.clock)
    transport.connect(protocol)
    assert protocol.connection.address == "local"


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


class Tls:
    """A listener as `ssl:` endpoints make it, and a client that speaks TLS to it."""

    def __init__(self, server: Server, certificate: PrivateCertificate) -> None:
        self._server = server
        self._factory = TLSMemoryBIOFactory(certificate.options(), False, TcpFactory(server.listeners), server.clock)

    def connect(self) -> FakeTransport:
        transport = FakeTransport(self._server.clock)
        transport.connect(self._factory.buildProtocol(self._server.address()))
        return transport


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


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # Twisted does
def test_over_the_limit_under_tls(certificate: PrivateCertificate) -> None:
    """Under TLS, too, who may not come is cut off, and does not stay for ever."""
    server = Server(connections=1)
    listener = Tls(server, certificate)
    assert not listener.connect().aborted
    turned_away = listener.connect()
    assert turned_away.aborted
    server.settle()
    assert turned_away.disconnected
