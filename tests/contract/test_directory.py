"""IDirectory, as every implementation and the fake have to do it."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy.exc import IntegrityError, OperationalError
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from imserver.directory import statements
from imserver.directory.sql import SqlDirectory
from imserver.interfaces import IDirectory, Unavailable
from imserver.model import SignIn, UserKey
from imserver.protocol.commands import Platform
from tests.contract.sql_directory import SqlHouse
from tests.fakes.directory import FakeDirectory
from tests.leaks import FlushLoggedErrors

ANY = FakeDirectory | SqlDirectory


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[SqlHouse]:
    house = SqlHouse(tmp_path)
    yield house
    await house.stop()


@pytest.fixture(params=["fake", "sql", "sql without JSON"])
def directory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ANY:
    if request.param == "fake":
        return FakeDirectory()
    if request.param == "sql without JSON":
        monkeypatch.setattr(statements, "JSON_DIALECTS", frozenset())
    house: SqlHouse = request.getfixturevalue("house")
    return house.directory


async def token_of(directory: ANY, uid: int, appid: int = 7) -> bytes:
    if appid not in {app.appid for app in await directory.apps()}:
        await directory.create_app("app", appid)
    (token,) = await directory.issue_tokens(appid, [uid])
    return token.encode()


def test_provides_the_interface(directory: ANY) -> None:
    """The declaration is true."""
    assert verifyObject(IDirectory, directory)


@pytest_twisted.ensureDeferred
async def test_token_stands_for_its_user(directory: ANY) -> None:
    """Each token gives the user of the app that it was issued for."""
    first = await token_of(directory, 1)
    other_app = await token_of(directory, 1, appid=8)
    assert await directory.sign_in(first, b"phone", Platform.ANDROID) == SignIn(UserKey(7, 1), 1)
    assert await directory.sign_in(other_app, b"phone", Platform.ANDROID) == SignIn(UserKey(8, 1), 1)


@pytest.mark.parametrize("token", [b"", b"nobody's", b"\xff\xfe\x00", b"x" * 255])
@pytest_twisted.ensureDeferred
async def test_stranger_gets_nothing(directory: ANY, token: bytes) -> None:
    """A token of nobody gives None, and its device no number: the next one gets number 1."""
    good = await token_of(directory, 1)
    assert await directory.sign_in(token, b"stranger", Platform.ANDROID) is None
    sign_in = await directory.sign_in(good, b"phone", Platform.ANDROID)
    assert sign_in == SignIn(UserKey(7, 1), 1)


@pytest_twisted.ensureDeferred
async def test_part_of_a_token_is_no_token(directory: ANY) -> None:
    """Neither the beginning of a token nor more than it is one."""
    token = await token_of(directory, 1)
    for wrong in (token[:-1], token + b"x", token.swapcase()):
        assert await directory.sign_in(wrong, b"phone", Platform.ANDROID) is None


@pytest_twisted.ensureDeferred
async def test_device_numbers_count_distinct_pairs(directory: ANY) -> None:
    """The n-th distinct (device, platform) pair gets n, whoever has it, and keeps it."""
    one, two = await token_of(directory, 1), await token_of(directory, 2)
    asked = [
        (one, b"a", 1),
        (one, b"a", 2),
        (two, b"a", 2),
        (one, b"b", 2),
        (one, b"a", -1),
        (two, b"\x00\xff", 2),
        (two, b"d" * 255, 2),
        (one, b"a", 1),
    ]
    numbers = []
    for token, device, platform in asked:
        sign_in = await directory.sign_in(token, device, platform)
        assert sign_in is not None
        numbers.append(sign_in.device)
    assert numbers == [1, 2, 2, 3, 4, 5, 6, 1]


@pytest_twisted.ensureDeferred
async def test_web_and_nameless_devices_have_number_0(directory: ANY) -> None:
    """Platform web and an empty device string give 0, and use up no number."""
    token = await token_of(directory, 1)
    for device, platform in ((b"guid", Platform.WEB), (b"", Platform.WEB), (b"", Platform.IOS)):
        assert await directory.sign_in(token, device, platform) == SignIn(UserKey(7, 1), 0)
    assert await directory.sign_in(token, b"guid", Platform.IOS) == SignIn(UserKey(7, 1), 1)


@pytest_twisted.ensureDeferred
async def test_many_at_once_share_numbers(directory: ANY) -> None:
    """New devices that sign in at the same time, each several times, get dense numbers, one each."""
    token = await token_of(directory, 1)
    devices = [b"device %d" % (n % 150) for n in range(1200)]
    sign_ins = await gatherResults([directory.sign_in(token, device, Platform.ANDROID) for device in devices])
    numbers: dict[bytes, set[int]] = {}
    for device, sign_in in zip(devices, sign_ins, strict=True):
        assert sign_in is not None
        numbers.setdefault(device, set()).add(sign_in.device)
    assert all(len(each) == 1 for each in numbers.values())
    assert sorted(number for each in numbers.values() for number in each) == list(range(1, 151))


@pytest_twisted.ensureDeferred
async def test_batch_gives_each_their_own(directory: ANY) -> None:
    """Of sign-ins that wait together, some with bad tokens, each gets the answer to its own."""
    await directory.create_app("app", 7)
    tokens = await directory.issue_tokens(7, range(1, 701))
    await directory.change_settings(UserKey(7, 5), forbidden=True)
    asked = []
    for uid, token in enumerate(tokens, 1):
        asked.append(directory.sign_in(token.encode(), b"", Platform.ANDROID))
        asked.append(directory.sign_in(b"nobody" + token.encode(), b"", Platform.ANDROID))
        if uid % 7 == 0:
            asked.append(directory.sign_in(token.encode(), b"", Platform.WEB))
    expected: list[SignIn | None] = []
    for uid in range(1, 701):
        expected += [SignIn(UserKey(7, uid), 0, forbidden=uid == 5), None]
        if uid % 7 == 0:
            expected.append(SignIn(UserKey(7, uid), 0))
    assert await gatherResults(asked) == expected


@pytest_twisted.ensureDeferred
async def test_sign_in_carries_settings(directory: ANY) -> None:
    """Who is forbidden or notified stays so over sign-ins."""
    token, user = await token_of(directory, 1), UserKey(7, 1)
    await directory.change_settings(user, forbidden=True)
    assert await directory.sign_in(token, b"", 2) == SignIn(user, 0, forbidden=True)
    await directory.change_settings(user, forbidden=False, notification_on=True)
    assert await directory.sign_in(token, b"", 2) == SignIn(user, 0, notification_on=True)


@pytest_twisted.ensureDeferred
async def test_sign_in_resets_unread(directory: ANY) -> None:
    """The badge's count is remembered, and 0 again after a sign-in with a valid token only."""
    token, user = await token_of(directory, 1), UserKey(7, 1)
    await directory.change_settings(user, name="Ann", notification_on=True)
    await directory.set_unread(user, 3)
    await directory.set_unread(UserKey(7, 2), 4)
    await directory.sign_in(token + b"x", b"", 2)
    assert (await directory.settings(user)).unread == 3
    assert await directory.sign_in(token, b"phone", 2) == SignIn(user, 1, notification_on=True)
    settings = await directory.settings(user)
    assert (settings.unread, settings.name, settings.notification_on) == (0, "Ann", True)
    assert (await directory.settings(UserKey(7, 2))).unread == 4


