"""One request to a webhook, over real sockets on loopback: what arrives, and what an answer may do to us."""

import datetime as dt
import hashlib
import hmac
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from imserver import __version__
from imserver.metrics import Metrics
from imserver.push.request import Answer, NoAnswer, Webhook, _delay, signature
from tests.contract.sql_storage import running_reactor
from tests.unit.push.server import OK, Server

KEY = b"0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000
#: pyOpenSSL warns of what Twisted does with it.
TLS = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


class Caller:
    """A `Webhook` of a test."""

    def __init__(self, url: str, seconds: float = 30.0) -> None:
        self.metrics = Metrics()
        self.webhook = Webhook(url, KEY, seconds, running_reactor(), lambda: NOW + 0.9, self.metrics)

    @property
    def requests(self) -> int:
        """How many were measured."""
        return sum(self.metrics.push_request_seconds.counts)


@pytest_twisted.async_yield_fixture
async def call(server: Server) -> AsyncIterator[Callable[..., Caller]]:
    callers: list[Caller] = []

    def make(path: str = "/", seconds: float = 30.0) -> Caller:
        server.listen()
        callers.append(Caller(f"http://127.0.0.1:{server.number}{path}", seconds))
        return callers[-1]

    yield make
    for caller in callers:
        await caller.webhook.close()


async def no_answer(answered: Deferred[Answer]) -> NoAnswer:
    with pytest.raises(NoAnswer) as caught:
        await answered
    return caught.value


# What arrives.


@pytest_twisted.ensureDeferred
async def test_a_request(server: Server, call: Any) -> None:
    """Method, path, headers and body are as docs/push.md says, and the signature proves them."""
    caller = call("/push;v=1?app=7")
    answered = caller.webhook.post(b'{"pushes":[]}')
    peer = await server.peers.get()
    (first, *headers), body = await peer.request()
    assert first == b"POST /push;v=1?app=7 HTTP/1.1"
    digest = hmac.new(KEY, b'1700000000.{"pushes":[]}', hashlib.sha256).hexdigest()
    assert {line.split(b": ", 1)[0].lower(): line.split(b": ", 1)[1] for line in headers} == {
        b"host": b"127.0.0.1:%d" % server.number,
        b"content-length": b"13",
        b"content-type": b"application/json",
        b"user-agent": b"imserver/" + __version__.encode(),
        b"x-imserver-signature": f"t=1700000000,v1={digest}".encode(),
    }
    assert body == b'{"pushes":[]}'
    peer.say(OK)
    assert await answered == Answer(200)
    assert caller.requests == 1


def test_signature() -> None:
    """It is another for another key, another time, and another body."""
    signatures = {
        signature(key, seconds, body) for key in (KEY, KEY[::-1]) for seconds in (1, 11) for body in (b"1", b".1", b"")
    }
    assert len(signatures) == 12
    assert all(re.fullmatch("t=(1|11),v1=[0-9a-f]{64}", each) for each in signatures)


@pytest_twisted.ensureDeferred
async def test_the_connection_is_kept(server: Server, call: Any) -> None:
    """The next request goes over the same one, as long as both leave it open; else over a new one."""
    caller = call()
    answered = caller.webhook.post(b"1")
    peer = await server.peers.get()
    await peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
    await answered
    reactor: Any = running_reactor()
    ends = [call.getTime() - reactor.seconds() for call in reactor.getDelayedCalls()]
    assert len([end for end in ends if 29 < end <= 30]) == 1
    answered = caller.webhook.post(b"2")
    assert (await peer.request())[1] == b"2"
    peer.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await answered
    await peer.lost
    answered = caller.webhook.post(b"3")
    peer = await server.peers.get()
    assert (await peer.request())[1] == b"3"
    peer.say(OK)
    assert await answered == Answer(200)
    assert len(server.all) == 2


@pytest_twisted.ensureDeferred
async def test_a_large_request(server: Server, call: Any) -> None:
    """Larger than what a socket takes at once; an early answer counts."""
    caller = call()
    body = os.urandom(1024 * 1024)
    answered = caller.webhook.post(body)
    peer = await server.peers.get()
    assert (await peer.request())[1] == body
    peer.say(OK)
    assert await answered == Answer(200)


# Answers.


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nsorry",
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["length", "chunks", "continue"],
)
@pytest_twisted.ensureDeferred
async def test_status(server: Server, call: Any, answer: bytes) -> None:
    """Whatever the form of the answer."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(answer)
    assert await answered == Answer(503)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_ends_with_its_connection(server: Server, call: Any) -> None:
    """HTTP/1.0 has no other end."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(b"HTTP/1.0 200 OK\r\n\r\nfine")
    peer.hang_up()
    assert await answered == Answer(200)


