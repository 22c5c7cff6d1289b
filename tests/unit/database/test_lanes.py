"""The lanes: group commit, order, bounds, deadlines, failures, closing."""

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from imserver.database import engine as engine_module
from imserver.database import lanes as lanes_module
from imserver.database.engine import open_readers, open_writer
from imserver.database.lanes import ReadLane, WriteGroup, WriteLane
from imserver.interfaces import Unavailable
from imserver.metrics import Metrics
from tests.contract.sql_storage import running_reactor
from tests.leaks import FlushLoggedErrors

#: Seconds after which a test has hung.
PATIENCE = 30


class Gate:
    """Stops a lane's thread until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        #: Fires when a thread stands before it.
        self.reached: Deferred[None] = Deferred()

    def __call__(self, *_arguments: object) -> None:
        running_reactor().callFromThread(self.reached.callback, None)
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    def open(self) -> None:
        self._opened.set()


class Lanes:
    """A database with one table, its lanes, and kinds of writes on them."""

    def __init__(
        self, path: Path, items: int = 1000, size: int = 1_000_000, seconds: float = PATIENCE, threads: int = 2
    ) -> None:
        self.file = path / "test.db"
        url = f"sqlite:///{self.file}"
        writer = open_writer(url)
        with writer.begin() as connection:
            connection.execute(text("CREATE TABLE word (word TEXT PRIMARY KEY)"))
        self.metrics = Metrics()
        self.writes = WriteLane(writer, running_reactor(), self.metrics, items, size, seconds)
        self.reads = ReadLane(open_readers(url, threads), running_reactor(), self.metrics, threads, seconds)
        #: The items of each call of the groups' functions.
        self.batches: list[list[str]] = []
        self.words: WriteGroup[str, str] = self.writes.group("word", self._write)
        self.calls: WriteGroup[Callable[[Connection], Any], Any] = self.writes.group("call", _run_each)
        self.writes.start()
        self.reads.start()

    def _write(self, connection: Connection, words: Sequence[str]) -> list[str]:
        self.batches.append(list(words))
        for word in words:
            if word.startswith("bug"):
                raise ZeroDivisionError(word)
            connection.execute(text("INSERT INTO word VALUES (:word)"), {"word": word})
        return [word.upper() for word in words]

    async def hold(self) -> Gate:
        """Stop the write lane inside a transaction. What is submitted until the gate opens waits together."""
        gate = Gate()
        self.calls.submit(gate)
        await gate.reached
        return gate

    async def stored(self) -> list[str]:
        """The words on disk, in the order of their insertion."""
        return await self.reads.read("words", _words)

    async def stop(self) -> None:
        await self.writes.stop()
        await self.reads.stop()


def _run_each(connection: Connection, calls: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    return [call(connection) for call in calls]


def _words(connection: Connection) -> list[str]:
    return [word for (word,) in connection.execute(text("SELECT word FROM word ORDER BY rowid"))]


def outcome(done: Deferred[Any]) -> Deferred[Any]:
    """Fires with the result, or with the exception."""
    return done.addErrback(lambda failure: failure.value)


@pytest_twisted.async_yield_fixture
async def lanes(tmp_path: Path) -> AsyncIterator[Lanes]:
    lanes = Lanes(tmp_path)
    yield lanes
    await lanes.stop()


# Writing.


@pytest_twisted.ensureDeferred
async def test_what_waits_is_one_transaction(lanes: Lanes) -> None:
    """What comes while the lane writes is written together, and counted as one batch."""
    gate = await lanes.hold()
    waiting = [lanes.words.submit(word) for word in "abcde"]
    gate.open()
    assert await gatherResults(waiting) == list("ABCDE")
    assert lanes.batches == [list("abcde")]
    assert await lanes.stored() == list("abcde")
    assert lanes.metrics.batch_size.sum == 1 + 5
    assert sum(lanes.metrics.commit_seconds.counts) == 2


@pytest_twisted.ensureDeferred
async def test_an_idle_lane_begins_at_once(lanes: Lanes) -> None:
    """No timer gathers: one item is a transaction."""
    for word in "abc":
        assert await lanes.words.submit(word) == word.upper()
    assert lanes.batches == [["a"], ["b"], ["c"]]


@pytest_twisted.ensureDeferred
async def test_kinds_share_a_transaction_and_keep_their_order(lanes: Lanes) -> None:
    """Two kinds that wait together cost one commit, and results fire as the items were submitted."""
    gate = await lanes.hold()
    fired: list[int] = []
    waiting: list[Deferred[Any]] = [
        lanes.words.submit("a"),
        lanes.calls.submit(lambda connection: connection.execute(text("SELECT count(*) FROM word")).scalar()),
        lanes.words.submit("b"),
        lanes.calls.submit(lambda _connection: "last"),
    ]

    def remember(result: object, number: int) -> object:
        fired.append(number)
        return result

    for number, done in enumerate(waiting):
        done.addCallback(remember, number)
    gate.open()
    assert await gatherResults(waiting) == ["A", 2, "B", "last"]
    assert fired == [0, 1, 2, 3]
    assert sum(lanes.metrics.commit_seconds.counts) == 2


@pytest_twisted.ensureDeferred
async def test_a_batch_has_a_bound_in_items_and_in_bytes(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits, a transaction ends somewhere."""
    monkeypatch.setattr(lanes_module, "_BATCH", 3)
    monkeypatch.setattr(lanes_module, "_BATCH_BYTES", 100)
    gate = await lanes.hold()
    waiting = [
        lanes.words.submit(word, size) for word, size in zip("abcdefgh", (0, 0, 0, 0, 99, 1, 200, 0), strict=True)
    ]
    gate.open()
    await gatherResults(waiting)
    assert lanes.batches == [["a", "b", "c"], ["d", "e", "f"], ["g"], ["h"]]


