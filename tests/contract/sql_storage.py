"""Storage on a database file, for the tests of storage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred

from imserver.database.database import Database
from imserver.database.lanes import IReactor, WriteGroup
from imserver.metrics import Metrics
from imserver.model import Limits
from imserver.storage.sync_keys import SyncKeys
from imserver.storage.timelines import Timelines


def running_reactor() -> IReactor:
    from twisted.internet import reactor  # the one that pytest-twisted runs

    return cast(IReactor, reactor)


class SqlStorage:
    """A database of its own, with its lanes and storage on them. On an old path: what was there before."""

    def __init__(self, path: Path, now: Callable[[], float] = lambda: 0.0, page_bytes: int = 256 * 1024) -> None:
        self.metrics = Metrics()
        limits = Limits(storage_messages=100_000, storage_seconds=30.0, read_seconds=30.0)
        self.database = Database(f"sqlite:///{path / 'imserver.db'}", running_reactor(), self.metrics, limits, 2)
        self.database.prepare()
        self.database.start()
        self.timelines = Timelines(self.database.writes, self.database.reads, now, page_bytes)
        self.sync_keys = SyncKeys(self.database.writes, self.database.reads)

    def rows(self, statement: str) -> Deferred[list[tuple[Any, ...]]]:
        """Fires with what stands in the database."""
        return self.database.reads.read(
            "test", lambda connection: [tuple(row) for row in connection.execute(text(statement))]
        )

    def change(self, change: Callable[[Connection], object]) -> Deferred[None]:
        """Do something to the database, in the one writer's turn."""

        def write(connection: Connection, items: object) -> list[None]:
            change(connection)
            return [None]

        group: WriteGroup[None, None] = self.database.writes.group("test", write)
        return group.submit(None)

    def stop(self) -> Deferred[None]:
        return self.database.close()