@pytest_twisted.ensureDeferred
async def test_last_unread_count_counts(directory: ANY) -> None:
    """Of counts that arrive together the last one stays, for each user."""
    await directory.create_app("app", 7)
    users = [UserKey(7, uid) for uid in (1, 2, 3)]
    await gatherResults([directory.set_unread(user, n * user.uid) for n in (5, 0, 9) for user in users])
    assert [(await directory.settings(user)).unread for user in users] == [9, 18, 27]


@pytest_twisted.ensureDeferred
async def test_revoked_token_is_nobody(directory: ANY) -> None:
    """A revoked token does not sign in, the user's other ones do until all are revoked."""
    first, second = await token_of(directory, 1), await token_of(directory, 1)
    await directory.revoke_token(first.decode())
    assert await directory.sign_in(first, b"", 2) is None
    assert await directory.sign_in(second, b"", 2) == SignIn(UserKey(7, 1), 0)
    await directory.revoke_tokens(UserKey(7, 1))
    assert await directory.sign_in(second, b"", 2) is None


@pytest_twisted.ensureDeferred
async def test_sign_in_beside_a_revocation(directory: ANY) -> None:
    """Once a revocation has answered, nobody gets in with that token, not even who had been looked up before it."""
    token, user = await token_of(directory, 1), UserKey(7, 1)
    order: list[object] = []
    for n in range(20):
        # A new device each time, so that the sign-in has something to write after it was looked up.
        directory.sign_in(token, b"device %d" % n, 2).addCallback(order.append)
    await directory.revoke_tokens(user).addCallback(lambda _: order.append("revoked"))
    last = directory.sign_in(token, b"", 2)
    assert await last is None
    while len(order) < 21:
        await directory.sign_in(token, b"", 2)
    assert all(sign_in is None for sign_in in order[order.index("revoked") + 1 :])


