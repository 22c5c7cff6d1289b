"""Transactions off the reactor's thread.

A `WriteLane` is one thread with one connection. What is submitted while it commits becomes the next transaction: the
group commit. There is no timer in it; an idle lane begins at once, a busy one gathers. Results fire after the commit (on
SQLite: after the fsync), on the reactor's thread, in the order of submission.

A `ReadLane` is a few threads, each with a connection of its own, so that a long read never stands before a write.
"""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from imserver.interfaces import Unavailable
from imserver.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items in one transaction, at most: enough to make the fsync cheap, few enough that the first is not kept waiting.
_BATCH = 512


class IReactor(IReactorTime, IReactorFromThreads):
    """What the lanes need of a reactor."""


class _Job:
    __slots__ = ("deadline", "done", "group", "item", "size")

    def __init__(self, group: "WriteGroup[Any, Any]", item: Any, size: int, deadline: float) -> None:
        self.group = group
        self.item = item
        self.size = size
        self.deadline = deadline
        self.done: Deferred[Any] = Deferred()


class WriteGroup(Generic[Item, Result]):
    """Writes of one kind: those that wait together are written together, in one transaction."""

    __slots__ = ("_lane", "name", "write")

    def __init__(
        self, lane: "WriteLane", name: str, write: Callable[[Connection, Sequence[Item]], Sequence[Result]]
    ) -> None:
        self._lane = lane
        self.name = name
        self.write = write

    def submit(self, item: Item, size: int = 0) -> Deferred[Result]:
        """Write `item`, which keeps about `size` bytes waiting.

        Fires with its result once the transaction is committed. Fails with `Unavailable` where the lane is full or closed,
        or the item's turn did not come in time (nothing was written), and with what `write` or the database raised where
        its own transaction failed.
        """
        return self._lane.put(self, item, size)


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
        self._reactor = reactor
        self._metrics = metrics
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._connection: Connection | None = None
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopped: Deferred[None] = Deferred()
        self._waiting = 0
        self._waiting_bytes = 0
        self._closed = False
        metrics.writes_waiting.read = lambda: {"": self._waiting}

    def group(
        self, name: str, write: Callable[[Connection, Sequence[Item]], Sequence[Result]]
    ) -> WriteGroup[Item, Result]:
        """A kind of write. `write` runs on the lane's thread, inside a transaction, and gives a result for each item, in
        order. After a failed batch it is called once more for each item alone."""
        return WriteGroup(self, name, write)

    def start(self) -> None:
        threading.Thread(target=self._run, name="imserver-write", daemon=True).start()

    def stop(self) -> Deferred[None]:
        """Take nothing more. Fires when all that was taken is written and its results have fired."""
        self._closed = True
        self._queue.put(None)
        return self._stopped

    def put(self, group: WriteGroup[Any, Any], item: Any, size: int) -> Deferred[Any]:
        job = _Job(group, item, size, monotonic() + self._seconds)
        if self._closed or self._waiting >= self._most_items or self._waiting_bytes + size > self._most_bytes:
            reason = "closed" if self._closed else "full"
            self._metrics.writes_failed.inc(reason)
            job.done.errback(Unavailable(f"the write lane is {reason}"))
            return job.done
        self._waiting += 1
        self._waiting_bytes += size
        self._queue.put(job)
        return job.done

    # The lane's thread.

    def _run(self) -> None:
        get = self._queue.get
        going_on = True
        while going_on:
            jobs = [get()]
            for _ in range(min(self._queue.qsize(), _BATCH - 1)):
                jobs.append(get())
            groups: dict[WriteGroup[Any, Any], list[_Job]] = {}
            for job in jobs:
                if job is None:
                    going_on = False
                else:
                    groups.setdefault(job.group, []).append(job)
            for group, of_group in groups.items():
                self._write(group, of_group)
        self._close_connection()
        self._engine.dispose()
        self._reactor.callFromThread(self._stopped.callback, None)

    def _write(self, group: WriteGroup[Any, Any], jobs: list[_Job]) -> None:
        began = monotonic()
        if jobs[0].deadline < began:
            late = [job for job in jobs if job.deadline < began]
            jobs = jobs[len(late) :]
            self._reactor.callFromThread(self._fire, late, [_too_late() for _ in late])
            if not jobs:
                return
        results: Sequence[Any]
        try:
            results = self._transact(group, [job.item for job in jobs])
        except (
            Exception
        ) as error:  # whatever it is, it goes to who submitted the items, and the next batch has its turn
            if len(jobs) == 1:
                results = [Failure(error)]
            else:
                self._reactor.callFromThread(self._batch_failed, group.name, len(jobs), Failure(error))
                results = [self._write_alone(group, job) for job in jobs]
        self._reactor.callFromThread(self._fire, jobs, results, monotonic() - began)

    def _write_alone(self, group: WriteGroup[Any, Any], job: _Job) -> Any:
        try:
            return self._transact(group, [job.item])[0]
        except Exception as error:  # as above
            return Failure(error)

    def _transact(self, group: WriteGroup[Any, Any], items: list[Any]) -> Sequence[Any]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._engine.connect()
        try:
            with connection.begin():
                return group.write(connection, items)
        except SQLAlchemyError:
            # Perhaps it is the connection that is broken; the next transaction takes a new one.
            self._close_connection()
            raise

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # The reactor's thread.

    def _batch_failed(self, name: str, count: int, failure: Failure) -> None:
        self._metrics.writes_failed.inc("batch")
        self._log.failure(
            "{count} {name} could not be written together; trying each alone", failure=failure, count=count, name=name
        )

    def _fire(self, jobs: list[_Job], results: Sequence[Any], seconds: float | None = None) -> None:
        if seconds is not None:
            self._metrics.batch_size.observe(len(jobs))
            self._metrics.commit_seconds.observe(seconds)
        self._waiting -= len(jobs)
        for job, result in zip(jobs, results, strict=True):
            self._waiting_bytes -= job.size
            if isinstance(result, Failure):
                self._metrics.writes_failed.inc("late" if seconds is None else "single")
            job.done.callback(result)