@pytest_twisted.ensureDeferred
async def test_redirects_are_not_followed(server: Server, call: Any) -> None:
    """A webhook cannot send us elsewhere, with what is signed and meant for it."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    where = f"http://127.0.0.1:{server.number}/elsewhere".encode()
    peer.say(b"HTTP/1.1 307 Elsewhere\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % where)
    assert await answered == Answer(307)
    assert len(server.all) == 1


@pytest_twisted.ensureDeferred
async def test_retry_after(server: Server, call: Any) -> None:
    """It is read from the answer."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(b"HTTP/1.1 429 Slow\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n")
    assert await answered == Answer(429, 30.0)


@pytest.mark.parametrize(
    ("value", "delay"),
    [
        ("120", 120.0),
        ("0", 1.0),
        ("999999999", 600.0),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120.0),  # NOW is 22:13:20
        ("Tue, 14 Nov 2023 22:13:00 GMT", 1.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("1" * 5000, None),
        ("٣", None),
        ("Tue, 14 Nov 99999999999999999999 22:15:20 GMT", None),
    ],
)
def test_how_long_to_wait(value: str, delay: float | None) -> None:
    """Seconds or a date, within bounds; anything else is as if it were not there."""
    assert _delay(Headers({"Retry-After": [value, "7"]}), NOW) == delay
    assert _delay(Headers(), NOW) is None


@given(st.text() | st.text(alphabet="TueNov, 0123456789:GMT+-"))
def test_any_retry_after(value: str) -> None:
    """No value does harm."""
    delay = _delay(Headers({"Retry-After": [value]}), NOW)
    assert delay is None or 1 <= delay <= 600


@pytest_twisted.ensureDeferred
async def test_an_endless_body(server: Server, call: Any) -> None:
    """The status counts, and the connection is cut soon; nothing of the body is kept."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
    written = 0
    while not answered.called and written < 1024:
        peer.say(b"x" * 1024)
        written += 1
        await turn()
    assert await answered == Answer(200)
    await peer.lost
    assert 60 <= written < 1024


async def turn() -> None:
    done: Deferred[None] = Deferred()
    running_reactor().callLater(0, done.callback, None)
    await done


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)),
        b"HTTP/1.1 200 OK\r\nX: y\r\n" + b" more\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
    ids=["headers", "folded", "continue"],
)
@pytest_twisted.ensureDeferred
async def test_endless_headers(server: Server, call: Any, flood: bytes) -> None:
    """They end the connection before they fill the memory."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(flood)
    error = await no_answer(answered)
    assert str(error) == "its headers are over 65536 bytes"
    await peer.lost


@pytest_twisted.ensureDeferred
async def test_each_answer_has_its_own_bound(server: Server, call: Any) -> None:
    """Many answers over one connection may be longer than one."""
    caller = call()
    for _ in range(4):
        answered = caller.webhook.post(b"{}")
        peer = server.all[0] if server.all else await server.peers.get()
        await peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
        assert await answered == Answer(200)
    assert len(server.all) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: magic\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"\x00" * 100 + b"\r\n",
        b"POST /s3cret HTTP/1.1\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_http(server: Server, call: Any, answer: bytes) -> None:
    """It is said to be none, and not repeated: an echo of the request would bring secrets into the log."""
    answered = call().webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(answer)
    error = await no_answer(answered)
    assert re.fullmatch(r"(it does not speak HTTP \(\w+\)(; )?)+", str(error)), error
    assert not error.timed_out
    await peer.lost


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_up(server: Server, call: Any) -> None:
    """Without an answer, or in the middle of its headers."""
    caller = call()
    for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-"):
        answered = caller.webhook.post(b"{}")
        peer = await server.peers.get()
        await peer.request()
        peer.say(answer)
        peer.hang_up()
        error = await no_answer(answered)
        assert str(error) == "Connection was closed cleanly."
        assert not error.timed_out
    assert caller.requests == 2


@pytest_twisted.ensureDeferred
async def test_nobody_listens(server: Server, call: Any) -> None:
    """The reason is the operating system's."""
    caller = call()
    await server.stop()
    error = await no_answer(caller.webhook.post(b"{}"))
    assert "refused" in str(error)
    assert not error.timed_out
    assert caller.requests == 1
    server.listen()  # for the fixture to stop


# Time.


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["none", "half"])
@pytest_twisted.ensureDeferred
async def test_no_answer_in_time(server: Server, call: Any, answer: bytes) -> None:
    """The connection is closed when the time is over, also where a part of an answer came."""
    caller = call(seconds=0.2)
    answered = caller.webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(answer)
    error = await no_answer(answered)
    assert str(error) == "no answer within 0.2 s"
    assert error.timed_out
    await peer.lost
    assert caller.requests == 1
    assert caller.metrics.push_request_seconds.sum >= 0.2


