"""What the SQL timelines promise besides their interface: restarts, failures, ids, the sweep of resends."""

from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from imserver.interfaces import Unavailable
from imserver.model import USER_TIMELINE, Entry, NewMessage, Resend, Stored, TimelineKey, UserKey
from imserver.storage import heads, resends, sqlite, sync_keys
from imserver.storage import timelines as module
from tests.contract.sql_storage import SqlStorage
from tests.contract.storing import store
from tests.leaks import FlushLoggedErrors


def user(uid: int) -> TimelineKey:
    return TimelineKey(7, USER_TIMELINE, uid)


ALICE, BOB = user(1), user(2)


def message(body: bytes, *to: TimelineKey, digest: bytes = b"", window: int = 600) -> NewMessage:
    return NewMessage(4, 0, body, 5, to, 0, Resend(digest.ljust(16, b"\0"), window) if digest else None)


@pytest_twisted.async_yield_fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqlStorage]:
    storage = SqlStorage(tmp_path)
    yield storage
    await storage.stop()


@pytest_twisted.ensureDeferred
async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """Entries, heads, saved keys and resends come from the database, not from this process."""
    storage = SqlStorage(tmp_path)
    first = await store(storage.timelines, message(b"before", ALICE, BOB, digest=b"d"))
    await storage.stop()
    storage = SqlStorage(tmp_path)
    try:
        again = await store(storage.timelines, message(b"before", ALICE, BOB, digest=b"d"))
        assert again == Stored(first.message, (2,), resent=True)
        after = await store(storage.timelines, message(b"after", ALICE, BOB))
        assert after.keys == (3, 3)
        entries = await storage.timelines.read(BOB, 0, 10)
        assert list(entries) == [Entry(2, 4, 0, b"before", 0), Entry(3, 4, 0, b"after", 0)]
    finally:
        await storage.stop()


@pytest_twisted.ensureDeferred
async def test_a_bad_message_takes_no_other_with_it(
    storage: SqlStorage, flush_logged_errors: FlushLoggedErrors
) -> None:
    """What cannot be stored fails alone; those that waited with it are stored in order, without a gap."""
    release = hold_writes(storage)
    bad = message(b"bad", TimelineKey(7, USER_TIMELINE, 2**63))
    waiting = [store(storage.timelines, one) for one in (message(b"1", ALICE), bad, message(b"2", ALICE, digest=b"d"))]
    again = store(storage.timelines, message(b"2", ALICE, digest=b"d"))
    await release()
    results: list[tuple[bool, Any]] = await DeferredList([*waiting, again], consumeErrors=True)
    assert [done for done, _ in results] == [True, False, True, True]
    assert results[1][1].check(OverflowError)
    assert [results[n][1].keys for n in (0, 2, 3)] == [(2,), (3,), (3,)]
    assert [results[n][1].resent for n in (0, 2, 3)] == [False, False, True]
    assert len(flush_logged_errors(OverflowError)) == 1
    assert await storage.rows("SELECT count(*) FROM message") == [(2,)]


@pytest_twisted.ensureDeferred
async def test_a_failed_transaction_leaves_nothing(storage: SqlStorage, flush_logged_errors: FlushLoggedErrors) -> None:
    """Where the entries fail neither messages, keys nor resends stay behind, on disk or in memory."""
    await store(storage.timelines, message(b"1", ALICE))
    refusing = "CREATE TRIGGER refusing BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'refused'); END"
    await storage.change(lambda connection: connection.execute(text(refusing)))
    second = message(b"2", BOB, ALICE, digest=b"d")
    results: list[tuple[bool, Any]] = await DeferredList([store(storage.timelines, second)], consumeErrors=True)
    assert results[0][1].check(Unavailable)
    assert len(flush_logged_errors()) == 1
    for table, rows in (("message", 1), ("resend", 0), ("entry", 1)):
        assert await storage.rows(f"SELECT count(*) FROM {table}") == [(rows,)], table  # noqa: S608  of this test
    assert await storage.timelines.head(ALICE) == 2
    await storage.change(lambda connection: connection.execute(text("DROP TRIGGER refusing")))
    assert (await store(storage.timelines, second)).keys == (2, 3)
    assert (await store(storage.timelines, second)).resent