def _too_late() -> Failure:
    return Failure(Unavailable("the database is too busy to write now"))


class ReadGroup(Generic[Item, Result]):
    """Reads of one kind: those that wait together are answered by one transaction."""

    __slots__ = ("_lane", "_name", "_read", "_running", "_waiting")

    def __init__(
        self, lane: "ReadLane", name: str, read: Callable[[Connection, Sequence[Item]], Sequence[Result]]
    ) -> None:
        self._lane = lane
        self._name = name
        self._read = read
        self._waiting: list[tuple[Item, Deferred[Result]]] = []
        self._running = False

    def submit(self, item: Item) -> Deferred[Result]:
        """Fires with what `read` gave for `item`; fails with `Unavailable`."""
        done: Deferred[Result] = Deferred()
        self._waiting.append((item, done))
        if not self._running:
            self._run()
        return done

    def _run(self) -> None:
        self._running = True
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        items = [item for item, _ in batch]
        self._lane.read(self._name, lambda connection: self._read(connection, items)).addBoth(self._fire, batch)

    def _fire(self, results: Sequence[Result] | Failure, batch: list[tuple[Item, Deferred[Result]]]) -> None:
        self._running = False
        if self._waiting:
            self._run()
        if isinstance(results, Failure):
            for _, done in batch:
                done.errback(Failure(results.value))
        else:
            for (_, done), result in zip(batch, results, strict=True):
                done.callback(result)


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
        self._reactor = reactor
        self._metrics = metrics
        self._seconds = seconds
        self._threads = ThreadPool(threads, threads, "imserver-read")

    def start(self) -> None:
        self._threads.start()

    def stop(self) -> Deferred[None]:
        """Fires when no read runs any more; those that still wait fail."""
        stopped: Deferred[None] = Deferred()

        def join() -> None:
            self._threads.stop()
            self._engine.dispose()
            self._reactor.callFromThread(stopped.callback, None)

        threading.Thread(target=join, name="imserver-read-stop", daemon=True).start()
        return stopped

    def group(
        self, name: str, read: Callable[[Connection, Sequence[Item]], Sequence[Result]]
    ) -> ReadGroup[Item, Result]:
        """A kind of read. `read` runs on one of the lane's threads and gives a result for each item, in order."""
        return ReadGroup(self, name, read)

    def read(self, name: str, read: Callable[[Connection], Result]) -> Deferred[Result]:
        """Run `read` in a transaction that sees one state of the database.

        Fires with what it returns. Fails with `Unavailable` where the database failed, or did not answer in time.
        """
        done: Deferred[Any] = Deferred()

        def work() -> None:
            if done.called:
                return  # nobody waits any more
            try:
                with self._engine.connect() as connection, connection.begin():
                    result: Any = read(connection)
            except Exception as error:  # it goes to whoever asked
                result = Failure(error)
            self._reactor.callFromThread(done.callback, result)

        self._threads.callInThread(work)
        done.addTimeout(self._seconds, self._reactor)
        done.addErrback(self._failed, name)
        return done

    def _failed(self, failure: Failure, name: str) -> Failure:
        if failure.check(TimeoutError, SQLAlchemyError) is None:
            return failure
        self._metrics.reads_failed.inc(name)
        self._log.warn("reading {name} failed: {reason}", name=name, reason=failure.getErrorMessage())
        return Failure(Unavailable(f"the database did not answer: {name}"))
