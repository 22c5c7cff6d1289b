"""IAccounts, as every implementation and the fake have to do it."""

import re
from collections.abc import AsyncIterator
from hashlib import md5, sha256
from pathlib import Path

import pytest
import pytest_twisted
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import gatherResults
from zope.interface.verify import verifyObject

from imserver.directory.sql import SqlDirectory
from imserver.interfaces import AlreadyExists, IAccounts, NotFound, Unavailable
from imserver.model import App, UserKey, UserSettings
from tests.contract.sql_directory import SqlHouse
from tests.fakes.directory import FakeDirectory
from tests.leaks import FlushLoggedErrors

ANY = FakeDirectory | SqlDirectory
USER = UserKey(7, 1)


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[SqlHouse]:
    house = SqlHouse(tmp_path)
    yield house
    await house.stop()


@pytest.fixture(params=["fake", "sql"])
def accounts(request: pytest.FixtureRequest) -> ANY:
    if request.param == "fake":
        return FakeDirectory()
    house: SqlHouse = request.getfixturevalue("house")
    return house.directory


async def in_force(accounts: ANY, tokens: list[str]) -> list[bool]:
    return [await accounts.sign_in(token.encode(), b"", 2) is not None for token in tokens]


def test_provides_the_interface(accounts: ANY) -> None:
    """The declaration is true."""
    assert verifyObject(IAccounts, accounts)


@pytest_twisted.ensureDeferred
async def test_apps_are_made_once(accounts: ANY) -> None:
    """An app has the number that was asked for, or the next free one; a taken number is refused and stays as it was."""
    assert await accounts.apps() == []
    assert (await accounts.create_app("demo", 7))[0] == 7
    assert (await accounts.create_app("nine", 9))[0] == 9
    assert (await accounts.create_app("eight"))[0] == 8
    assert (await accounts.create_app("ten"))[0] == 10
    with pytest.raises(AlreadyExists, match="9"):
        await accounts.create_app("again", 9)
    assert await accounts.apps() == [App(7, "demo"), App(8, "eight"), App(9, "nine"), App(10, "ten")]


@pytest_twisted.ensureDeferred
async def test_first_app_may_come_without_a_number(accounts: ANY) -> None:
    """Where there is no app, the first is number 1."""
    assert (await accounts.create_app("one"))[0] == 1


@pytest_twisted.ensureDeferred
async def test_secrets_differ(accounts: ANY) -> None:
    """Every app has a secret of its own, too long to guess."""
    secrets = [(await accounts.create_app("app"))[1] for _ in range(5)]
    assert len(set(secrets)) == 5
    assert all(len(secret) >= 32 for secret in secrets)


@pytest_twisted.ensureDeferred
async def test_apps_made_at_once(accounts: ANY) -> None:
    """Apps that are made at the same time get different numbers; of two that want the same one, one gets it."""
    made = await gatherResults([accounts.create_app("app") for _ in range(5)])
    assert sorted(appid for appid, _ in made) == [1, 2, 3, 4, 5]
    first, second = accounts.create_app("first", 9), accounts.create_app("second", 9)
    assert (await first)[0] == 9
    with pytest.raises(AlreadyExists):
        await second


@pytest_twisted.ensureDeferred
async def test_tokens_are_new_and_fit_the_wire(accounts: ANY) -> None:
    """One token for each uid, in order; all different, with 192 bits or more, at most 255 bytes, safe in a URL."""
    await accounts.create_app("demo", 7)
    uids = [5, 3, 5, 2**53 - 1]
    tokens = await accounts.issue_tokens(7, uids)
    assert len(set(tokens)) == 4
    assert all(re.fullmatch("[A-Za-z0-9_-]{32,255}", token) for token in tokens)
    for uid, token in zip(uids, tokens, strict=True):
        sign_in = await accounts.sign_in(token.encode(), b"", 2)
        assert sign_in is not None
        assert sign_in.user == UserKey(7, uid)