@pytest_twisted.ensureDeferred
async def test_results_fire_after_the_commit(lanes: Lanes) -> None:
    """When a result fires another connection sees what was written."""
    with closing(sqlite3.connect(lanes.file)) as other:
        for word in ("a", "b"):
            await lanes.words.submit(word)
            assert (word,) in other.execute("SELECT word FROM word").fetchall()


@pytest_twisted.ensureDeferred
async def test_a_lane_has_a_bound_in_items(tmp_path: Path) -> None:
    """The item over it is refused at once; when others are done there is room again."""
    lanes = Lanes(tmp_path, items=3)
    gate = await lanes.hold()
    waiting = [lanes.words.submit("a"), lanes.words.submit("b")]
    refused = lanes.words.submit("c")
    assert isinstance(refused.result, Failure)  # at once
    assert isinstance(await outcome(refused), Unavailable)
    assert lanes.metrics.writes_waiting.read() == {"": 3}
    assert lanes.metrics.writes_failed.values == {"full": 1}
    gate.open()
    await gatherResults(waiting)
    assert lanes.metrics.writes_waiting.read() == {"": 0}
    assert await gatherResults([lanes.words.submit(word) for word in "def"]) == list("DEF")
    assert await lanes.stored() == list("abdef")
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_a_lane_has_a_bound_in_bytes(tmp_path: Path) -> None:
    """The same for the bytes that waiting items hold."""
    lanes = Lanes(tmp_path, size=100)
    gate = await lanes.hold()
    waiting = [lanes.words.submit("a", 60), lanes.words.submit("b", 40)]
    assert isinstance(await outcome(lanes.words.submit("c", 1)), Unavailable)
    assert lanes.metrics.writes_failed.values == {"full": 1}
    gate.open()
    await gatherResults(waiting)
    assert await lanes.words.submit("d", 100) == "D"
    assert isinstance(await outcome(lanes.words.submit("e", 101)), Unavailable)
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_an_item_that_is_too_late_is_not_written(lanes: Lanes) -> None:
    """Its client has been told, or has given up; the lane goes on with what is in time."""
    gate = await lanes.hold()
    lanes.writes._seconds = 0.0
    late = [outcome(lanes.words.submit(word)) for word in ("late 1", "late 2")]
    lanes.writes._seconds = PATIENCE
    in_time = lanes.words.submit("in time")
    gate.open()
    assert [type(error).__mro__[1] for error in await gatherResults(late)] == [Unavailable, Unavailable]
    assert await in_time == "IN TIME"
    assert lanes.batches == [["in time"]]
    assert lanes.metrics.writes_failed.values == {"late": 2}
    assert lanes.metrics.writes_waiting.read() == {"": 0}


