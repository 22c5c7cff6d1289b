"""Bringing a database to today's revision."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from setuptools import find_namespace_packages
from sqlalchemy import Connection

from imserver.database.engine import open_writer
from imserver.database.errors import CannotOpen
from imserver.database.schema import metadata
from imserver.database.upgrade import MIGRATIONS, VERSION_TABLE, upgrade

#: A step after the newest, as a later version of the program would bring it.
LATER = """
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{newest}"

def upgrade():
    op.create_table("extra", sa.Column("id", sa.Integer, primary_key=True))
    with op.batch_alter_table("user") as table:
        table.add_column(sa.Column("mood", sa.String(10), nullable=False, server_default="calm"))
        table.alter_column("unread", new_column_name="not_read")
    {last}
"""


def newest() -> str:
    return max(path.stem for path in (MIGRATIONS / "versions").glob("0*.py"))


def later_program(path: Path, last: str = "pass") -> Path:
    """The migrations of a later version of the program."""
    migrations = path / "migrations 100%"
    shutil.copytree(MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    (migrations / "versions" / "later.py").write_text(LATER.format(newest=newest(), last=last))
    return migrations


def bring_up(file: Path, migrations: Path = MIGRATIONS) -> None:
    engine = open_writer(f"sqlite:///{file}")
    try:
        upgrade(engine, migrations)
    finally:
        engine.dispose()


def dump(file: Path) -> list[str]:
    """All that is in a database, as SQL, in an order of its own."""
    with closing(sqlite3.connect(file)) as connection:
        return sorted(connection.iterdump())


def execute(file: Path, *statements: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "imserver.db"


def test_upgraded_equals_fresh(file: Path, tmp_path: Path) -> None:
    """What the migrations build is to the letter what the schema says."""
    bring_up(file)
    as_schema = tmp_path / "schema.db"
    engine = open_writer(f"sqlite:///{as_schema}")
    with engine.begin() as connection:
        metadata.create_all(connection)
    engine.dispose()
    assert [line for line in dump(file) if VERSION_TABLE not in line] == dump(as_schema)
    assert execute(file, f"SELECT * FROM {VERSION_TABLE}") == [(newest(),)]  # noqa: S608  a constant


def test_alembic_finds_no_difference(file: Path) -> None:
    """Alembic's own comparison, which also looks at types."""
    bring_up(file)
    engine = open_writer(f"sqlite:///{file}")

    def differences(connection: Connection) -> list[object]:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    with engine.begin() as connection:
        assert differences(connection) == []
        connection.exec_driver_sql("ALTER TABLE app ADD COLUMN mood TEXT")
        assert len(differences(connection)) == 1  # so it would find one
    engine.dispose()


def test_a_database_of_today_is_left_alone(file: Path, tmp_path: Path) -> None:
    """Starting again changes nothing and keeps no copy."""
    bring_up(file)
    execute(file, "INSERT INTO app VALUES (7, 'demo', x'00', 5)")
    before = dump(file)
    bring_up(file)
    assert dump(file) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"imserver.db", "imserver.db-wal", "imserver.db-shm"}


def test_an_older_database_is_migrated_and_a_copy_kept(file: Path, tmp_path: Path) -> None:
    """Data stays, the result equals a fresh database of the later program, and the copy what was there before."""
    migrations = later_program(tmp_path)
    bring_up(file)
    file.chmod(0o640)
    execute(file, "INSERT INTO user (appid, uid, name, unread) VALUES (7, 1, 'Ann', 3)")
    before = dump(file)

    bring_up(file, migrations)

    assert execute(file, "SELECT name, not_read, mood FROM user") == [("Ann", 3, "calm")]
    copy = tmp_path / f"imserver.db.{newest()}"
    assert dump(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob("*.unfinished"))
    fresh = tmp_path / "fresh.db"
    bring_up(fresh, migrations)
    assert not list(tmp_path.glob("fresh.db.*"))  # nothing to copy
    execute(file, "DELETE FROM user")
    assert dump(file) == dump(fresh)