@pytest_twisted.ensureDeferred
async def test_fake_can_hold_and_fail() -> None:
    """What the tests of others rely on: answers that wait, in order, and failures."""
    directory = FakeDirectory()
    directory.add_user("token", UserKey(7, 1))
    directory.hold()
    waiting: list[Deferred[SignIn | None]] = [directory.sign_in(token, b"", 2) for token in (b"token", b"no")]
    assert not any(done.called for done in waiting)
    directory.release()
    assert [await done for done in waiting] == [SignIn(UserKey(7, 1), 0), None]
    directory.unavailable = True
    with pytest.raises(Unavailable):
        await directory.sign_in(b"token", b"", 2)


# What only a database can do wrong.


@pytest_twisted.ensureDeferred
async def test_change_overtakes_a_looked_up_sign_in(house: SqlHouse) -> None:
    """A sign-in that was looked up and waits to be written heeds what changes meanwhile: its token, its user."""
    directory = house.directory
    token = await token_of(directory, 1)
    forbidden_token = await token_of(directory, 2)
    forbidden = UserKey(7, 2)
    await directory.set_unread(forbidden, 1)
    go_on = threading.Event()
    writer = house.change(lambda _: go_on.wait(10))
    changes: list[Deferred[Any]] = [
        directory.revoke_token(token.decode()),
        directory.change_settings(forbidden, forbidden=True),
    ]
    sign_ins = [directory.sign_in(token, b"phone", 2), directory.sign_in(forbidden_token, b"", 2)]
    # Those who ask together are answered in order, so that once this one is, the two have been looked up.
    assert await directory.sign_in(b"stranger", b"", 2) is None
    go_on.set()
    for done in (writer, *changes):
        await done
    assert await gatherResults(sign_ins) == [None, SignIn(forbidden, 0, forbidden=True)]


@pytest_twisted.ensureDeferred
async def test_sign_in_of_known_device_writes_nothing(house: SqlHouse) -> None:
    """A sign-in with a known device and nothing unread costs no transaction that writes, a stranger's neither."""
    token = await token_of(house.directory, 1)
    await house.directory.sign_in(token, b"phone", 2)
    before = sum(house.metrics.commit_seconds.counts)
    await gatherResults([house.directory.sign_in(token, b"phone", 2) for _ in range(10)])
    await gatherResults([house.directory.sign_in(b"no", b"other %d" % n, 2) for n in range(10)])
    assert sum(house.metrics.commit_seconds.counts) == before
    assert await house.rows("SELECT number, device FROM device") == [(1, b"phone")]


@pytest_twisted.ensureDeferred
async def test_new_devices_are_written_together(house: SqlHouse) -> None:
    """New devices that wait together share a transaction, the same one twice too."""
    token = await token_of(house.directory, 1)
    before = sum(house.metrics.commit_seconds.counts)
    await gatherResults([house.directory.sign_in(token, b"device %d" % (n % 50), 2) for n in range(100)])
    assert sum(house.metrics.commit_seconds.counts) - before <= 10
    assert house.metrics.writes_failed.values == {}


@pytest_twisted.ensureDeferred
async def test_failed_write_spends_no_number(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """Where the database refuses a device, its sign-in fails with Unavailable, and the next device gets its number."""
    directory = house.directory
    token = await token_of(directory, 1)
    await house.change(
        lambda connection: connection.exec_driver_sql(
            "CREATE TRIGGER refuse AFTER INSERT ON device WHEN new.device = x'62' "
            "BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    )
    asked = [directory.sign_in(token, device, 2) for device in (b"a", b"b", b"c", b"b", b"d")]
    answers: list[object] = []
    for sign_in in asked:
        try:
            answers.append(await sign_in)
        except Unavailable:
            answers.append("unavailable")
    assert flush_logged_errors(IntegrityError)  # the lane told of the batch that was tried first
    user = UserKey(7, 1)
    assert answers == [SignIn(user, 1), "unavailable", SignIn(user, 2), "unavailable", SignIn(user, 3)]
    await house.change(lambda connection: connection.exec_driver_sql("DROP TRIGGER refuse"))
    assert await directory.sign_in(token, b"b", 2) == SignIn(user, 4)


@pytest_twisted.ensureDeferred
async def test_broken_database_is_unavailable(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """A read or write that the database cannot do fails with Unavailable, and with nothing else."""
    directory = house.directory
    token = await token_of(directory, 1)
    await house.change(lambda connection: connection.exec_driver_sql('DROP TABLE "user"'))
    with pytest.raises(Unavailable):
        await directory.sign_in(token, b"", 2)
    with pytest.raises(Unavailable):
        await directory.set_unread(UserKey(7, 1), 1)
    assert flush_logged_errors(OperationalError)  # the lane told of the transaction that failed
