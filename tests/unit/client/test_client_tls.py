"""TLS: the server must prove its name, over both transports. On real sockets: there is no TLS in memory."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import ssl
from twisted.internet.defer import Deferred

from imserver.client import CannotConnect, connect
from imserver.protocol.messages import AuthStatus
from tests.fakes.server import FakeServer, tcp_factory, websocket_factory

# pyOpenSSL warns of what Twisted does with it.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


def certificate_for(name: str) -> ssl.PrivateCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    loaded: ssl.PrivateCertificate = ssl.PrivateCertificate.loadPEM(pem)
    return loaded


class Listener:
    """A `FakeServer` behind TLS on a free port."""

    def __init__(self, reactor: Any, scheme: str, name: str) -> None:
        self.server = FakeServer()
        self.server.tokens = {b"one": 1}
        self.certificate = certificate_for(name)
        factory = tcp_factory(self.server) if scheme == "tls" else websocket_factory(self.server, reactor)
        self.port = reactor.listenSSL(0, factory, self.certificate.options(), interface="127.0.0.1")
        number = self.port.getHost().port
        self.address = f"tls:localhost:{number}" if scheme == "tls" else f"wss://localhost:{number}/ws"


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


@pytest.fixture(params=["tls", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def listen(scheme: str, reactor: Any) -> Iterator[Any]:
    listeners: list[Listener] = []

    def start(name: str) -> Listener:
        listeners.append(Listener(reactor, scheme, name))
        return listeners[-1]

    yield start
    for listener in listeners:
        pytest_twisted.blockon(Deferred.fromCoroutine(stopped(listener)))


async def stopped(listener: Listener) -> None:
    await listener.port.stopListening()


@pytest_twisted.ensureDeferred
async def test_trusted(listen: Any, reactor: Any) -> None:
    """A certificate for this name from somebody whom we trust."""
    listener = listen("localhost")
    connection = await connect(reactor, listener.address, trust_root=listener.certificate)
    assert await connection.sign_in("one") == AuthStatus(0)
    await connection.ping()
    connection.close()
    assert await connection.closed == "closed here"


@pytest_twisted.ensureDeferred
async def test_not_trusted(listen: Any, reactor: Any) -> None:
    """A certificate from nobody whom we know: no connection, and the reason."""
    listener = listen("localhost")
    with pytest.raises(CannotConnect, match="certificate verify failed"):
        await connect(reactor, listener.address)
    assert listener.server.heard == []


@pytest_twisted.ensureDeferred
async def test_another_name(listen: Any, reactor: Any) -> None:
    """A good certificate, but of another host: no connection."""
    listener = listen("im.example.com")
    with pytest.raises(CannotConnect, match="certificate is not for this host"):
        await connect(reactor, listener.address, trust_root=listener.certificate)
    assert listener.server.heard == []