@pytest.mark.parametrize(("seconds", "to_connect"), [(20.0, 5.0), (2.0, 2.0)])
def test_connecting_takes_too_long(seconds: float, to_connect: float) -> None:
    """Each address is given up soon, and all of them when the time for the whole is over."""
    reactor = MemoryReactorClock()
    webhook = Webhook("http://127.0.0.1:80/", KEY, seconds, reactor, lambda: NOW, Metrics())
    errors: list[Failure] = []
    webhook.post(b"{}").addErrback(errors.append)
    reactor.advance(0)
    ((host, port, _factory, timeout, _address),) = reactor.tcpClients
    assert (host, port, timeout) == ("127.0.0.1", 80, to_connect)
    reactor.advance(seconds - 0.1)
    assert errors == []
    reactor.advance(0.1)
    (failure,) = errors
    assert isinstance(failure.value, NoAnswer)
    assert (str(failure.value), failure.value.timed_out) == (f"no answer within {seconds:g} s", True)
    assert reactor.getDelayedCalls() == []


def test_given_up_while_it_connects() -> None:
    """As later, too."""
    reactor = MemoryReactorClock()
    webhook = Webhook("http://127.0.0.1:80/", KEY, 10.0, reactor, lambda: NOW, Metrics())
    errors: list[Failure] = []
    answered = webhook.post(b"{}").addErrback(errors.append)
    reactor.advance(0)
    answered.cancel()
    (failure,) = errors
    assert failure.check(CancelledError)
    assert reactor.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_body_that_does_not_end_in_time(server: Server, call: Any) -> None:
    """What the first line said counts, and the connection is not used again."""
    caller = call(seconds=0.2)
    answered = caller.webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    assert await answered == Answer(200)
    await peer.lost


@pytest_twisted.ensureDeferred
async def test_given_up(server: Server, call: Any) -> None:
    """Whoever cancels a request gets no answer, and the connection is closed."""
    caller = call()
    answered = caller.webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    answered.cancel()
    with pytest.raises(CancelledError):
        await answered
    await peer.lost


@pytest_twisted.ensureDeferred
async def test_close(server: Server, call: Any) -> None:
    """The connection that is kept is closed, and closing again is nothing."""
    caller = call()
    answered = caller.webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(OK)
    await answered
    await caller.webhook.close()
    await peer.lost
    await caller.webhook.close()


# TLS.


def certificate_for(name: str) -> tuple[ssl.PrivateCertificate, bytes]:
    """A certificate that signs itself, with its key; and without, as those who trust it have it."""
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
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return ssl.PrivateCertificate.loadPEM(public + private), public


@TLS
@pytest_twisted.ensureDeferred
async def test_tls(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate for this name from somebody whom the machine trusts."""
    certificate, public = certificate_for("localhost")
    (tmp_path / "trusted.pem").write_bytes(public)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    server.listen(certificate)
    caller = Caller(f"https://localhost:{server.number}/")
    for body in (b"1", b"2"):
        answered = caller.webhook.post(body)
        peer = server.all[0] if server.all else await server.peers.get()
        assert (await peer.request())[1] == body
        peer.say(OK)
        assert await answered == Answer(200)
    assert len(server.all) == 1
    await caller.webhook.close()


@TLS
@pytest_twisted.ensureDeferred
async def test_close_of_tls(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the other side to say goodbye."""
    certificate, public = certificate_for("localhost")
    (tmp_path / "trusted.pem").write_bytes(public)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    server.listen(certificate)
    caller = Caller(f"https://localhost:{server.number}/")
    answered = caller.webhook.post(b"{}")
    peer = await server.peers.get()
    await peer.request()
    peer.say(OK)
    await answered
    peer.read_no_more()
    await caller.webhook.close()
    peer.hang_up()


@TLS
@pytest.mark.parametrize(("name", "trusted"), [("localhost", False), ("im.example.com", True)])
@pytest_twisted.ensureDeferred
async def test_tls_that_proves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool
) -> None:
    """A certificate from nobody whom we know, and a good one of another host: nothing is said to either."""
    certificate, public = certificate_for(name)
    (tmp_path / "trusted.pem").write_bytes(public if trusted else certificate_for(name)[1])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    server.listen(certificate)
    caller = Caller(f"https://localhost:{server.number}/")
    error = await no_answer(caller.webhook.post(b"s3cret"))
    assert ("VerificationError" if trusted else "certificate verify failed") in str(error)
    await caller.webhook.close()
    assert all(peer._read == b"" for peer in server.all)
