"""The listener: what a caller may cost, whatever it sends."""

import subprocess
import sys
from typing import Any

import pytest
from twisted.logger import formatEvent
from twisted.web.resource import Resource

from imserver.http.site import MOST_BODY, make_site
from tests.http.server import KEY, Server, Wire
from tests.http.server import logged as logged_by
from tests.leaks import FlushLoggedErrors

HEAD = b"POST /admin/apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % KEY.encode()
APP = b'{"name": "new"}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def kept(wire: Wire) -> int:
    """Bytes of bodies that the server holds for this connection."""
    return sum(len(request.content.getvalue()) for request in wire.protocol.requests)


def test_module_may_be_loaded_before_the_reactor() -> None:
    """Importing the listener installs no reactor: twistd chooses it later."""
    script = "import sys, imserver.http.site; sys.exit('twisted.internet.reactor' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_body_up_to_the_limit() -> None:
    """A body of exactly 1 MiB is taken, with its length or in chunks."""
    server = Server()
    body = APP + b" " * (MOST_BODY - len(APP))
    wire = server.connect()
    wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert wire.answer().status == 200
    wire = server.connect()
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body[:1000]) + chunk(body[1000:]) + chunk(b""))
    assert wire.answer().status == 200


def test_length_over_the_limit() -> None:
    """A length that is too large is refused before the body comes; what comes of it all the same is dropped."""
    server = Server()
    wire = server.connect()
    wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % (MOST_BODY + 1))
    assert wire.answer().is_error(413, "1048576")
    assert not wire.transport.disconnecting
    for _ in range(8):
        wire.send(b" " * (MOST_BODY // 8))
        assert kept(wire) == 0
    assert not wire.transport.disconnecting
    wire.send(b" ")
    assert (wire.received(), wire.transport.disconnecting) == (b"", True)
    assert server.metrics.http_requests.values == {"413": 1}


@pytest.mark.parametrize("length", [b"9" * 30, b"9" * 4000])
def test_length_beyond_all_numbers(length: bytes) -> None:
    """A length that no body can have is refused like any other that is too large."""
    wire = Server().connect()
    wire.send(HEAD + b"Content-Length: %s\r\n\r\n" % length)
    assert wire.answer().is_error(413)


@pytest.mark.parametrize("length", [b"-1", b"0x10", b"1 2", b"", b"1e3", b"\xb2"])
def test_length_that_is_none(length: bytes) -> None:
    """A length that is no number ends the connection."""
    wire = Server().connect()
    wire.send(HEAD + b"Content-Length: %s\r\n\r\n" % length)
    assert (wire.received().split(b"\r\n")[0], wire.transport.disconnecting) == (b"HTTP/1.1 400 Bad Request", True)


def test_endless_chunks() -> None:
    """Chunks are refused when they pass the limit, never held beyond it, and their sender not waited for for ever."""
    server = Server()
    wire = server.connect()
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(16):
        wire.send(chunk(b" " * (MOST_BODY // 16)))
    assert (wire.received(), kept(wire)) == (b"", MOST_BODY)
    wire.send(chunk(b" "))
    assert wire.answer().is_error(413)
    for _ in range(40):
        wire.send(chunk(b" " * (MOST_BODY // 16)))
        assert kept(wire) == 0
        server.clock.advance(1)
    assert wire.transport.disconnected
    wire.lose()
    assert not server.clock.getDelayedCalls()


def test_one_huge_chunk() -> None:
    """A single write over the limit is refused as a whole."""
    wire = Server().connect()
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b" " * (3 * MOST_BODY)) + chunk(b""))
    assert wire.answer().is_error(413)
    assert wire.transport.disconnecting


def test_refused_body_is_not_asked_for() -> None:
    """Who asks first whether its huge body is wanted hears 413 and not 100 Continue."""
    wire = Server().connect()
    wire.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
    assert wire.answer().is_error(413)
    wire = Server().connect()
    wire.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(APP))
    assert wire.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(APP)
    assert wire.answer().status == 200


class Recorder(Resource):
    """What Twisted made of a request."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)
        self.args: list[Any] = []

    def render(self, request: Any) -> bytes:
        self.args.append((request.args, request.content.read()))
        return b""


@pytest.mark.parametrize("kind", [b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=b"])
def test_forms_are_not_parsed(kind: bytes) -> None:
    """A body that claims to be a form stays bytes: parsing one took a multiple of its memory elsewhere."""
    recorder = Recorder()
    server = Server()
    wire = Wire(make_site(recorder, server.metrics, server.clock))
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n&x=1'
    wire.send(
        b"POST /x?q=2 HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)
    )
    assert recorder.args == [({b"q": [b"2"]}, body)]


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: y\r\n" % n for n in range(101)),
        b"X: " + b"y" * 17_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (n, b"y" * 500) for n in range(50)),
        b"X: y\r\n" + b" yyyy\r\n" * 6000,
        b"no colon\r\n",
    ],
    ids=["many", "long", "much", "folded", "malformed"],
)
def test_bad_headers(headers: bytes) -> None:
    """Too many headers, or too large ones, end the connection without an answer's being worked out."""
    server = Server()
    wire = server.connect()
    wire.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    assert b"200" not in wire.received()
    assert wire.transport.disconnecting
    assert server.metrics.http_requests.values == {}


def test_endless_first_line() -> None:
    """A request line without an end ends the connection."""
    wire = Server().connect()
    for _ in range(20):
        wire.send(b"G" * 1000)
    assert wire.transport.disconnecting


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"Content-Length: 1000\r\n\r\n"], ids=["line", "headers", "body"])
def test_trickle_buys_no_time(sent: bytes) -> None:
    """A request has 30 s to arrive whole, in however many pieces."""
    server = Server()
    wire = server.connect()
    wire.send(sent)
    for second in range(30):
        assert not wire.transport.disconnecting, f"closed after {second} s"
        wire.send(b"x")
        server.clock.advance(1)
    assert wire.transport.disconnecting
    server.clock.advance(10)
    assert wire.transport.disconnected
    wire.lose()
    assert not server.clock.getDelayedCalls()


def test_next_request_has_its_own_time() -> None:
    """A connection that is used stays open, each request with 30 s of its own; an idle one goes."""
    server = Server()
    wire = server.connect()
    for _ in range(5):
        server.clock.advance(25)
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.answer().content == b"ok"
    assert not wire.transport.disconnecting
    server.clock.advance(30)
    assert wire.transport.disconnecting


def test_answer_that_nobody_takes() -> None:
    """Who asks and closes its ears is cut off 10 s after the end of the answer."""
    server = Server()
    wire = server.connect()
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert wire.transport.disconnecting
    server.clock.advance(20)
    assert wire.transport.disconnected
    wire.lose()
    assert not server.clock.getDelayedCalls()


def test_pipelined_requests() -> None:
    """Requests that come in one go are answered one by one, in order."""
    wire = Server().connect()
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    received = wire.received()
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.index(b"\r\n\r\nok") < received.index(b'{"ready":true')


def test_bounded_connections() -> None:
    """Over the limit a connection is turned away and counted; one that ends makes room."""
    server = Server(connections=2)
    first, second = server.connect(), server.connect()
    assert server.connect().protocol is None
    assert server.metrics.refused.values == {"http": 1}
    first.lose()
    third = server.connect()
    third.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert third.answer().content == b"ok"
    assert server.connect().protocol is None
    second.lose()
    third.lose()
    assert server.connect().protocol is not None


@pytest.mark.parametrize("path", [b"/%ff", b"/admin/users/7/%c3%28"])
def test_path_that_is_not_utf8(path: bytes) -> None:
    """Such a path is the caller's mistake, and nothing for the log of errors."""
    wire = Server().connect()
    wire.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    assert wire.answer().is_error(400, "UTF-8")


@pytest.mark.parametrize(
    "host",
    [b"Host: \xff\xfe\r\n", b"Host: \r\n", b"", b"Host: [::1\r\n", b"Host: a..b\r\n", b"Host: %s\r\n" % (b"a" * 300)],
)
def test_host_decides_nothing(host: bytes) -> None:
    """Whatever a caller takes this host for, the answer is the same."""
    wire = Server().connect()
    wire.send(b"GET /healthz HTTP/1.1\r\n%s\r\n" % host)
    assert wire.answer().content == b"ok"


@pytest.mark.parametrize("target", [b"*", b"http://other.example/healthz", b"healthz", b"?", b"/?"])
def test_odd_targets(target: bytes) -> None:
    """Targets that are no path of ours find nothing, and break nothing."""
    wire = Server().connect()
    wire.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    assert wire.received().split(b" ")[1] in (b"404", b"405")


def test_bug_outside_of_a_call(flush_logged_errors: FlushLoggedErrors) -> None:
    """Where not a call but the tree itself fails, the answer is JSON too, without a trace."""

    class Broken(Recorder):
        def render(self, request: Any) -> bytes:
            raise ZeroDivisionError("a secret of the house")

    server = Server()
    wire = Wire(make_site(Broken(), server.metrics, server.clock))
    wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = wire.answer()
    assert answer.is_error(500, "log")
    assert b"secret" not in answer.content
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_log_line_of_a_request() -> None:
    """The log says who asked for what and what came of it, in one line that no caller can make long, and no query."""
    with logged_by("imserver.http") as events:
        wire = Server().connect()
        wire.send(b"GET /%1b[2J" + b"a" * 5000 + b"?token=secret HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.answer()
    (line,) = [formatEvent(event) for event in events]
    assert line.startswith("192.0.2.9 GET /%1b[2Jaaa")
    assert line.endswith("a: 404")
    assert "secret" not in line
    assert len(line) < 300


def test_what_is_told_in_the_log() -> None:
    """What an operator did, and what went wrong. Looks, probes and what back ends post are for debugging only."""
    server = Server()
    with logged_by("imserver.http.site") as events:
        for method, path, body in (
            ("GET", "/metrics", None),
            ("POST", "/post_notification?appid=7&uid=1", b"hi"),
            ("GET", "/admin/apps", None),
            ("POST", "/admin/apps", {"name": "new"}),
            ("POST", "/post_notification?appid=7", b"hi"),
            ("GET", "/nothing", None),
        ):
            server.call(method, path, body)
    assert [(event["log_level"].name, event["status"]) for event in events] == [
        ("debug", 200),
        ("debug", 200),
        ("debug", 200),
        ("info", 200),
        ("info", 400),
        ("info", 404),
    ]