@pytest_twisted.ensureDeferred
async def test_no_app_no_token(accounts: ANY) -> None:
    """Tokens of an app that does not exist are not issued, not even none of them."""
    for uids in ([1], []):
        with pytest.raises(NotFound, match="8"):
            await accounts.issue_tokens(8, uids)
    await accounts.create_app("demo", 7)
    assert await accounts.issue_tokens(7, []) == []


@pytest_twisted.ensureDeferred
async def test_twenty_newest_tokens_stay(accounts: ANY) -> None:
    """Of a user's tokens the 20 newest are in force, also of those made in one call; other users keep theirs."""
    await accounts.create_app("demo", 7)
    other = list(await accounts.issue_tokens(7, [2] * 3))
    tokens = [(await accounts.issue_tokens(7, [1]))[0] for _ in range(15)]
    tokens += await accounts.issue_tokens(7, [1] * 8)
    assert await in_force(accounts, tokens) == [False] * 3 + [True] * 20
    tokens = list(await accounts.issue_tokens(7, [1] * 25))
    assert await in_force(accounts, tokens) == [False] * 5 + [True] * 20
    assert (await accounts.settings(USER)).tokens == 20
    assert await in_force(accounts, other) == [True] * 3


@pytest_twisted.ensureDeferred
async def test_revoking_one_token(accounts: ANY) -> None:
    """Revoking says whose token it was; twice is an error, and the user's other tokens stay."""
    await accounts.create_app("demo", 7)
    first, second = await accounts.issue_tokens(7, [1, 1])
    assert await accounts.revoke_token(first) == USER
    for unknown in (first, "", "never was one", "é" * 300):
        with pytest.raises(NotFound):
            await accounts.revoke_token(unknown)
    assert await in_force(accounts, [first, second]) == [False, True]


@pytest_twisted.ensureDeferred
async def test_revoking_all_tokens(accounts: ANY) -> None:
    """All tokens of a user go at once, and nobody else's."""
    for appid in (7, 8):
        await accounts.create_app("app", appid)
    mine = list(await accounts.issue_tokens(7, [1, 1, 1]))
    others = [*await accounts.issue_tokens(7, [2]), *await accounts.issue_tokens(8, [1])]
    assert await accounts.revoke_tokens(USER) == 3
    assert await accounts.revoke_tokens(USER) == 0
    assert await accounts.revoke_tokens(UserKey(9, 1)) == 0
    assert await in_force(accounts, mine + others) == [False] * 3 + [True] * 2


@pytest_twisted.ensureDeferred
async def test_settings_change_one_by_one(accounts: ANY) -> None:
    """What is not named stays as it is; a user never heard of has the defaults; nobody else changes."""
    await accounts.create_app("demo", 7)
    assert await accounts.settings(USER) == UserSettings(USER)
    await accounts.issue_tokens(7, [1, 1])
    assert await accounts.change_settings(USER) == UserSettings(USER, tokens=2)
    assert await accounts.change_settings(USER, name="Ann 安") == UserSettings(USER, name="Ann 安", tokens=2)
    await accounts.set_unread(USER, 6)
    assert await accounts.change_settings(USER, forbidden=True) == UserSettings(
        USER, name="Ann 安", forbidden=True, unread=6, tokens=2
    )
    assert await accounts.change_settings(USER, notification_on=True, forbidden=False) == UserSettings(
        USER, name="Ann 安", notification_on=True, unread=6, tokens=2
    )
    assert (await accounts.change_settings(USER, name="")).name == ""
    assert await accounts.settings(UserKey(7, 2)) == UserSettings(UserKey(7, 2))


@pytest_twisted.ensureDeferred
async def test_settings_in_no_app(accounts: ANY) -> None:
    """There are no users in an app that does not exist."""
    with pytest.raises(NotFound, match="7"):
        await accounts.settings(USER)
    with pytest.raises(NotFound, match="7"):
        await accounts.change_settings(USER, name="Ann")
    await accounts.create_app("demo", 7)
    assert await accounts.settings(USER) == UserSettings(USER)


# What only a database can do wrong.


