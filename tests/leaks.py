"""Every test clears up after itself: nothing of it stays with the reactor, and no failure passes unseen.

pytest-twisted by itself passes a test that leaves a delayed call, a port or a connection behind, or that loses the
error of a Deferred. With this plugin such a test gets an error when it is torn down. What fixtures of a module or of
the session leave behind fails the last test of the run.

A test that expects failures in the log takes them from it with `flush_logged_errors`, and asserts what they were.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()

#: Turns of the reactor in which a test's last calls and closed connections may still run out.
_TURNS: Final = 5


class LoggedCriticalError(Exception):
    """Stands for a critical event in the log that had no failure."""


class FlushLoggedErrors(Protocol):
    def __call__(self, *types: type[BaseException]) -> list[Failure]:
        """Take the failures of these types, or all, out of what was logged since the test began.

        Errors of Deferreds that nobody holds any more are among them; a critical event without a failure is a
        `LoggedCriticalError`.
        """


@implementer(ILogObserver)
class FailureLog:
    """What was logged that a test has to account for."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            self._failures.append(failure)
        # Of a lost error Twisted says first that there is one, in an event without it.
        elif event.get("log_level") is LogLevel.critical and event.get("log_namespace") != "twisted.internet.defer":
            self._failures.append(Failure(LoggedCriticalError(formatEvent(event))))

    def take(self, *types: type[BaseException]) -> list[Failure]:
        gc.collect()  # a Deferred logs its error when it is let go of
        taken = [failure for failure in self._failures if not types or failure.check(*types)]
        self._failures = [failure for failure in self._failures if failure not in taken]
        return taken


@contextmanager
def nothing_left(log: FailureLog) -> Iterator[None]:
    """Fail the test if what runs inside leaves anything with the reactor or in `log`."""
    before = _held()
    yield
    # The first turn is always needed: the reactor stands in the call that ran the test, and holds what it was given.
    for _ in range(_TURNS):
        _turn()
        if _held() <= before:
            break
    left = _held() - before
    found = [f"left with the reactor: {_describe(held)}" for held in left]
    for held in left:
        _end(held)
    found += [f"logged:\n{failure.getTraceback()}" for failure in log.take()]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def _reactor() -> Any:
    """The global reactor, which pytest-twisted installed before the first test."""
    return sys.modules["twisted.internet.reactor"]


def _held() -> set[Any]:
    """What the reactor waits for: its delayed calls, ports and connections."""
    reactor = _reactor()
    return {*reactor.getDelayedCalls(), *reactor.getReaders(), *reactor.getWriters()}


def _turn() -> None:
    pytest_twisted.blockon(deferLater(_reactor(), 0))


def _describe(held: Any) -> str:
    if IDelayedCall.providedBy(held):
        return f"delayed call {held}"
    if IListeningPort.providedBy(held):
        return f"listening port {held}"
    return f"connection or file {held!r}"


def _end(held: Any) -> None:
    """Take what one test left away from the next."""
    if IDelayedCall.providedBy(held):
        held.cancel()
        return
    reactor = _reactor()
    reactor.removeReader(held)
    reactor.removeWriter(held)
    try:
        held.connectionLost(Failure(ConnectionAborted("left over by a test")))
    except Exception:  # whatever it is, it goes into the report
        _log.failure("while closing {held}", held=held)


def _freeze() -> None:
    """Let collections pass over all that is there: with it each would take 20 ms, with what a test makes 0.5 ms."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def failure_log(twisted_greenlet: object) -> Iterator[FailureLog]:
    """The one log of failures, and the watch over what outlives a test."""
    log = FailureLog()
    # Twisted keeps the latest events, and all that they refer to, until logging has begun.
    globalLogBeginner.beginLoggingTo([log], discardBuffer=True, redirectStandardIO=False)
    _turn()  # the first turn starts the reactor, which then has its own readers
    _freeze()
    with nothing_left(log):
        yield log
        gc.unfreeze()  # so that the last look sees everything
    globalLogPublisher.removeObserver(log)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, failure_log: FailureLog) -> Iterator[None]:
    """The watch over one test. Being set up before all other fixtures of a test, it sees what they leave, too."""
    modules = len(sys.modules)
    with nothing_left(failure_log):
        yield
        # The other fixtures are gone, but pytest still holds what they gave; a Deferred in there must be let go of.
        request.node.funcargs.clear()
    if len(sys.modules) > modules:
        _freeze()


@pytest.fixture
def flush_logged_errors(failure_log: FailureLog) -> FlushLoggedErrors:
    """For tests that make something fail on purpose: see `FlushLoggedErrors`."""
    return failure_log.take
