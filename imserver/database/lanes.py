"""Transactions off the reactor's thread.

A `WriteLane` is one thread with one connection. What is submitted while it commits becomes the next transaction: the
group commit. There is no timer in it; an idle lane begins at once, a busy one gathers. Results fire after the commit
(on SQLite: after the fsync), on the reactor's thread, in the order of submission.

A `ReadLane` is a few threads with connections of their own, so that a long read never stands before a write.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.database.engine import database_errors
from imserver.interfaces import Unavailable
from imserver.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items in one transaction, at most: enough to make the fsync cheap, few enough that the first is not kept waiting.
_BATCH: Final = 512
#: Bytes that they hold, about: a transaction of large items is no longer than one of many small ones.
_BATCH_BYTES: Final = 4 * 1024 * 1024
#: Reads that may wait; more are refused at once.
_MOST_READS: Final = 20_000
#: Seconds between two reports of the same trouble: a full disk fails thousands of writes a second.
_BETWEEN_REPORTS: Final = 1.0


class IReactor(IReactorTime, IReactorFromThreads):
    """What the lanes need of a reactor."""


class _TooLate(Unavailable):
    """An item's turn did not come in time."""


def fail_late(done: Deferred[Result], seconds: float, reactor: IReactorTime) -> Deferred[Result]:
    """Make `done` fail with `Unavailable` if it has not fired in time."""
    return done.addTimeout(seconds, reactor, _timed_out)


def _timed_out(_failure: object, _seconds: float) -> Failure:
    return Failure(Unavailable("the database did not answer in time"))


class _Trouble:
    """Counts what fails, to be reported now and then."""

    __slots__ = ("_count", "_reactor", "_reported_at")

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._count = 0
        self._reported_at = float("-inf")

    def count(self) -> int:
        """One more. How many since the last report, if there is to be one now; else 0."""
        self._count += 1
        now = self._reactor.seconds()
        if now - self._reported_at < _BETWEEN_REPORTS:
            return 0
        count, self._count, self._reported_at = self._count, 0, now
        return count


class _Job:
    __slots__ = ("deadline", "done", "group", "item", "result", "size")

    def __init__(
        self, group: "WriteGroup[Any, Any]", item: Any, size: int, deadline: float, done: Callable[[Any], None]
    ) -> None:
        self.group = group
        self.item = item
        self.size = size
        self.deadline = deadline
        self.done = done
        self.result: Any = None


class WriteGroup(Generic[Item, Result]):
    """Writes of one kind: those that wait together are written together, in one transaction."""

    __slots__ = ("_lane", "name", "undone", "write")

    def __init__(
        self,
        lane: "WriteLane",
        name: str,
        write: Callable[[Connection, Sequence[Item]], Sequence[Result]],
        undone: Callable[[], None] | None,
    ) -> None:
        self._lane = lane
        self.name = name
        self.write = write
        self.undone = undone

    def submit(self, item: Item, size: int = 0) -> Deferred[Result]:
        """Write `item`, which keeps about `size` bytes waiting.

        Fires with its result once the transaction is committed. Fails with `Unavailable` where the lane is full or
        closed, the item's turn did not come in time, or the database failed; with whatever else `write` raised for this
        item alone. Then nothing of it was written.
        """
        done: Deferred[Result] = Deferred()
        try:
            self._lane.put(self, item, size, done.callback)
        except Unavailable:
            return fail()
        return done

    def put(self, item: Item, size: int, done: Callable[[Result | Failure], None]) -> None:
        """The same, for those who need no Deferred: `done` is called with the result or the failure.

        Raises `Unavailable`, and never calls `done`, where the lane is full or closed.
        """
        self._lane.put(self, item, size, done)