@pytest_twisted.ensureDeferred
async def test_only_the_bad_item_fails(lanes: Lanes, flush_logged_errors: FlushLoggedErrors) -> None:
    """A batch that fails is tried again one by one, in order; a mistake of the writing code reaches who asked."""
    gate = await lanes.hold()
    waiting = [outcome(lanes.words.submit(word)) for word in ("a", "b", "bug", "c")]
    gate.open()
    results = await gatherResults(waiting)
    assert [*results[:2], results[3]] == ["A", "B", "C"]
    assert isinstance(results[2], ZeroDivisionError)
    assert lanes.batches == [["a", "b", "bug", "c"], ["a"], ["b"], ["bug"], ["c"]]
    assert await lanes.stored() == ["a", "b", "c"]
    assert lanes.metrics.writes_failed.values == {"batch": 1, "single": 1}
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_an_error_of_the_database_is_unavailable(lanes: Lanes, flush_logged_errors: FlushLoggedErrors) -> None:
    """Who submitted learns that nothing was written; the log has the reason, without the values."""
    await lanes.words.submit("secret")
    gate = await lanes.hold()
    waiting = [outcome(lanes.words.submit(word)) for word in ("a", "secret", "b")]
    gate.open()
    results = await gatherResults(waiting)
    assert [results[0], results[2]] == ["A", "B"]
    assert type(results[1]) is Unavailable
    assert str(results[1]) == "the database failed: word"
    (logged,) = flush_logged_errors(IntegrityError)
    assert "UNIQUE" in logged.getErrorMessage()
    assert "secret" not in logged.getTraceback()
    assert await lanes.stored() == ["secret", "a", "b"]


@pytest_twisted.ensureDeferred
async def test_an_error_of_the_driver_is_one_of_the_database(
    lanes: Lanes, flush_logged_errors: FlushLoggedErrors
) -> None:
    """The hot path talks to the driver; what that raises is not SQLAlchemy's."""

    def write(connection: Connection) -> None:
        driver: Any = connection.connection
        driver.cursor().execute("INSERT INTO nowhere VALUES (1)")

    assert type(await outcome(lanes.calls.submit(write))) is Unavailable
    assert len(flush_logged_errors(sqlite3.OperationalError)) == 1


