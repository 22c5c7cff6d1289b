"""Probes."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import formatEvent

from tests.http.server import Answer, Server, logged


def test_alive() -> None:
    """Who answers at all is alive, whatever its checks say; no key is needed."""
    server = Server(checks={"storage": lambda: fail(OSError("disk"))})
    answer = server.call("GET", "/healthz", authorization=None)
    assert (answer.status, answer.content) == (200, b"ok")


def test_ready() -> None:
    """Ready is who passes every check; no key is needed."""
    server = Server(checks={"storage": lambda: succeed(None), "listeners": lambda: succeed(None)})
    answer = server.call("GET", "/readyz", authorization=None)
    assert answer.status == 200
    assert answer.json == {"ready": True, "checks": {"storage": True, "listeners": True}}


def test_ready_without_checks() -> None:
    """Nothing to check is nothing wrong."""
    answer = Server(checks={}).call("GET", "/readyz", authorization=None)
    assert (answer.status, answer.json) == (200, {"ready": True, "checks": {}})


def _raise() -> Deferred[None]:
    raise OSError("no such file")


def test_failing_check() -> None:
    """One check that fails, or that cannot even be asked, is enough not to be ready."""
    server = Server(
        checks={"storage": lambda: succeed(None), "listeners": lambda: fail(OSError("port")), "bus": _raise}
    )
    answer = server.call("GET", "/readyz", authorization=None)
    assert answer.status == 503
    assert answer.json == {"ready": False, "checks": {"storage": True, "listeners": False, "bus": False}}


def test_hanging_check() -> None:
    """A check that does not answer has failed after 2 seconds; the others were asked meanwhile."""
    hanging: list[Deferred[None]] = []

    def hang() -> Deferred[None]:
        hanging.append(Deferred())
        return hanging[-1]

    server = Server(checks={"storage": hang, "listeners": lambda: succeed(None)})
    answers: list[Answer] = []
    server.ask("GET", "/readyz", authorization=None).addCallback(answers.append)
    server.clock.advance(1.9)
    server.flush()
    assert not answers
    server.clock.advance(0.2)
    server.flush()
    (answer,) = answers
    assert (answer.status, answer.json["checks"]) == (503, {"storage": False, "listeners": True})
    assert len(hanging) == 1
    assert not server.clock.getDelayedCalls()


def test_recovery_is_seen_and_each_change_logged_once() -> None:
    """Every look asks anew; the log tells of a change, not of each look."""
    works = False
    server = Server(checks={"storage": lambda: succeed(None) if works else fail(OSError("disk full"))})
    with logged("imserver.http.health") as events:
        statuses = [server.call("GET", "/readyz").status for _ in range(3)]
        works = True
        statuses += [server.call("GET", "/readyz").status for _ in range(3)]
    assert statuses == [503] * 3 + [200] * 3
    assert [formatEvent(event) for event in events] == [
        "not ready: storage: OSError: disk full",
        "storage is well again",
    ]


def test_head_has_no_body() -> None:
    """HEAD gets the head of GET's answer."""
    answer = Server().call("HEAD", "/healthz", authorization=None)
    assert (answer.status, answer.headers["content-length"], answer.content) == (200, "2", b"")