@pytest_twisted.ensureDeferred
async def test_first_app_of_a_fresh_database(house: SqlHouse) -> None:
    """A database without an app gets number 7, "demo", once; one with another app gets nothing."""
    await house.directory.ensure_first_app()
    await house.directory.ensure_first_app()
    assert await house.directory.apps() == [App(7, "demo")]
    assert (await house.directory.create_app("next"))[0] == 8


@pytest_twisted.ensureDeferred
async def test_no_first_app_beside_others(house: SqlHouse) -> None:
    """Who has made apps of their own does not find another one."""
    await house.directory.create_app("mine", 3)
    await house.directory.ensure_first_app()
    assert await house.directory.apps() == [App(3, "mine")]


@pytest_twisted.ensureDeferred
async def test_no_secret_stands_in_the_database(house: SqlHouse, tmp_path: Path) -> None:
    """Only hashes of tokens and secrets are kept: of a token its sha256, of a secret that of what back ends send."""
    _, secret = await house.directory.create_app("demo", 7)
    (token,) = await house.directory.issue_tokens(7, [1])
    as_sent = md5(secret.encode(), usedforsecurity=False).hexdigest()
    assert await house.rows("SELECT secret_sha256 FROM app") == [(sha256(as_sent.encode()).digest(),)]
    assert await house.rows("SELECT sha256, appid, uid FROM token") == [
        (sha256(token.encode()).digest(), 7, 1),
    ]
    contents = [file.read_bytes() for file in tmp_path.iterdir()]  # noqa: ASYNC240  a small file of the test's own
    assert sha256(token.encode()).digest() in b"".join(contents)
    assert not any(clear.encode() in content for clear in (secret, as_sent, token) for content in contents)


@pytest_twisted.ensureDeferred
async def test_clock_that_goes_back(house: SqlHouse) -> None:
    """A token stays although the clock was set back since the user's other 20 were made."""
    await house.directory.create_app("demo", 7)
    old = list(await house.directory.issue_tokens(7, [1] * 20))
    house.seconds -= 3600
    new = list(await house.directory.issue_tokens(7, [1] * 2))
    assert await in_force(house.directory, old + new) == [False] * 2 + [True] * 20


@pytest_twisted.ensureDeferred
async def test_many_tokens_in_one_call(house: SqlHouse) -> None:
    """A large order is filled whole and in order, in several transactions, so that others' writes come in between."""
    await house.directory.create_app("demo", 7)
    commits = sum(house.metrics.commit_seconds.counts)
    tokens = await house.directory.issue_tokens(7, range(1, 10_001))
    assert sum(house.metrics.commit_seconds.counts) - commits >= 10
    assert len(set(tokens)) == 10_000
    assert await house.rows("SELECT uid, sha256 FROM token ORDER BY uid") == [
        (uid, sha256(token.encode()).digest()) for uid, token in enumerate(tokens, 1)
    ]


@pytest_twisted.ensureDeferred
async def test_closed_lane_is_unavailable(tmp_path: Path) -> None:
    """What comes after the database was closed fails with Unavailable."""
    house = SqlHouse(tmp_path)
    await house.directory.create_app("demo", 7)
    await house.stop()
    with pytest.raises(Unavailable):
        await house.directory.issue_tokens(7, [1])
    with pytest.raises(Unavailable):
        await house.directory.revoke_token("token")
    with pytest.raises(Unavailable):
        await house.directory.change_settings(USER, forbidden=True)


@pytest_twisted.ensureDeferred
async def test_broken_database_is_unavailable(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """What the database cannot do fails with Unavailable, and with nothing else."""
    await house.directory.create_app("demo", 7)
    await house.change(lambda connection: connection.exec_driver_sql("DROP TABLE token"))
    for failing in (
        house.directory.issue_tokens(7, [1]),
        house.directory.revoke_token("token"),
        house.directory.revoke_tokens(USER),
        house.directory.settings(USER),
    ):
        with pytest.raises(Unavailable):
            await failing
    assert flush_logged_errors(OperationalError)  # the lane told of the batch that was tried first
    assert await house.directory.apps() == [App(7, "demo")]
