"""A database from preparing to closing."""

import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import pytest_twisted
from sqlalchemy import Connection
from twisted.internet.defer import gatherResults

from imserver.database.database import Database
from imserver.database.errors import CannotOpen
from imserver.interfaces import Unavailable
from imserver.metrics import Metrics
from imserver.model import Limits
from tests.contract.sql_storage import running_reactor
from tests.leaks import FlushLoggedErrors


def database(path: Path, storage_seconds: float = 4.0, read_seconds: float = 3.0) -> Database:
    limits = Limits(storage_seconds=storage_seconds, read_seconds=read_seconds)
    return Database(f"sqlite:///{path / 'imserver.db'}", running_reactor(), Metrics(), limits, 2)


def open_files() -> set[str]:
    """The names of this process's open files."""
    return {link.resolve().name for link in Path("/proc/self/fd").iterdir() if link.exists()}


def threads() -> dict[str, threading.Thread]:
    return {thread.name: thread for thread in threading.enumerate() if thread.name.startswith("imserver-")}


@pytest_twisted.ensureDeferred
async def test_from_preparing_to_closing(tmp_path: Path) -> None:
    """It answers between start and close, and leaves neither threads nor a write-ahead log behind."""
    served = database(tmp_path)
    served.prepare()
    before = threads()
    served.start()
    await served.ping()
    running = threads()
    assert before == {}
    assert set(running) == {"imserver-write", "imserver-read-0", "imserver-read-1"}
    await served.close()
    for thread in running.values():
        thread.join(30)
    assert threads() == {}
    assert sorted(os.listdir(tmp_path)) == ["imserver.db", "imserver.db.lock"]


@pytest_twisted.ensureDeferred
async def test_preparing_leaves_no_connection(tmp_path: Path) -> None:
    """SQLite must not be carried over a fork: after preparing nothing of the database is open but the lock."""
    served = database(tmp_path)
    served.prepare()
    assert {name for name in open_files() if name.startswith("imserver.db")} == {"imserver.db.lock"}
    await served.close()


@pytest_twisted.ensureDeferred
async def test_the_lock_names_the_process_that_serves(tmp_path: Path) -> None:
    """Not the one that prepared, which twistd leaves when it becomes a daemon."""
    served = database(tmp_path)
    served.prepare()
    lock = tmp_path / "imserver.db.lock"
    lock.write_text("1\n")
    served.start()
    assert lock.read_text() == f"{os.getpid()}\n"
    await served.close()


@pytest_twisted.ensureDeferred
async def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """Until the first has closed."""
    first, second = database(tmp_path), database(tmp_path)
    first.prepare()
    first.start()
    with pytest.raises(CannotOpen, match="a server runs on this database already"):
        second.prepare()
    await second.close()
    await first.ping()
    await first.close()
    second.prepare()
    second.start()
    await second.ping()
    await second.close()


@pytest_twisted.ensureDeferred
async def test_a_database_that_cannot_be_used_is_let_go_of(tmp_path: Path) -> None:
    """After a refusal the lock is free."""
    (tmp_path / "imserver.db").write_bytes(b"no database " * 100)
    for _ in range(2):
        with pytest.raises(CannotOpen, match="file is not a database"):
            database(tmp_path).prepare()


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is opened."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 9))
    with pytest.raises(CannotOpen, match=r"is too old; this server needs 3\.35 or newer"):
        database(tmp_path).prepare()
    assert not list(tmp_path.iterdir())


@pytest_twisted.ensureDeferred
async def test_ping_fails_while_nothing_can_be_written(
    tmp_path: Path, flush_logged_errors: FlushLoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that holds the lock makes the server not ready, and ready again once it lets go."""
    monkeypatch.setattr("imserver.database.engine.BUSY_SECONDS", 0.01)
    served = database(tmp_path)
    served.prepare()
    served.start()
    await served.ping()
    with closing(sqlite3.connect(tmp_path / "imserver.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await served.ping()
    await served.ping()
    assert "locked" in flush_logged_errors()[0].getErrorMessage()
    await served.close()


@pytest_twisted.ensureDeferred
async def test_ping_fails_while_a_lane_stands_still(tmp_path: Path) -> None:
    """A disk that does not answer is noticed, in time."""
    served = database(tmp_path, storage_seconds=0.03, read_seconds=0.02)
    served.prepare()
    served.start()
    gate = threading.Event()

    def stick(_connection: Connection, items: Sequence[None]) -> Sequence[None]:
        assert gate.wait(30)
        return items

    stuck = served.writes.group("stuck", stick).submit(None)
    with pytest.raises(Unavailable):
        await served.ping()
    gate.set()
    await gatherResults([stuck, served.close()])


@pytest_twisted.ensureDeferred
async def test_ping_fails_when_it_is_closed(tmp_path: Path) -> None:
    """Before the start and after the end nobody answers."""
    served = database(tmp_path)
    with pytest.raises(Unavailable):
        await served.ping()
    served.prepare()
    served.start()
    await served.close()
    with pytest.raises(Unavailable):
        await served.ping()
