"""Making a database today's before it serves: built if it is fresh, migrated if it is older, refused if it is newer."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError
from twisted.logger import Logger

from imserver.database.engine import database_errors, database_file
from imserver.database.errors import CannotOpen
from imserver.database.schema import metadata

#: The Alembic environment.
MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: Where a database says which revision it is; not Alembic's own name for it, for a back end may share the database.
VERSION_TABLE: Final = "imserver_version"

_log = Logger()


def upgrade(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Bring a database to the newest revision, in one transaction: it is today's afterwards, or as it was.

    Blocks, for as long as a migration takes. Before an older SQLite database is changed a copy of it is kept beside it.

    Args:
        engine: from `open_writer`.
        migrations: the Alembic environment.

    Raises:
        CannotOpen: it is newer than this program, no database of this program, or it cannot be read or changed.
    """
    name = engine.url.render_as_string()
    file = database_file(engine)
    if file is not None:
        name = str(file)
    try:
        with engine.begin() as connection:
            _upgrade(connection, name, file, migrations)
    except database_errors(engine) as error:
        raise CannotOpen(f"{name}: {_reason(error)}") from error
    if file is not None:
        _sync_directory(file.parent)


def _upgrade(connection: Connection, name: str, file: Path | None, migrations: Path) -> None:
    # Here, and not above: Alembic is needed at start only.
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if current == newest:
        return
    if current is None:
        strangers = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
        if strangers:
            raise CannotOpen(
                f"{name}: has a table {strangers[0]} but is no database of imserver; give the server one of its own"
            )
    elif current not in {script.revision for script in scripts.walk_revisions()}:
        raise CannotOpen(
            f"{name}: was written by a newer imserver (its revision is {current}, this program knows up to {newest}); "
            "install that version, or restore a copy from before"
        )
    else:
        kept = f", a copy of the old one is {_keep_copy(file, current)}" if file is not None else ""
        _log.info(
            "{name}: migrating from {current} to {newest}{kept}", name=name, current=current, newest=newest, kept=kept
        )
    try:
        command.upgrade(config, "head")
    except Exception as error:
        # The transaction is rolled back on the way out.
        raise CannotOpen(f"{name}: migrating to {newest} failed, nothing was changed: {_reason(error)}") from error


def _keep_copy(file: Path, revision: str) -> Path:
    """Copy the database as it is before the running transaction; whole on disk, or not there."""
    copy = file.with_name(f"{file.name}.{revision}")
    unfinished = copy.with_name(copy.name + ".unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(0o600)
        # By a connection of its own: SQLite does not copy by one that is about to write.
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
        shutil.copymode(file, unfinished)
        unfinished.replace(copy)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)  # it may be what fills the disk
        raise CannotOpen(
            f"{copy}: no copy of the database could be kept before its migration: {_reason(error)}"
        ) from error
    return copy


def _sync_directory(directory: Path) -> None:
    """A file that was just made is there after a power cut only once its directory is on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """In one line, without the statement."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return text.partition("\n")[0] or type(error).__name__