@pytest_twisted.ensureDeferred
async def test_heads_that_memory_let_go_are_read_again(storage: SqlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has room for so many heads; those of the transaction under way stay in it."""
    monkeypatch.setattr(heads, "_MOST", 3)
    for n in range(4):
        for one in range(2):
            stored = await store(storage.timelines, message(b"x", user(n), user(n + 1)))
            assert stored.keys == (2 + one + 2 * (n > 0), 2 + one)
    keys = [list(await storage.timelines.read(user(n), 0, 10)) for n in range(5)]
    assert [[entry.key for entry in entries] for entries in keys] == [[2, 3], *[[2, 3, 4, 5]] * 3, [2, 3]]


@pytest_twisted.ensureDeferred
async def test_messages_are_refused_at_once_when_too_many_wait(storage: SqlStorage) -> None:
    """Over its bound the lane takes nothing more, and says so."""
    await storage.database.writes.stop()
    results: list[tuple[bool, Any]] = await DeferredList(
        [store(storage.timelines, message(b"1", ALICE))], consumeErrors=True
    )
    assert results[0][1].check(Unavailable)


@pytest_twisted.ensureDeferred
async def test_an_id_is_never_given_twice(storage: SqlStorage) -> None:
    """After the newest message was deleted, an entry that still names it does not show the next one."""
    stored = await gatherResults([store(storage.timelines, message(b"secret %d" % n, ALICE)) for n in range(3)])
    await storage.change(lambda connection: connection.execute(text("DELETE FROM message")))
    after = await store(storage.timelines, message(b"for bob", BOB))
    assert after.message > max(one.message for one in stored)
    assert list(await storage.timelines.read(ALICE, 0, 10)) == []


@pytest_twisted.ensureDeferred
async def test_what_is_over_is_forgotten(storage: SqlStorage, tmp_path: Path) -> None:
    """The sweep deletes resends whose window is over, and no other."""
    seconds = 1000.0
    timelines = module.Timelines(storage.database.writes, storage.database.reads, lambda: seconds, 1000, 0)
    short = [store(timelines, message(b"s", user(n % 7), digest=b"s%d" % n, window=600)) for n in range(500)]
    await gatherResults(short)
    await gatherResults(
        [store(timelines, message(b"l", user(n % 7), digest=b"l%d" % n, window=900)) for n in range(30)]
    )
    seconds += 599
    assert await timelines.forget_resends() == 0
    seconds += 1
    assert await timelines.forget_resends() == 500
    assert await storage.rows("SELECT count(*) FROM resend") == [(30,)]
    assert (await store(timelines, message(b"l", user(0), digest=b"l0"))).resent
    assert not (await store(timelines, message(b"s", user(0), digest=b"s0"))).resent


@pytest_twisted.ensureDeferred
async def test_the_sweep_goes_in_small_steps(storage: SqlStorage) -> None:
    """One call looks at so many resends, some in each transaction; the next goes on behind them."""
    add = (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
        " INSERT INTO resend SELECT CAST(printf('%024d', i) AS BLOB), i, 2, 0 FROM n"
    )
    await storage.change(lambda connection: connection.execute(text(add)))
    before = sum(storage.metrics.batch_size.counts)
    assert await storage.timelines.forget_resends() == 20_000
    assert sum(storage.metrics.batch_size.counts) - before == 10
    assert await storage.rows("SELECT min(message), count(*) FROM resend") == [(20_001, 30_000)]
    assert await storage.timelines.forget_resends() == 20_000
    assert await storage.timelines.forget_resends() == 10_000
    assert await storage.timelines.forget_resends() == 0


@pytest_twisted.ensureDeferred
async def test_the_sweep_keeps_up_with_what_is_added(storage: SqlStorage) -> None:
    """After many messages a call looks at twice as many resends."""
    storage.timelines._unswept = 20_000
    add = (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
        " INSERT INTO resend SELECT CAST(printf('%024d', i) AS BLOB), i, 2, 0 FROM n"
    )
    await storage.change(lambda connection: connection.execute(text(add)))
    assert await storage.timelines.forget_resends() == 40_000
    assert await storage.timelines.forget_resends() == 10_000


@pytest_twisted.ensureDeferred
async def test_a_page_reads_no_more_than_it_gives(storage: SqlStorage) -> None:
    """Where the page is full reading stops: bodies behind it are not fetched."""
    await gatherResults([store(storage.timelines, message(b"x" * 600, ALICE)) for _ in range(200)])
    fetched = 0

    def counting(connection: Connection) -> list[Entry]:
        driver: Any = connection.connection.dbapi_connection

        def count(_cursor: object, row: Any) -> Any:
            nonlocal fetched
            fetched += 1
            return row

        driver.row_factory = count
        try:
            return module._page(connection, ALICE, 0, 3000, 1000)
        finally:
            driver.row_factory = None

    page = await storage.database.reads.read("test", counting)
    assert [entry.key for entry in page] == [2]
    assert fetched == 2


@pytest_twisted.ensureDeferred
async def test_what_was_created_later_is_found_in_few_steps(storage: SqlStorage) -> None:
    """However many entries are older: who joined a large group does not have them all looked at."""
    sent = [NewMessage(4, 0, b"x", 5 + n, (ALICE,)) for n in range(4000)]
    await gatherResults([store(storage.timelines, one) for one in sent])
    said: list[str] = []

    def counting(connection: Connection) -> list[Entry]:
        driver: Any = connection.connection.dbapi_connection
        driver.set_trace_callback(said.append)
        try:
            return module._page(connection, ALICE, 1, 10, 1000, created_after=5 + 3000)
        finally:
            driver.set_trace_callback(None)

    page = await storage.database.reads.read("test", counting)
    assert [entry.key for entry in page] == list(range(3003, 3013))
    assert len(said) <= 2 + 13


@pytest_twisted.ensureDeferred
async def test_the_driver_keeps_few_statements(storage: SqlStorage) -> None:
    """Batches of any size use the same few texts, so that the driver finds them compiled."""
    texts: set[str] = set()

    def listen(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        # The text with its question marks: sqlite3 would put the values in.
        driver.set_trace_callback(lambda text: texts.add(text.split("VALUES")[0] + str(text.count("),("))))

    await storage.change(listen)
    for size in (*range(1, 40), 511, 700):
        sent = [message(b"x", user(n), user(1000 + n), digest=b"%d-%d" % (size, n)) for n in range(size)]
        await gatherResults([store(storage.timelines, one) for one in sent])
    await storage.change(silence)
    inserts = {text for text in texts if text.startswith("INSERT")}
    assert len(inserts) <= 4 * 31 + 1


@pytest_twisted.ensureDeferred
async def test_no_statement_looks_at_a_whole_table(storage: SqlStorage) -> None:
    """What is said for every message, page and key finds its rows by their keys, however large the tables are."""
    said: set[str] = set()

    def listen(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.set_trace_callback(said.add)

    await storage.change(listen)
    await store(storage.timelines, message(b"x", ALICE, BOB, digest=b"d"))
    await store(storage.timelines, message(b"x", ALICE, BOB, digest=b"d"))
    await storage.sync_keys.save_key(UserKey(7, 1), 5)
    await storage.change(silence)

    def read(connection: Connection) -> None:
        listen(connection)
        assert module._read_heads(connection, [ALICE]) == [2]
        assert len(module._page(connection, ALICE, 0, 10, 1000, created_after=4)) == 1
        assert sync_keys._read(connection, [sync_keys._Place(UserKey(7, 1), 0)]) == [5]
        silence(connection)

    await storage.database.reads.read("test", read)
    statements = [text for text in said if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))]
    assert len(statements) >= 8
    for statement in statements:
        plan = await storage.rows("EXPLAIN QUERY PLAN " + statement.replace(":", r"\:"))
        steps = [detail for *_numbers, detail in plan]
        scans = [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step and step != "SCAN asked"]
        assert not scans, (statement, steps)


def silence(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    driver.set_trace_callback(None)


def hold_writes(storage: SqlStorage) -> Callable[[], Deferred[None]]:
    """Keep the write lane busy, so that what is submitted waits together. Gives what lets it go on."""
    gate = Event()
    held = storage.change(lambda _connection: gate.wait(30))

    def release() -> Deferred[None]:
        gate.set()
        return held

    return release


@pytest_twisted.ensureDeferred
async def test_resends_that_moved_are_still_known(storage: SqlStorage) -> None:
    """Whatever of them is in memory, in the recent table or in the ordered one: each is recognised, before and after a
    restart, and also where the transaction that was to move them failed."""
    database = storage.database
    few = 10
    first = module.Timelines(database.writes, database.reads, lambda: 1000.0, 1000, few)
    sent = [message(b"m%d" % n, user(n % 3), digest=b"d%d" % n) for n in range(35)]
    stored = []
    for at in range(0, len(sent), 7):
        stored += await gatherResults([store(first, one) for one in sent[at : at + 7]])
    assert not any(each.resent for each in stored)
    recent = "SELECT count(*) FROM message WHERE id > (SELECT max(message) FROM resend_moved)"
    [(recently,)] = await storage.rows(recent)
    [(ordered,)] = await storage.rows("SELECT count(*) FROM resend")
    assert (recently > 0, ordered > 0, recently + ordered) == (True, True, 35)
    after_restart = module.Timelines(database.writes, database.reads, lambda: 1000.0, 1000, few)
    for timelines in (first, after_restart):
        again = await gatherResults([store(timelines, one) for one in sent])
        assert [each.message for each in again] == [each.message for each in stored]
        assert all(each.resent for each in again)


@pytest_twisted.ensureDeferred
async def test_a_move_that_failed_forgets_nothing(
    storage: SqlStorage, flush_logged_errors: FlushLoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that moves resends may fail after the move: they stay known."""
    timelines = module.Timelines(storage.database.writes, storage.database.reads, lambda: 1000.0, 1000, 3)
    sent = [message(b"m%d" % n, ALICE, digest=b"d%d" % n) for n in range(3)]
    await gatherResults([store(timelines, one) for one in sent])
    move = sqlite.move_recent_resends

    def move_and_fail(cursor: Any, last: int, now: int) -> None:
        move(cursor, last, now)
        raise ZeroDivisionError

    monkeypatch.setattr(sqlite, "move_recent_resends", move_and_fail)
    lost = message(b"lost", ALICE, digest=b"lost")
    with pytest.raises(ZeroDivisionError):
        await store(timelines, lost)
    monkeypatch.undo()
    assert flush_logged_errors(ZeroDivisionError)
    again = await gatherResults([store(timelines, one) for one in sent])
    assert all(each.resent for each in again)
    assert not (await store(timelines, lost)).resent
    assert (await store(timelines, lost)).resent
    assert all(each.resent for each in await gatherResults([store(timelines, one) for one in sent]))


@pytest_twisted.ensureDeferred
async def test_after_a_sweep_only_what_may_be_old_is_looked_up(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter in memory knows of new messages that they are in no table; what moved before or after is found."""
    database = storage.database
    timelines = module.Timelines(database.writes, database.reads, lambda: 1000.0, 1000, 5)
    looked_up: list[bytes] = []
    find = sqlite.find_resends

    def finding(cursor: Any, digests: list[bytes]) -> list[tuple[bytes, int, int, int]]:
        looked_up.extend(digests)
        return find(cursor, digests)

    monkeypatch.setattr(sqlite, "find_resends", finding)
    sent = [message(b"m%d" % n, ALICE, digest=blake2b(b"%d" % n, digest_size=16).digest()) for n in range(40)]
    for one in sent[:20]:
        await store(timelines, one)
    assert len(looked_up) == 20
    await timelines.forget_resends()
    looked_up.clear()
    for one in sent[20:]:
        assert not (await store(timelines, one)).resent
    assert looked_up == []
    assert all([(await store(timelines, one)).resent for one in sent])
    assert len(looked_up) >= 30


def test_a_filter_never_denies_what_it_has() -> None:
    """And seldom has what it was not given."""
    marks = [blake2b(b"%d" % n, digest_size=24).digest() for n in range(20_000)]
    known = resends.Filter()
    known.add(marks[:10_000])
    assert known.may_have(marks[:10_000]) == marks[:10_000]
    assert len(known.may_have(marks[10_000:])) < 100


@pytest_twisted.ensureDeferred
async def test_sweeps_that_overlap(
    storage: SqlStorage, flush_logged_errors: FlushLoggedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is asked for while another goes on, and fails, does not make that one forget what it saw."""
    monkeypatch.setattr(module, "_SOME_RESENDS", module._SOME_RESENDS.limit(4))
    database = storage.database
    timelines = module.Timelines(database.writes, database.reads, lambda: 1000.0, 1000, 5)
    sent = [message(b"m%d" % n, ALICE, digest=blake2b(b"%d" % n, digest_size=16).digest()) for n in range(20)]
    for one in sent:
        await store(timelines, one)
    begins = resends.Resends.sweep_begins
    began = Event()

    def begin_once(self: resends.Resends) -> None:
        begins(self)
        if began.is_set():
            raise ZeroDivisionError
        began.set()

    monkeypatch.setattr(resends.Resends, "sweep_begins", begin_once)
    sweeps = [timelines.forget_resends()]
    assert began.wait(30)
    sweeps.append(timelines.forget_resends())
    assert [done for done, _ in await DeferredList(sweeps, consumeErrors=True)] == [True, False]
    assert flush_logged_errors(ZeroDivisionError)
    assert all([(await store(timelines, one)).resent for one in sent])


@pytest_twisted.ensureDeferred
async def test_fewer_resends_in_memory_than_before(storage: SqlStorage) -> None:
    """More may be there than are kept now, and the first message may be none that is recognised."""
    database = storage.database
    sent = [message(b"m%d" % n, ALICE, digest=b"d%d" % n) for n in range(9)]
    before = module.Timelines(database.writes, database.reads, lambda: 1000.0, 1000, 10)
    await gatherResults([store(before, one) for one in sent])
    now = module.Timelines(database.writes, database.reads, lambda: 1000.0, 1000, 3)
    assert (await store(now, message(b"unmarked", ALICE))).keys == (11,)
    assert not (await store(now, message(b"marked", ALICE, digest=b"e"))).resent
    assert all([(await store(now, one)).resent for one in sent])


@pytest_twisted.ensureDeferred
async def test_commits_that_fail(storage: SqlStorage, flush_logged_errors: FlushLoggedErrors) -> None:
    """That of a transaction, for the sake of whatever else stands in it, and that of a message tried alone: keys and
    resends are those of the database, for the messages before, after and in between."""
    engines: list[Engine] = []
    await storage.change(lambda connection: engines.append(connection.engine))
    failing = iter([False, True, False, True, False, False])  # of what holds the lane, of all together, of each alone

    def fail(_connection: Connection) -> None:
        if next(failing):
            raise OperationalError("COMMIT", None, Exception("disk I/O error"))

    before = await store(storage.timelines, message(b"0", ALICE, digest=b"d0"))
    began, gate = Event(), Event()

    def hold(_connection: Connection) -> None:
        began.set()
        gate.wait(30)

    held = storage.change(hold)
    assert began.wait(30)
    sent = [message(b"%d" % n, ALICE, BOB, digest=b"d%d" % n) for n in range(1, 4)]
    waiting: list[Deferred[Any]] = [store(storage.timelines, one) for one in sent]
    waiting.append(storage.sync_keys.save_key(UserKey(7, 1), 5))
    event.listen(engines[0], "commit", fail)
    gate.set()
    await held
    results: list[tuple[bool, Any]] = await DeferredList(waiting, consumeErrors=True)
    event.remove(engines[0], "commit", fail)
    assert [done for done, _ in results] == [True, False, True, True]
    assert results[1][1].check(Unavailable)
    assert [results[n][1].keys for n in (0, 2)] == [(3, 2), (4, 3)]
    assert len(flush_logged_errors(OperationalError)) == 1
    again = [await store(storage.timelines, one) for one in (message(b"0", ALICE, digest=b"d0"), *sent)]
    assert [one.resent for one in again] == [True, True, False, True]
    assert (again[0].message, again[2].keys) == (before.message, (5, 4))
    assert [entry.body for entry in await storage.timelines.read(ALICE, 0, 10)] == [b"0", b"1", b"3", b"2"]
