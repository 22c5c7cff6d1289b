"""The directory on a database file, for the tests of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred

from imserver.database.engine import open_readers, open_writer
from imserver.database.lanes import IReactor, ReadLane, WriteGroup, WriteLane
from imserver.database.schema import metadata
from imserver.directory.groups import SqlGroups
from imserver.directory.relations import SqlRelations
from imserver.directory.sql import SqlDirectory
from imserver.metrics import Metrics


class SqlHouse:
    """A database of its own, with its lanes and all of the directory on them."""

    def __init__(self, path: Path) -> None:
        from twisted.internet import reactor as running

        reactor = cast(IReactor, running)
        url = f"sqlite:///{path / 'directory.db'}"
        self.seconds = 1_700_000_000.0
        self.metrics = Metrics()
        engine = open_writer(url)
        with engine.begin() as connection:
            metadata.create_all(connection)
        self.writes = WriteLane(engine, reactor, self.metrics, 100_000, 64 * 1024 * 1024, 10.0)
        self.reads = ReadLane(open_readers(url, 2), reactor, self.metrics, 2, 10.0)
        self.directory = SqlDirectory(self.writes, self.reads, lambda: self.seconds)
        self.groups = SqlGroups(
            self.writes, self.reads, lambda: self.seconds, lambda: self.seconds, self.metrics, 100_000
        )
        self.relations = SqlRelations(self.writes, self.reads, lambda: self.seconds)
        self.writes.start()
        self.reads.start()

    def rows(self, statement: str) -> Deferred[list[tuple[Any, ...]]]:
        """Fires with what stands in the database."""
        return self.reads.read("test", lambda connection: [tuple(row) for row in connection.execute(text(statement))])

    def change(self, change: Callable[[Connection], object]) -> Deferred[None]:
        """Do something to the database, in the one writer's turn."""

        def write(connection: Connection, items: object) -> list[None]:
            change(connection)
            return [None]

        group: WriteGroup[None, None] = self.writes.group("test", write)
        return group.submit(None)

    async def stop(self) -> None:
        await self.writes.stop()
        await self.reads.stop()
