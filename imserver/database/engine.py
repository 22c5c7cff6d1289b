"""Opening a database (SQLAlchemy URL) for writing or for reading, and what differs between databases then."""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

#: Seconds that SQLite waits for a lock that another process holds (a curious shell). Twice that, for a batch and its
#: second try, is still less than the 5 s after which clients take a message for lost.
BUSY_SECONDS: Final = 2
#: Pages that a connection keeps, in KiB. Behind it stands the kernel's cache, so that this saves copying, not reading.
_CACHE_KIB: Final = 16 * 1024
#: The write-ahead log is cut to this after a burst, in bytes.
_LOG_BYTES: Final = 64 * 1024 * 1024
#: Pages of the log (32 MiB) after which they go into the database file. Timelines that are busy change the same pages
#: again and again; with SQLite's 1000 each goes there after every few commits, which took a fifth of a commit's time.
_CHECKPOINT_PAGES: Final = 8_000


def open_writer(url: str) -> Engine:
    """An engine whose transactions write. On SQLite: an fsync for each commit, and one connection."""
    return _open(url, 1, begin="BEGIN IMMEDIATE", query_only=False)


def open_readers(url: str, size: int) -> Engine:
    """An engine for `size` transactions at once that only read, each from one snapshot."""
    return _open(url, size, begin="BEGIN", query_only=True)


def database_file(engine: Engine) -> Path | None:
    """The file that the database is, where it is one (SQLite)."""
    if engine.dialect.name != "sqlite":
        return None
    return Path(engine.url.database or "")


def database_errors(engine: Engine) -> tuple[type[Exception], ...]:
    """What a transaction raises where the database failed: SQLAlchemy's errors, and the driver's for what is said to
    the driver itself."""
    driver: Any = engine.dialect.loaded_dbapi
    return SQLAlchemyError, driver.Error


def _open(url: str, size: int, begin: str, query_only: bool) -> Engine:
    # Room for every statement of storage's, compiled.
    options: dict[str, Any] = {"connect_args": {"cached_statements": 512}} if url.startswith("sqlite") else {}
    # The parameters hold messages and tokens; errors go into logs.
    engine = create_engine(url, poolclass=QueuePool, pool_size=size, max_overflow=0, hide_parameters=True, **options)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine, begin, query_only)
    return engine


def _configure_sqlite(engine: Engine, begin: str, query_only: bool) -> None:
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver is told to leave transactions alone: it would begin them late, and none for reading.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={int(BUSY_SECONDS * 1000)}",
            "journal_mode=WAL",
            f"journal_size_limit={_LOG_BYTES}",
            f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
            "synchronous=FULL",
            f"cache_size=-{_CACHE_KIB}",
            "temp_store=MEMORY",
            f"query_only={'ON' if query_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Any) -> None:
        connection.connection.dbapi_connection.execute(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
