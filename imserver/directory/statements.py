"""How the directory asks a database: many values at once, rows in one piece, refusals that undo nothing of others."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from sqlalchemy import Column, Connection, LargeBinary, Select, Table, bindparam, func, insert, select, tuple_

from imserver.database import schema
from imserver.interfaces import AlreadyExists, NotFound

Result = TypeVar("Result")
Row = TypeVar("Row", bound=tuple[Any, ...])
Value = TypeVar("Value")

#: About what a waiting write of one row costs, in bytes.
ROW_SIZE: Final = 200
#: Values in one IN (...), at most.
_VALUES_AT_ONCE: Final = 512
#: Databases to and from which rows go as one JSON value. For each row that it fetches or adds SQLite's driver lets go
#: of the GIL, and may then wait for the reactor's thread to give it back; others send and fetch in large pieces.
JSON_DIALECTS: Final = frozenset({"sqlite"})


class Binary(bytes):
    """A value of a binary column."""


def _binary(_type: type, text: Any) -> Binary:
    return Binary.fromhex(text)


class Rows(Generic[Row]):
    """All rows of a statement, in one piece (`JSON_DIALECTS`)."""

    def __init__(self, statement: "Select[*tuple[Any, ...]]", row: type[Row]) -> None:
        """
        Args:
            statement: a SELECT.
            row: the type of its rows, `Binary` for those columns.
        """
        columns = statement.subquery().c
        # JSON has no bytes: they come as hex.
        values = [func.hex(column) if isinstance(column.type, LargeBinary) else column for column in columns]
        self._statement = statement
        self._in_one_row = select(func.json_group_array(func.json_array(*values)))
        self._decode = msgspec.json.Decoder(list[row], dec_hook=_binary).decode  # type: ignore[valid-type]  # a value

    def fetch(self, connection: Connection, values: Mapping[str, object]) -> list[Row]:
        if connection.dialect.name in JSON_DIALECTS:
            return self._decode(connection.execute(self._in_one_row, values).scalar_one())
        return [cast(Row, tuple(row)) for row in connection.execute(self._statement, values)]


class Keys:
    """Which of many keys a table has.

    Databases find rows by a list of composite keys, but SQLite would look at the whole table for that. It gets the list
    as a table, which it makes of JSON.
    """

    def __init__(self, *columns: Column[Any]) -> None:
        """
        Args:
            columns: integers, the first columns of an index.
        """
        key, wanted = tuple_(*columns), func.json_each(bindparam("keys")).table_valued("value").c.value
        parts = [func.json_extract(wanted, f"$[{number}]") for number in range(len(columns))]
        self._plain = select(*columns).where(key.in_(bindparam("keys", expanding=True)))
        self._json = Rows(select(*columns).where(key.in_(select(*parts))), tuple[int, ...])

    def found(self, connection: Connection, keys: Iterable[tuple[int, ...]]) -> set[tuple[int, ...]]:
        found: set[tuple[int, ...]] = set()
        for some in chunks(keys):
            if connection.dialect.name in JSON_DIALECTS:
                found.update(self._json.fetch(connection, {"keys": msgspec.json.encode(some).decode()}))
            else:
                found.update(tuple(row) for row in connection.execute(self._plain, {"keys": some}))
        return found


class NewRows:
    """Adds rows that differ in one column, in one piece (`JSON_DIALECTS`)."""

    def __init__(self, table: Table, column: str, *same: str) -> None:
        """
        Args:
            column: in which they differ, of integers.
            same: the columns in which they do not.
        """
        value = func.json_each(bindparam("values")).table_valued("value").c.value
        constants = [bindparam(f"same_{name}", type_=table.c[name].type) for name in same]
        self._column = column
        self._plain = insert(table)
        self._json = insert(table).from_select([*same, column], select(*constants, value))

    def add(self, connection: Connection, same: Mapping[str, object], values: Collection[int]) -> None:
        if connection.dialect.name in JSON_DIALECTS:
            constants = {f"same_{name}": constant for name, constant in same.items()}
            connection.execute(self._json, {**constants, "values": msgspec.json.encode(values).decode()})
        elif values:
            connection.execute(self._plain, [{**same, self._column: value} for value in values])


def chunks(values: Iterable[Value]) -> Iterator[list[Value]]:
    """The values in lists whose lengths are powers of two, the last value repeated where needed: few lengths mean few
    statements, and the driver keeps them compiled."""
    rest = list(values)
    while rest:
        chunk, rest = rest[:_VALUES_AT_ONCE], rest[_VALUES_AT_ONCE:]
        chunk += chunk[-1:] * ((1 << (len(chunk) - 1).bit_length()) - len(chunk))
        yield chunk


def refusable(connection: Connection, call: Callable[[Connection], Any]) -> Any:
    """The result of a call. A refusal is a result too: to the lane it would be trouble with the database, which undoes
    what others do in the same transaction."""
    try:
        return call(connection)
    except (AlreadyExists, NotFound) as refusal:
        return refusal


def run_each(connection: Connection, calls: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    """The results of the calls. Each refuses before it writes anything."""
    return [refusable(connection, call) for call in calls]


def answer(result: Any) -> Any:
    """What `refusable` gave, on the reactor's thread: a refusal is raised there."""
    if isinstance(result, AlreadyExists | NotFound):
        raise result
    return result


def require_app(connection: Connection, appid: int) -> None:
    if connection.execute(select(schema.app.c.appid).where(schema.app.c.appid == appid)).first() is None:
        raise NotFound(f"there is no app {appid}")