@pytest_twisted.ensureDeferred
async def test_a_failing_transaction_is_undone(lanes: Lanes, flush_logged_errors: FlushLoggedErrors) -> None:
    """Also what was written before the mistake, by any kind that shared the transaction."""
    gate = await lanes.hold()

    def write(connection: Connection) -> None:
        connection.execute(text("INSERT INTO word VALUES ('b')"))
        raise ZeroDivisionError

    waiting = [outcome(lanes.words.submit("a")), outcome(lanes.calls.submit(write))]
    gate.open()
    results = await gatherResults(waiting)
    assert results[0] == "A"
    assert isinstance(results[1], ZeroDivisionError)
    assert await lanes.stored() == ["a"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_too_few_results_are_a_failure(lanes: Lanes, flush_logged_errors: FlushLoggedErrors) -> None:
    """No item is left without an answer where a kind forgets one."""
    forgetful: WriteGroup[str, str] = lanes.writes.group("forgetful", lambda _connection, words: words[1:])
    gate = await lanes.hold()
    waiting = [outcome(forgetful.submit(word)) for word in "ab"]
    gate.open()
    assert [type(error) for error in await gatherResults(waiting)] == [ValueError, ValueError]
    assert len(flush_logged_errors(ValueError)) == 1
    assert await lanes.words.submit("c") == "C"


@pytest_twisted.ensureDeferred
async def test_trouble_is_reported_once_a_second(
    lanes: Lanes, flush_logged_errors: FlushLoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk fails thousands a second; the log has one of them, the metric all."""
    monkeypatch.setattr(lanes_module, "_BETWEEN_REPORTS", PATIENCE)
    for number in range(5):
        assert isinstance(await outcome(lanes.words.submit(f"bug {number}")), ZeroDivisionError)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert lanes.metrics.writes_failed.values == {"batch": 5, "single": 5}
    monkeypatch.setattr(lanes_module, "_BETWEEN_REPORTS", 0.0)
    assert isinstance(await outcome(lanes.words.submit("bug")), ZeroDivisionError)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


@pytest_twisted.ensureDeferred
async def test_callbacks_that_raise_do_not_stop_the_lane(lanes: Lanes) -> None:
    """What a submitter does with a result is no business of those that come after it."""
    gate = await lanes.hold()
    first = lanes.words.submit("a").addCallback(lambda _: 1 / 0)
    second = lanes.words.submit("b")
    gate.open()
    assert await second == "B"
    assert isinstance(await outcome(first), ZeroDivisionError)
    assert await lanes.words.submit("c") == "C"
    assert await lanes.stored() == ["a", "b", "c"]


@pytest_twisted.ensureDeferred
async def test_who_cancels_does_not_stop_the_lane(lanes: Lanes) -> None:
    """A cancelled item is written all the same; nobody hears of it."""
    gate = await lanes.hold()
    cancelled, other = lanes.words.submit("a"), lanes.words.submit("b")
    cancelled.cancel()
    gate.open()
    assert await other == "B"
    assert isinstance(await outcome(cancelled), CancelledError)
    assert await lanes.stored() == ["a", "b"]
    assert lanes.metrics.writes_waiting.read() == {"": 0}


@pytest_twisted.ensureDeferred
async def test_a_broken_connection_is_opened_again(lanes: Lanes, flush_logged_errors: FlushLoggedErrors) -> None:
    """What was submitted when it broke is written on the new one."""

    def break_it(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.close()

    broken = outcome(lanes.calls.submit(break_it))
    assert type(await broken) is Unavailable  # it breaks its second connection, too
    assert await lanes.words.submit("a") == "A"
    flush_logged_errors(sqlite3.ProgrammingError)

    lanes.writes._connection.connection.dbapi_connection.close()  # type: ignore[union-attr]  # there is one
    assert await gatherResults([lanes.words.submit(word) for word in "bc"]) == ["B", "C"]
    assert await lanes.stored() == ["a", "b", "c"]
    assert len(flush_logged_errors()) <= 1  # perhaps too soon after the last


@pytest_twisted.ensureDeferred
async def test_a_locked_database_is_unavailable(
    tmp_path: Path, flush_logged_errors: FlushLoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process holds the lock writes fail in bounded time, and reads go on; then all is well again."""
    monkeypatch.setattr(engine_module, "BUSY_SECONDS", 0.3)
    lanes = Lanes(tmp_path)
    await lanes.words.submit("before")
    with closing(sqlite3.connect(lanes.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        lanes.writes._seconds = 0.5
        results = await gatherResults([outcome(lanes.words.submit(f"{n}")) for n in range(200)])
        assert all(isinstance(error, Unavailable) for error in results)
        # The first transaction of one item or more, and the one second try that began in time; then all are late.
        assert lanes.metrics.writes_failed.values["single"] <= 3
        assert lanes.metrics.writes_failed.values["late"] >= 197
        assert await lanes.stored() == ["before"]
    lanes.writes._seconds = PATIENCE
    assert await lanes.words.submit("after") == "AFTER"
    assert "locked" in flush_logged_errors()[0].getErrorMessage()
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_stop_writes_what_was_taken(tmp_path: Path) -> None:
    """It fires after the last result; what comes later is refused, and stopping twice is no harm."""
    lanes = Lanes(tmp_path)
    gate = await lanes.hold()
    order: list[str] = []
    waiting = [lanes.words.submit(f"{n}").addCallback(order.append) for n in range(600)]
    stopped = lanes.writes.stop().addCallback(lambda _: order.append("stopped"))
    assert isinstance(await outcome(lanes.words.submit("later")), Unavailable)
    gate.open()
    await gatherResults([*waiting, stopped, lanes.writes.stop()])
    assert order == [*(f"{n}" for n in range(600)), "stopped"]
    assert len(await lanes.stored()) == 600
    assert lanes.metrics.writes_failed.values == {"closed": 1}
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_a_lane_that_was_not_started_refuses(tmp_path: Path) -> None:
    """It neither takes items that nobody would write, nor waits to be stopped."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    writes = WriteLane(open_writer(url), running_reactor(), Metrics(), 10, 10, 1.0)
    reads = ReadLane(open_readers(url, 1), running_reactor(), Metrics(), 1, 1.0)
    nothing: WriteGroup[str, str] = writes.group("nothing", lambda _connection, items: items)
    assert isinstance(await outcome(nothing.submit("a")), Unavailable)
    assert isinstance(await outcome(reads.read("nothing", lambda _connection: None)), Unavailable)
    await writes.stop()
    await reads.stop()


# Reading.


@pytest_twisted.ensureDeferred
async def test_reads_do_not_wait_for_writes_nor_writes_for_reads(lanes: Lanes) -> None:
    """Each goes on while the other stands still; a read sees the one state that it began with."""
    await lanes.words.submit("a")
    writing = await lanes.hold()
    assert await lanes.stored() == ["a"]
    writing.open()
    reading = Gate()

    def twice(connection: Connection) -> list[list[str]]:
        first = _words(connection)
        reading()
        return [first, _words(connection)]

    both = lanes.reads.read("twice", twice)
    await reading.reached
    assert await lanes.words.submit("b") == "B"
    reading.open()
    assert await both == [["a"], ["a"]]
    assert await lanes.stored() == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_reads_run_beside_each_other(lanes: Lanes) -> None:
    """As many at once as there are threads."""
    gates = [Gate(), Gate()]
    waiting = [lanes.reads.read("gate", gate) for gate in gates]
    await gatherResults([gate.reached for gate in gates])
    for gate in gates:
        gate.open()
    await gatherResults(waiting)


@pytest_twisted.ensureDeferred
async def test_a_reader_cannot_write(lanes: Lanes) -> None:
    """The database itself refuses, so that the write lane stays the only writer."""
    write = lanes.reads.read("write", lambda connection: connection.execute(text("INSERT INTO word VALUES ('a')")))
    assert isinstance(await outcome(write), Unavailable)
    assert await lanes.stored() == []


@pytest_twisted.ensureDeferred
async def test_a_read_times_out(tmp_path: Path) -> None:
    """Who asks hears in time that there is no answer, those that wait for a thread too; the lane recovers."""
    lanes = Lanes(tmp_path, threads=1)
    lanes.reads._seconds = 0.05
    gate = Gate()
    stuck = outcome(lanes.reads.read("stuck", gate))
    await gate.reached
    behind = outcome(lanes.reads.read("behind", _words))
    assert [str(error) for error in await gatherResults([stuck, behind])] == ["the database did not answer in time"] * 2
    assert lanes.metrics.reads_failed.values == {"stuck": 1, "behind": 1}
    gate.open()
    lanes.reads._seconds = PATIENCE
    assert await lanes.stored() == []
    assert lanes.reads._waiting == 0
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_nobody_reads_for_who_has_given_up(tmp_path: Path) -> None:
    """A read whose time was over before its turn is not run any more."""
    lanes = Lanes(tmp_path, threads=1)
    gate = Gate()
    stuck = lanes.reads.read("stuck", gate)
    await gate.reached
    lanes.reads._seconds = 0.01
    ran: list[int] = []
    late = outcome(lanes.reads.read("late", lambda _connection: ran.append(1)))
    assert isinstance(await late, Unavailable)
    gate.open()
    await stuck
    await lanes.stop()
    assert ran == []


@pytest_twisted.ensureDeferred
async def test_reads_have_a_bound(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over it they are refused at once, in groups as well."""
    monkeypatch.setattr(lanes_module, "_MOST_READS", 2)
    gates = [Gate(), Gate()]
    waiting = [lanes.reads.read("gate", gate) for gate in gates]
    await gatherResults([gate.reached for gate in gates])
    refused = lanes.reads.read("words", _words)
    assert isinstance(refused.result, Failure)  # at once
    assert isinstance(await outcome(refused), Unavailable)
    for gate in gates:
        gate.open()
    await gatherResults(waiting)
    assert await lanes.stored() == []

    opened = threading.Event()

    def lengths(_connection: Connection, words: Sequence[str]) -> list[int]:
        assert opened.wait(PATIENCE)
        return [len(word) for word in words]

    group = lanes.reads.group("lengths", lengths)
    asked = [group.submit("a"), group.submit("bb"), group.submit("ccc")]  # one runs, two wait
    assert isinstance(await outcome(group.submit("dddd")), Unavailable)
    opened.set()
    assert await gatherResults(asked) == [1, 2, 3]


@pytest_twisted.ensureDeferred
async def test_errors_while_reading(lanes: Lanes) -> None:
    """The database's become `Unavailable`; a mistake of the reading code reaches who asked; the lane goes on."""
    missing = lanes.reads.read("missing", lambda connection: connection.execute(text("SELECT * FROM nowhere")))
    assert str(await outcome(missing)) == "the database failed: missing"
    assert isinstance(await outcome(lanes.reads.read("bug", lambda _connection: 1 / 0)), ZeroDivisionError)
    assert lanes.metrics.reads_failed.values == {"missing": 1, "bug": 1}
    assert await lanes.stored() == []


@pytest_twisted.ensureDeferred
async def test_a_broken_reading_connection_is_opened_again(tmp_path: Path) -> None:
    """The read that found it broken fails; the next has a new one."""
    lanes = Lanes(tmp_path, threads=1)

    def break_it(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.close()
        connection.execute(text("SELECT 1"))

    assert isinstance(await outcome(lanes.reads.read("break", break_it)), Unavailable)
    assert await lanes.stored() == []
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_reads_of_a_kind_are_answered_together(lanes: Lanes) -> None:
    """The first runs alone; what comes meanwhile is one transaction."""
    gate = Gate()
    batches: list[list[str]] = []

    def read(_connection: Connection, words: Sequence[str]) -> list[str]:
        batches.append(list(words))
        if len(batches) == 1:
            gate()
        return [word.upper() for word in words]

    group = lanes.reads.group("upper", read)
    waiting = [group.submit(word) for word in "abc"]
    await gate.reached
    waiting += [group.submit(word) for word in "de"]
    gate.open()
    assert await gatherResults(waiting) == list("ABCDE")
    assert batches == [["a"], ["b", "c", "d", "e"]]


@pytest_twisted.ensureDeferred
async def test_a_group_that_waits_hears_in_time(tmp_path: Path) -> None:
    """Time spent behind a stuck transaction of the group counts: nobody waits twice."""
    lanes = Lanes(tmp_path)
    lanes.reads._seconds = 0.05
    opened = threading.Event()

    def stick(_connection: Connection, words: Sequence[str]) -> Sequence[str]:
        assert opened.wait(PATIENCE)
        return words

    group = lanes.reads.group("stuck", stick)
    results = await gatherResults([outcome(group.submit(word)) for word in "abc"])
    assert [type(error) for error in results] == [Unavailable] * 3
    opened.set()
    await lanes.stop()


class SlowTime(Clock):
    """A reactor whose time a test moves, and whose threads are real."""

    def callFromThread(self, *arguments: Any) -> None:
        running_reactor().callFromThread(*arguments)


@pytest_twisted.ensureDeferred
async def test_nobody_waits_twice(tmp_path: Path) -> None:
    """Who came while the group was stuck has as long as everybody, counted from when they asked."""
    time: Any = SlowTime()
    lane = ReadLane(open_readers(f"sqlite:///{tmp_path / 'test.db'}", 2), time, Metrics(), 2, 3.0)
    lane.start()
    opened = threading.Event()

    def stick(_connection: Connection, words: Sequence[str]) -> Sequence[str]:
        assert opened.wait(PATIENCE)
        return words

    group = lane.group("stuck", stick)
    first = group.submit("a")
    time.advance(2)
    second = group.submit("b")
    assert not first.called
    time.advance(1)
    assert isinstance(await outcome(first), Unavailable)
    time.advance(1.9)
    assert not second.called
    time.advance(0.1)
    assert isinstance(await outcome(second), Unavailable)
    opened.set()
    await lane.stop()


@pytest_twisted.ensureDeferred
async def test_a_group_goes_on_after_a_failure(lanes: Lanes) -> None:
    """Errors, and answers that are too few, reach all who waited together, and nobody else."""

    def read(_connection: Connection, words: Sequence[str]) -> list[str]:
        if "bug" in words:
            raise ZeroDivisionError
        return [word for word in words if word != "forgotten"]

    group = lanes.reads.group("words", read)
    assert isinstance(await outcome(group.submit("bug")), ZeroDivisionError)
    assert isinstance(await outcome(group.submit("forgotten")), ValueError)
    assert await group.submit("a") == "a"


@pytest_twisted.ensureDeferred
async def test_stop_answers_what_was_asked(tmp_path: Path) -> None:
    """Reads that were taken are answered before it fires; later ones are refused."""
    lanes = Lanes(tmp_path)
    order: list[object] = []
    waiting = [lanes.reads.read("words", _words).addCallback(order.append) for _ in range(20)]
    stopped = lanes.reads.stop().addCallback(lambda _: order.append("stopped"))
    assert isinstance(await outcome(lanes.reads.read("words", _words)), Unavailable)
    await gatherResults([*waiting, stopped, lanes.reads.stop()])
    assert order == [[]] * 20 + ["stopped"]
    await lanes.stop()


@pytest_twisted.ensureDeferred
async def test_commits_are_on_disk(lanes: Lanes) -> None:
    """What design.md promises before an ACK: a write-ahead log, synced at every commit."""
    settings = await lanes.calls.submit(
        lambda connection: [
            connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
        ]
    )
    assert settings == ["wal", 2]
