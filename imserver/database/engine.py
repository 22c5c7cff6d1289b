"""Opening a database (SQLAlchemy URL) for writing or for reading."""

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

#: Seconds that SQLite waits for a lock that another process holds (a backup, a curious shell).
_BUSY_SECONDS = 5


def open_writer(url: str) -> Engine:
    """An engine whose transactions write. On SQLite: an fsync for each commit, and one connection."""
    engine = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine, begin="BEGIN IMMEDIATE", query_only=False)
    return engine


def open_readers(url: str, size: int) -> Engine:
    """An engine for `size` transactions at once that only read, each from one snapshot."""
    engine = create_engine(url, poolclass=QueuePool, pool_size=size, max_overflow=0)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine, begin="BEGIN", query_only=True)
    return engine


def _configure_sqlite(engine: Engine, begin: str, query_only: bool) -> None:
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver is told to leave transactions alone: it would begin them late, and none for reading.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"busy_timeout={_BUSY_SECONDS * 1000}",
            "cache_size=-65536",
            "temp_store=MEMORY",
            "foreign_keys=ON",
            f"query_only={'ON' if query_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Any) -> None:
        connection.connection.dbapi_connection.execute(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"
