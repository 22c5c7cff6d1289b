"""`tests.leaks` bites: tests that leak fail, tests that do not pass, and neither spoils the next."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

CONFTEST = """
import json
from pathlib import Path

pytest_plugins = ["tests.leaks"]
outcomes = {}

def pytest_runtest_logreport(report):
    name = report.nodeid.partition("::")[2]
    if report.failed:
        outcomes[name] = f"{report.when}: {report.longreprtext}"
    else:
        outcomes.setdefault(name, "")

def pytest_sessionfinish():
    Path("outcomes.json").write_text(json.dumps(outcomes))
"""

HEAD = """
import pytest
import pytest_twisted
from hypothesis import given, strategies
from twisted.internet import protocol, reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, LogLevel

log = Logger()
loopback = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")

class Factory(protocol.Factory):
    noisy = False
    protocol = protocol.Protocol
"""

LEAKING = """
def test_delayed_call():
    reactor.callLater(1000, print)

@pytest_twisted.ensureDeferred
async def test_delayed_call_of_a_coroutine():
    reactor.callLater(1000, print)

@pytest.fixture
def ticking():
    reactor.callLater(1000, print)

def test_delayed_call_of_a_fixture(ticking):
    pass

def test_call_that_renews_itself():
    def again():
        reactor.callLater(0, again)
    again()

@pytest_twisted.ensureDeferred
async def test_port():
    await loopback.listen(Factory())

@pytest_twisted.ensureDeferred
async def test_connection():
    port = await loopback.listen(Factory())
    await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(Factory())
    await port.stopListening()

def test_lost_error():
    fail(ZeroDivisionError("lost"))

def test_lost_error_in_a_cycle():
    lost = fail(ZeroDivisionError("lost in a cycle"))
    lost.itself = lost

@pytest_twisted.ensureDeferred
async def test_lost_error_of_a_coroutine():
    async def broken():
        raise ZeroDivisionError("lost coroutine")
    Deferred.fromCoroutine(broken())

@pytest.fixture
def holder():
    return fail(ZeroDivisionError("lost in a fixture"))

def test_lost_error_in_a_fixture(holder):
    pass

def test_logged_failure():
    try:
        1 / 0
    except ZeroDivisionError:
        log.failure("it broke")

def test_logged_failure_below_critical():
    try:
        1 / 0
    except ZeroDivisionError:
        log.failure("it bent", level=LogLevel.warn)

def test_logged_critical():
    log.critical("{what} is on fire", what="the house")

def test_raising_delayed_call():
    reactor.callLater(0, lambda: 1 / 0)

def test_flush_of_another_type(flush_logged_errors):
    fail(ZeroDivisionError("not asked for"))
    assert flush_logged_errors(KeyError) == []
"""

#: What the report of each leaking test has to say.
EXPECTED = {
    "test_delayed_call": "left with the reactor: delayed call",
    "test_delayed_call_of_a_coroutine": "left with the reactor: delayed call",
    "test_delayed_call_of_a_fixture": "left with the reactor: delayed call",
    "test_call_that_renews_itself": "left with the reactor: delayed call",
    "test_port": "left with the reactor: listening port",
    "test_connection": "left with the reactor: connection",
    "test_lost_error": "ZeroDivisionError: lost",
    "test_lost_error_in_a_cycle": "ZeroDivisionError: lost in a cycle",
    "test_lost_error_of_a_coroutine": "ZeroDivisionError: lost coroutine",
    "test_lost_error_in_a_fixture": "ZeroDivisionError: lost in a fixture",
    "test_logged_failure": "ZeroDivisionError: division by zero",
    "test_logged_failure_below_critical": "ZeroDivisionError: division by zero",
    "test_logged_critical": "LoggedCriticalError: the house is on fire",
    "test_raising_delayed_call": "ZeroDivisionError: division by zero",
    "test_flush_of_another_type": "ZeroDivisionError: not asked for",
}

CLEAN = """
def test_nothing():
    pass

def test_call_that_runs_out():
    reactor.callLater(0, print)

def test_cancelled_call():
    reactor.callLater(1000, print).cancel()

@pytest_twisted.async_yield_fixture
async def port():
    port = await loopback.listen(Factory())
    yield port
    await port.stopListening()

@pytest_twisted.ensureDeferred
async def test_closed_connection(port):
    client = await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(Factory())
    client.transport.loseConnection()

@pytest_twisted.async_yield_fixture(scope="module")
async def shared_port():
    port = await loopback.listen(Factory())
    yield port
    await port.stopListening()

@pytest_twisted.ensureDeferred
async def test_first_with_a_shared_port(shared_port):
    assert shared_port.connected

@pytest_twisted.ensureDeferred
async def test_second_with_a_shared_port(shared_port):
    assert shared_port.connected

@pytest_twisted.ensureDeferred
async def test_thread_pool():
    assert await deferToThread(int, "7") == 7

def test_expected_failures(flush_logged_errors):
    fail(ZeroDivisionError("expected"))
    log.critical("expected, too")
    (failure,) = flush_logged_errors(ZeroDivisionError)
    assert failure.getErrorMessage() == "expected"
    (critical,) = flush_logged_errors()
    assert critical.getErrorMessage() == "expected, too"

def test_caught_error():
    fail(ZeroDivisionError()).addErrback(lambda failure: failure.trap(ZeroDivisionError))

def test_logged_warning_and_error():
    log.warn("a warning")
    log.error("an error that was dealt with")

@given(strategies.integers())
def test_property(number):
    assert number == number
"""

OUTLIVING = """
@pytest_twisted.async_fixture(scope="module")
async def never_closed():
    return await loopback.listen(Factory())

@pytest_twisted.ensureDeferred
async def test_with_it(never_closed):
    assert never_closed.connected

def test_last():
    pass
"""


def run(pytester: pytest.Pytester, source: str) -> dict[str, str]:
    """What became of each test in `source`: ``""`` where it passed, else the phase and the report."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(HEAD + source)
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", "-o", f"pythonpath={ROOT}")
    outcomes: dict[str, Any] = json.loads((pytester.path / "outcomes.json").read_text())
    return outcomes


def test_leaks_fail_and_do_not_spread(pytester: pytest.Pytester) -> None:
    """Each leak fails its own test, and says what it is; clean tests pass, also after leaking ones."""
    outcomes = run(pytester, LEAKING + CLEAN)
    leaking = {name: report for name, report in outcomes.items() if report}
    assert leaking.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert leaking[name].startswith("teardown: ")
        assert expected in leaking[name]
    assert len(outcomes) - len(leaking) == CLEAN.count("def test_")


def test_what_outlives_its_module_fails_the_run(pytester: pytest.Pytester) -> None:
    """A port that a fixture of a module never closes is found at the end."""
    outcomes = run(pytester, OUTLIVING)
    assert outcomes["test_with_it"] == ""
    assert "left with the reactor: listening port" in outcomes["test_last"]