class WriteLane:
    """All writes of this process, one transaction after the other."""

    _log = Logger()

    def __init__(
        self, engine: Engine, reactor: IReactor, metrics: Metrics, most_items: int, most_bytes: int, seconds: float
    ) -> None:
        """
        Args:
            engine: from `open_writer`.
            reactor: where results fire.
            metrics: gets batch sizes and commit times.
            most_items: items that may wait; more are refused at once.
            most_bytes: bytes that they may hold.
            seconds: how long an item may wait for its transaction to begin.
        """
        self._engine = engine
        self._errors = database_errors(engine)
        self._reactor = reactor
        self._metrics = metrics
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._connection: Connection | None = None
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopped: Deferred[None] = succeed(None)
        self._waiting = 0
        self._waiting_bytes = 0
        self._open = False
        self._trouble = _Trouble(reactor)
        metrics.writes_waiting.read = lambda: {"": self._waiting}

    def group(
        self,
        name: str,
        write: Callable[[Connection, Sequence[Item]], Sequence[Result]],
        undone: Callable[[], None] | None = None,
    ) -> WriteGroup[Item, Result]:
        """A kind of write.

        `write` runs on the lane's thread, inside a transaction that it may share with other kinds, and gives a result
        for each item, in order. What it raises undoes the whole transaction, after which each item is tried once more,
        alone: so what is no accident (a refusal) it gives as a result. What it remembers of the database is void when
        `undone` is called (on the lane's thread): a transaction that it was part of failed.
        """
        return WriteGroup(self, name, write, undone)

    def start(self) -> None:
        """Take items. Once only."""
        self._stopped = Deferred()
        self._open = True
        threading.Thread(target=self._run, name="imserver-write", daemon=True).start()

    def stop(self) -> Deferred[None]:
        """Take nothing more. Fires when all that was taken is written and its results have fired."""
        if self._open:
            self._open = False
            self._queue.put(None)
        return self._stopped

    def put(self, group: WriteGroup[Any, Any], item: Any, size: int, done: Callable[[Any], None]) -> None:
        if not self._open or self._waiting >= self._most_items or self._waiting_bytes + size > self._most_bytes:
            reason = "full" if self._open else "closed"
            self._metrics.writes_failed.inc(reason)
            raise Unavailable(f"the write lane is {reason}")
        self._waiting += 1
        self._waiting_bytes += size
        self._queue.put(_Job(group, item, size, monotonic() + self._seconds, done))

    # The lane's thread.

    def _run(self) -> None:
        try:
            going_on = True
            while going_on:
                jobs, going_on = self._gather()
                if jobs:
                    self._write(jobs)
            if self._connection is not None:
                self._connection.close()
            self._engine.dispose()
        finally:
            self._reactor.callFromThread(self._stopped.callback, None)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and take with it what else waits. False: nothing comes after them."""
        jobs: list[_Job] = []
        size = 0
        while True:
            job = self._queue.get()
            if job is None:
                return jobs, False
            jobs.append(job)
            size += job.size
            if len(jobs) == _BATCH or size >= _BATCH_BYTES or self._queue.empty():
                return jobs, True

    def _write(self, jobs: list[_Job]) -> None:
        began = monotonic()
        if jobs[0].deadline < began:  # the first has waited longest
            late = [job for job in jobs if job.deadline < began]
            jobs = jobs[len(late) :]
            for job in late:
                job.result = _too_late()
            self._reactor.callFromThread(self._fire, late)
            if not jobs:
                return
        try:
            self._transact(jobs)
        except Exception as error:  # whatever it is, it goes to who submitted the items, and the lane goes on
            self._reactor.callFromThread(self._batch_failed, jobs, Failure(error))
            for job in jobs:
                job.result = self._write_alone(job)
        self._reactor.callFromThread(self._written, jobs, monotonic() - began)

    def _write_alone(self, job: _Job) -> Any:
        if job.deadline < monotonic():
            return _too_late()
        try:
            self._transact([job])
        except self._errors:
            return Failure(Unavailable(f"the database failed: {job.group.name}"))
        except Exception as error:  # as above
            return Failure(error)
        return job.result

    def _transact(self, jobs: list[_Job]) -> None:
        groups: dict[WriteGroup[Any, Any], list[_Job]] = {}
        for job in jobs:
            groups.setdefault(job.group, []).append(job)
        connection = self._connection
        try:
            if connection is None:
                connection = self._connection = self._engine.connect()
            with connection.begin():
                for group, of_group in groups.items():
                    results = group.write(connection, [job.item for job in of_group])
                    for job, result in zip(of_group, results, strict=True):
                        job.result = result
        except Exception as error:
            for group in groups:
                if group.undone is not None:
                    group.undone()
            if isinstance(error, self._errors):
                # Perhaps it is the connection that is broken; the next transaction takes a new one.
                self._connection = None
                if connection is not None:
                    connection.invalidate()
                    connection.close()
            raise

    # The reactor's thread.

    def _batch_failed(self, jobs: list[_Job], failure: Failure) -> None:
        self._metrics.writes_failed.inc("batch")
        failed = self._trouble.count()
        if failed:
            self._log.failure(
                "writing {count} ({kinds}) failed, each is tried alone; {failed} failures since this was last said",
                failure=failure,
                count=len(jobs),
                kinds=", ".join(sorted({job.group.name for job in jobs})),
                failed=failed,
            )

    def _written(self, jobs: list[_Job], seconds: float) -> None:
        self._metrics.batch_size.observe(len(jobs))
        self._metrics.commit_seconds.observe(seconds)
        self._fire(jobs)

    def _fire(self, jobs: list[_Job]) -> None:
        for job in jobs:
            self._waiting -= 1
            self._waiting_bytes -= job.size
            result = job.result
            if isinstance(result, Failure):
                self._metrics.writes_failed.inc("late" if isinstance(result.value, _TooLate) else "single")
            try:
                job.done(result)
            except Exception:  # a bug, and of this item's: the others are on disk too, and to be told
                self._log.failure("telling that a {kind} is written failed", kind=job.group.name)


def _too_late() -> Failure:
    return Failure(_TooLate("the database is too busy to write now"))


class ReadGroup(Generic[Item, Result]):
    """Reads of one kind: those that wait together are answered by one transaction."""

    __slots__ = ("_lane", "_name", "_read", "_running", "_waiting")

    def __init__(
        self, lane: "ReadLane", name: str, read: Callable[[Connection, Sequence[Item]], Sequence[Result]]
    ) -> None:
        self._lane = lane
        self._name = name
        self._read = read
        self._waiting: deque[_Question[Item, Result]] = deque()
        self._running = False

    def submit(self, item: Item) -> Deferred[Result]:
        """Fires with what `read` gave for `item`; fails as `ReadLane.read` does."""
        if len(self._waiting) >= _MOST_READS:
            return fail(self._lane.refused("full", self._name))
        question: _Question[Item, Result] = _Question(item, self._lane.deadline())
        self._waiting.append(question)
        if not self._running:
            self._ask()
        return question.done

    def _ask(self) -> None:
        waiting = self._waiting
        questions = [waiting.popleft() for _ in range(min(len(waiting), _BATCH))]
        self._running = True
        # The first has waited longest: when its time is over, so is that of the transaction.
        self._lane.read_until(questions[0].deadline, self._name, partial(self._answer, questions)).addBoth(
            self._fire, questions
        )

    def _answer(self, questions: list["_Question[Item, Result]"], connection: Connection) -> list[Result]:
        results = self._read(connection, [question.item for question in questions])
        return [result for _, result in zip(questions, results, strict=True)]

    def _fire(self, results: list[Result] | Failure, questions: list["_Question[Item, Result]"]) -> None:
        self._running = False
        if self._waiting:
            self._ask()
        if isinstance(results, Failure):
            for question in questions:
                question.done.errback(Failure(results.value))
        else:
            for question, result in zip(questions, results, strict=True):
                question.done.callback(result)


class _Question(Generic[Item, Result]):
    __slots__ = ("deadline", "done", "item")

    def __init__(self, item: Item, deadline: float) -> None:
        self.item = item
        self.deadline = deadline
        self.done: Deferred[Result] = Deferred()


class ReadLane:
    """Reads, a few at once."""

    _log = Logger()

    def __init__(self, engine: Engine, reactor: IReactor, metrics: Metrics, threads: int, seconds: float) -> None:
        """
        Args:
            engine: from `open_readers`, for as many transactions as there are threads.
            reactor: where results fire.
            metrics: counts reads that gave no answer.
            threads: reads at once.
            seconds: how long a read may take, with its waiting.
        """
        self._engine = engine
        self._errors = database_errors(engine)
        self._reactor = reactor
        self._metrics = metrics
        self._seconds = seconds
        self._threads = [
            threading.Thread(target=self._run, name=f"imserver-read-{n}", daemon=True) for n in range(threads)
        ]
        self._queue: SimpleQueue[tuple[Deferred[Any], Callable[[Connection], Any]] | None] = SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._running = threads  # under the lock
        self._open = False
        self._stopped: Deferred[None] = succeed(None)
        self._trouble = _Trouble(reactor)

    def start(self) -> None:
        """Take reads. Once only."""
        self._stopped = Deferred()
        self._open = True
        for thread in self._threads:
            thread.start()

    def stop(self) -> Deferred[None]:
        """Take nothing more. Fires when all that was taken is answered."""
        if self._open:
            self._open = False
            for _ in self._threads:
                self._queue.put(None)
        return self._stopped

    def group(
        self, name: str, read: Callable[[Connection, Sequence[Item]], Sequence[Result]]
    ) -> ReadGroup[Item, Result]:
        """A kind of read. `read` runs on one of the lane's threads and gives a result for each item, in order."""
        return ReadGroup(self, name, read)

    def read(self, name: str, read: Callable[[Connection], Result]) -> Deferred[Result]:
        """Run `read` in a transaction that sees one state of the database.

        Fires with what it returns. Fails with `Unavailable` where too many wait, the lane is closed, the database
        failed or did not answer in time, and with whatever else `read` raised.
        """
        return self.read_until(self.deadline(), name, read)

    def deadline(self) -> float:
        """When a read that is asked for now has to be answered, in the reactor's seconds."""
        return self._reactor.seconds() + self._seconds

    def refused(self, reason: str, name: str) -> Unavailable:
        self._metrics.reads_failed.inc(name)
        return Unavailable(f"the read lane is {reason}")

    def read_until(self, deadline: float, name: str, read: Callable[[Connection], Result]) -> Deferred[Result]:
        if not self._open:
            return fail(self.refused("closed", name))
        if self._waiting >= _MOST_READS:
            return fail(self.refused("full", name))
        done: Deferred[Any] = Deferred()
        self._waiting += 1
        self._queue.put((done, read))
        fail_late(done, max(0.0, deadline - self._reactor.seconds()), self._reactor)
        return done.addErrback(self._failed, name)

    # The lane's threads.

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            done, read = asked
            # Where the time is over nobody waits for the answer any more.
            result = None if done.called else self._transact(read)
            self._reactor.callFromThread(self._fire, done, result)
        with self._lock:
            self._running -= 1
            last = not self._running
        if last:
            self._engine.dispose()
            self._reactor.callFromThread(self._stopped.callback, None)

    def _transact(self, read: Callable[[Connection], Any]) -> Any:
        try:
            with self._engine.connect() as connection, connection.begin():
                return read(connection)
        except Exception as error:  # it goes to whoever asked
            return Failure(error)

    # The reactor's thread.

    def _fire(self, done: Deferred[Any], result: Any) -> None:
        self._waiting -= 1
        if not done.called:
            done.callback(result)

    def _failed(self, failure: Failure, name: str) -> Failure:
        self._metrics.reads_failed.inc(name)
        if not failure.check(Unavailable, *self._errors):
            return failure
        failed = self._trouble.count()
        if failed:
            self._log.warn(
                "reading {name} failed: {reason}; {failed} failed since this was last said",
                name=name,
                reason=failure.getErrorMessage(),
                failed=failed,
            )
        return failure if failure.check(Unavailable) else Failure(Unavailable(f"the database failed: {name}"))
