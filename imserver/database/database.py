"""A database as the server has it: prepared, served by its lanes, closed, in this order."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred

from imserver.database.engine import database_file, open_readers, open_writer
from imserver.database.errors import CannotOpen
from imserver.database.lanes import IReactor, ReadLane, WriteGroup, WriteLane, fail_late
from imserver.database.lock import ProcessLock
from imserver.database.upgrade import upgrade
from imserver.metrics import Metrics
from imserver.model import Limits

#: The oldest SQLite that can do what storage says to it (RETURNING).
_OLDEST_SQLITE: Final = (3, 35)


class Database:
    """Its lanes exist from the beginning, so that who writes and reads can be built on them; they refuse everything
    until `start`."""

    def __init__(self, url: str, reactor: IReactor, metrics: Metrics, limits: Limits, readers: int) -> None:
        """
        Args:
            url: SQLAlchemy's.
            reactor: where results fire.
            metrics: gets what the lanes count.
            limits: `storage_…` and `read_seconds` are for the lanes.
            readers: transactions that may read at once; each is a thread.
        """
        self._reactor = reactor
        self._seconds = limits.storage_seconds + limits.read_seconds
        self._engine = open_writer(url)
        file = database_file(self._engine)
        self._lock = ProcessLock(file.with_name(file.name + ".lock")) if file is not None else None
        self.writes = WriteLane(
            self._engine, reactor, metrics, limits.storage_messages, limits.storage_bytes, limits.storage_seconds
        )
        self.reads = ReadLane(open_readers(url, readers), reactor, metrics, readers, limits.read_seconds)
        self._turns: WriteGroup[None, None] = self.writes.group("ping", _write_nothing)

    def prepare(self) -> None:
        """Lock the database against a second server, and bring it to the newest revision.

        Blocks, perhaps for minutes: it is for the time before the reactor runs, or for a thread. Leaves neither a
        thread nor a connection behind, so that the process may fork before `start`.

        Raises:
            CannotOpen: with what to tell the operator.
        """
        if self._lock is not None:
            if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
                oldest = ".".join(map(str, _OLDEST_SQLITE))
                raise CannotOpen(f"SQLite {sqlite3.sqlite_version} is too old; this server needs {oldest} or newer")
            self._lock.acquire()
        try:
            upgrade(self._engine)
        except BaseException:
            self._release()
            raise
        finally:
            self._engine.dispose()

    def start(self) -> None:
        """Serve. After `prepare`, once."""
        if self._lock is not None:
            self._lock.sign()
        self.writes.start()
        self.reads.start()

    def ping(self) -> Deferred[None]:
        """Fires when one transaction has read, and one could write. Fails with `Unavailable`."""
        done = self.reads.read("ping", _read_nothing).addCallback(lambda _: self._turns.submit(None))
        return fail_late(done, self._seconds, self._reactor)

    def close(self) -> Deferred[None]:
        """Finish what was taken, then let go of the database. Fires when another process may have it."""
        return self.writes.stop().addCallback(lambda _: self.reads.stop()).addBoth(self._closed)

    def _closed(self, result: object) -> object:
        self._release()
        return result

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _read_nothing(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


def _write_nothing(_connection: Connection, items: Sequence[None]) -> Sequence[None]:
    return items