def test_a_migration_that_fails_changes_nothing(file: Path, tmp_path: Path) -> None:
    """Tables that it had made or altered before it failed are as they were, and the next try succeeds."""
    bring_up(file)
    execute(file, "INSERT INTO user (appid, uid, name) VALUES (7, 1, 'Ann')")
    before = dump(file)
    migrations = later_program(tmp_path, 'op.execute("INSERT INTO nowhere VALUES (1)")')
    with pytest.raises(CannotOpen, match="migrating to later failed, nothing was changed: no such table: nowhere"):
        bring_up(file, migrations)
    assert dump(file) == before
    (migrations / "versions" / "later.py").write_text(LATER.format(newest=newest(), last="pass"))
    bring_up(file, migrations)
    assert execute(file, "SELECT name, mood FROM user") == [("Ann", "calm")]


def test_a_fresh_database_is_built_whole_or_not_at_all(file: Path, tmp_path: Path) -> None:
    """A failure on the way leaves an empty file, which the next start builds."""
    migrations = later_program(tmp_path, "raise RuntimeError('power cut')")
    with pytest.raises(CannotOpen, match="power cut"):
        bring_up(file, migrations)
    assert execute(file, "SELECT * FROM sqlite_master") == []
    bring_up(file)
    assert execute(file, "SELECT * FROM app") == []


def test_no_migration_without_a_copy(file: Path, tmp_path: Path) -> None:
    """Where the copy cannot be kept the database is left as it is."""
    bring_up(file)
    before = dump(file)
    (tmp_path / f"imserver.db.{newest()}").mkdir()
    with pytest.raises(CannotOpen, match=r"could be kept before its migration: Is a directory$"):
        bring_up(file, later_program(tmp_path))
    assert dump(file) == before
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_newer_database_is_refused(file: Path, tmp_path: Path) -> None:
    """One line says that the program is too old; nothing is touched."""
    bring_up(file, later_program(tmp_path))
    before = dump(file)
    with pytest.raises(CannotOpen) as refused:
        bring_up(file)
    assert str(refused.value) == (
        f"{file}: was written by a newer imserver (its revision is later, this program knows up to {newest()}); "
        "install that version, or restore a copy from before"
    )
    assert dump(file) == before


def test_tables_of_somebody_else_are_refused(file: Path) -> None:
    """A database that has a table of one of our names, but is not ours, is not touched."""
    execute(file, "CREATE TABLE user (id INTEGER)", "INSERT INTO user VALUES (1)")
    before = dump(file)
    with pytest.raises(CannotOpen, match="has a table user but is no database of imserver"):
        bring_up(file)
    assert dump(file) == before


@pytest.mark.parametrize("content", [b"not a database, but some text that is longer than a header " * 20, b"x" * 99])
def test_a_file_that_is_no_database(file: Path, content: bytes) -> None:
    """One line, and the file stays."""
    file.write_bytes(content)
    with pytest.raises(CannotOpen) as refused:
        bring_up(file)
    assert str(refused.value) == f"{file}: file is not a database"
    assert file.read_bytes() == content


def test_an_empty_file_becomes_a_database(file: Path) -> None:
    """A start that was interrupted before anything was written is no obstacle."""
    file.touch()
    bring_up(file)
    assert execute(file, "SELECT * FROM app") == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """One line that names the file."""
    file = tmp_path / "nowhere" / "imserver.db"
    with pytest.raises(CannotOpen) as refused:
        bring_up(file)
    assert str(refused.value) == f"{file}: unable to open database file"


def test_a_database_that_somebody_writes_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is not given up in time is one line too."""
    monkeypatch.setattr("imserver.database.engine.BUSY_SECONDS", 0.01)
    bring_up(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CannotOpen) as refused:
            bring_up(file)
    assert str(refused.value) == f"{file}: database is locked"


def test_migrations_are_packaged() -> None:
    """The wheel takes what setuptools finds: the environment and the steps are packages without data files."""
    found = find_namespace_packages(str(MIGRATIONS.parents[2]), include=["imserver*"])
    assert {"imserver.database.migrations", "imserver.database.migrations.versions"} <= set(found)
    assert {path.suffix for path in MIGRATIONS.rglob("*") if path.is_file()} <= {".py", ".pyc"}
