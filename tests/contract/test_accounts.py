"""IAccounts, as every implementation and the fake have to do it."""

import re
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from imserver.database.lanes import ReadGroup
from imserver.directory import statements
from imserver.directory.sql import SqlDirectory
from imserver.interfaces import AlreadyExists, IAccounts, NotFound, Unavailable
from imserver.model import App, Conversation, UserKey, UserSettings
from tests.contract.sql_directory import SqlHouse
from tests.contract.sql_storage import running_reactor
from tests.fakes.directory import FakeDirectory
from tests.leaks import FlushLoggedErrors

ANY = FakeDirectory | SqlDirectory
USER = UserKey(7, 1)


def as_sent(secret: str) -> bytes:
    """What a back end sends that has this secret."""
    return md5(secret.encode(), usedforsecurity=False).hexdigest().encode()


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[SqlHouse]:
    house = SqlHouse(tmp_path)
    yield house
    await house.stop()


@pytest.fixture(params=["fake", "sql", "sql without JSON"])
def accounts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ANY:
    if request.param == "fake":
        return FakeDirectory()
    if request.param == "sql without JSON":
        monkeypatch.setattr(statements, "JSON_DIALECTS", frozenset())
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


@pytest_twisted.ensureDeferred
async def test_back_ends_show_their_secret(accounts: ANY) -> None:
    """An app's back end may call with md5hex(secret) of this app, and with nothing else."""
    _, secret = await accounts.create_app("demo", 7)
    _, other = await accounts.create_app("other", 8)
    assert await accounts.check_app(7, as_sent(secret))
    assert await accounts.check_app(8, as_sent(other))
    wrong = [as_sent(other), as_sent(secret).upper(), as_sent(secret)[:-1], secret.encode(), b"", b"\xff" * 1000]
    assert await gatherResults([accounts.check_app(7, password) for password in wrong]) == [False] * len(wrong)
    assert not await accounts.check_app(9, as_sent(secret))


@pytest_twisted.ensureDeferred
async def test_back_ends_that_call_together(accounts: ANY) -> None:
    """Of calls of many apps that wait together each is judged by its own app."""
    made = [await accounts.create_app("app") for _ in range(5)]
    asked = [accounts.check_app(appid, as_sent(secret)) for appid, _ in made for _, secret in made]
    assert await gatherResults(asked) == [asking == appid for appid, _ in made for asking, _ in made]


@pytest_twisted.ensureDeferred
async def test_a_new_secret_voids_the_old(accounts: ANY) -> None:
    """Once it is answered, nobody gets in with the old one, not even who was looked up before."""
    _, old = await accounts.create_app("demo", 7)
    _, other = await accounts.create_app("other", 8)
    order: list[object] = []

    def remember(answer: Any) -> Any:
        order.append(answer)
        return answer

    rotated = accounts.rotate_secret(7).addCallback(remember)
    checks = [accounts.check_app(7, as_sent(old)).addCallback(remember) for _ in range(20)]
    new = await rotated
    await gatherResults(checks)
    assert True not in order[order.index(new) + 1 :]
    assert len(new) >= 32
    assert await gatherResults(
        [
            accounts.check_app(7, as_sent(new)),
            accounts.check_app(7, as_sent(old)),
            accounts.check_app(8, as_sent(other)),
        ]
    ) == [True, False, True]
    with pytest.raises(NotFound, match="9"):
        await accounts.rotate_secret(9)


@pytest_twisted.ensureDeferred
async def test_whose_token_it_is(accounts: ANY) -> None:
    """A token tells its user until it is revoked, and nothing about them changes by that; others are nobody's."""
    for appid in (7, 8):
        await accounts.create_app("app", appid)
    (mine,), (others,) = await accounts.issue_tokens(7, [1]), await accounts.issue_tokens(8, [1])
    await accounts.set_unread(USER, 3)
    assert await accounts.user_of_token(mine.encode()) == USER
    assert await accounts.user_of_token(others.encode()) == UserKey(8, 1)
    assert (await accounts.settings(USER)).unread == 3
    for wrong in (b"", b"\xff\x00", mine.encode()[:-1], mine.encode() + b"x"):
        assert await accounts.user_of_token(wrong) is None
    await accounts.revoke_token(mine)
    assert await accounts.user_of_token(mine.encode()) is None


@pytest_twisted.ensureDeferred
async def test_mute_is_a_setting(accounts: ANY) -> None:
    """It is told with the others, and changes none of them."""
    await accounts.create_app("demo", 7)
    await accounts.change_settings(USER, name="Ann")
    await accounts.set_mute(USER, True)
    assert await accounts.settings(USER) == UserSettings(USER, name="Ann", mute=True)
    assert await accounts.change_settings(USER, forbidden=True) == UserSettings(
        USER, name="Ann", forbidden=True, mute=True
    )
    await accounts.set_mute(USER, False)
    await accounts.set_mute(UserKey(7, 2), True)
    assert await accounts.settings(USER) == UserSettings(USER, name="Ann", forbidden=True)
    assert await accounts.settings(UserKey(7, 2)) == UserSettings(UserKey(7, 2), mute=True)
    with pytest.raises(NotFound, match="8"):
        await accounts.set_mute(UserKey(8, 1), True)


@pytest_twisted.ensureDeferred
async def test_do_not_disturb_is_of_a_conversation(accounts: ANY) -> None:
    """Pushes of one peer or group are not wanted, those of others are; a peer and a group of one number differ."""
    for appid in (7, 8):
        await accounts.create_app("app", appid)
    users = [UserKey(7, uid) for uid in (1, 2, 3)]
    peer, group = Conversation(False, 50), Conversation(True, 50)
    await accounts.set_do_not_disturb(users[0], peer, True)
    await accounts.set_do_not_disturb(users[0], peer, True)
    await accounts.set_do_not_disturb(users[1], group, True)
    await accounts.set_do_not_disturb(users[2], group, True)
    await accounts.set_do_not_disturb(UserKey(8, 1), Conversation(False, 51), True)
    assert set(await accounts.not_to_disturb(users, peer)) == {users[0]}
    assert set(await accounts.not_to_disturb(users, group)) == {users[1], users[2]}
    assert set(await accounts.not_to_disturb(users[:2], group)) == {users[1]}
    assert set(await accounts.not_to_disturb(users, Conversation(False, 51))) == set()
    assert set(await accounts.not_to_disturb([], group)) == set()
    await accounts.set_do_not_disturb(users[1], group, False)
    await accounts.set_do_not_disturb(users[1], peer, False)
    assert set(await accounts.not_to_disturb(users, group)) == {users[2]}
    for on in (True, False):
        with pytest.raises(NotFound, match="9"):
            await accounts.set_do_not_disturb(UserKey(9, 1), peer, on)


@pytest_twisted.ensureDeferred
async def test_do_not_disturb_of_many_at_once(accounts: ANY) -> None:
    """Those who ask together, for more users than one statement takes and of several apps, each get their own."""
    for appid in (7, 8):
        await accounts.create_app("app", appid)
    members = [UserKey(appid, uid) for uid in range(1, 1500) for appid in (7, 8)]
    silent = {UserKey(7, 1), UserKey(7, 700), UserKey(8, 700), UserKey(7, 1499)}
    groups = [Conversation(True, number) for number in (1, 2, 3)]
    await gatherResults([accounts.set_do_not_disturb(user, groups[1], True) for user in silent])
    answers = await gatherResults([accounts.not_to_disturb(members, group) for group in groups])
    assert [set(answer) for answer in answers] == [set(), silent, set()]


@pytest_twisted.ensureDeferred
async def test_phones_are_bound_by_kind(accounts: ANY) -> None:
    """A user has one push token of each kind, the one bound last."""
    for appid in (7, 8):
        await accounts.create_app("app", appid)
    other, nobody = UserKey(7, 2), UserKey(7, 3)
    await accounts.bind_devices(USER, {"apns": "a1", "pushkit": "p1"})
    await accounts.bind_devices(other, {"gcm": "g" * 4096})
    await accounts.bind_devices(UserKey(8, 1), {"apns": "of another app"})
    await accounts.bind_devices(USER, {"apns": "a2"})
    await accounts.bind_devices(USER, {})
    bound = await accounts.bound_devices([USER, nobody, other, USER])
    assert bound == {USER: {"apns": "a2", "pushkit": "p1"}, other: {"gcm": "g" * 4096}}
    assert await accounts.bound_devices([UserKey(8, 1), nobody]) == {UserKey(8, 1): {"apns": "of another app"}}
    assert await accounts.bound_devices([]) == {}


@pytest_twisted.ensureDeferred
async def test_a_phone_that_changed_hands(accounts: ANY) -> None:
    """A token is taken from who had it: of this app, of this kind, this very token."""
    other = UserKey(7, 2)
    await accounts.bind_devices(USER, {"apns": "phone", "gcm": "Phone", "hw": "phone", "xm": "mine"})
    await accounts.bind_devices(UserKey(8, 1), {"apns": "phone"})
    await accounts.bind_devices(other, {"apns": "phone", "gcm": "phone"})
    assert await accounts.bound_devices([USER, other, UserKey(8, 1)]) == {
        USER: {"gcm": "Phone", "hw": "phone", "xm": "mine"},
        other: {"apns": "phone", "gcm": "phone"},
        UserKey(8, 1): {"apns": "phone"},
    }
    await accounts.bind_devices(USER, {"apns": "phone"})
    assert await accounts.bound_devices([other]) == {other: {"gcm": "phone"}}


@pytest_twisted.ensureDeferred
async def test_unbinding_what_is_ones_own(accounts: ANY) -> None:
    """Only the user's own token goes, and only if it is that one."""
    other = UserKey(7, 2)
    await accounts.bind_devices(USER, {"apns": "a", "xg": "x"})
    await accounts.bind_devices(other, {"apns": "b"})
    await accounts.unbind_devices(USER, {"apns": "b", "xg": "old", "jp": "never had"})
    assert await accounts.bound_devices([USER, other]) == {USER: {"apns": "a", "xg": "x"}, other: {"apns": "b"}}
    await accounts.unbind_devices(USER, {"apns": "a", "xg": "x"})
    assert await accounts.bound_devices([USER, other]) == {other: {"apns": "b"}}


# What only a database can do wrong.


@pytest_twisted.ensureDeferred
async def test_binding_is_timed(house: SqlHouse) -> None:
    """The time of the last binding stands beside the token, beyond 2038 too."""
    await house.directory.bind_devices(USER, {"apns": "a", "gcm": "g"})
    house.seconds = 2**31 + 5.9
    await house.directory.bind_devices(USER, {"apns": "a"})
    assert await house.rows("SELECT kind, token, timestamp FROM push_token ORDER BY kind") == [
        ("apns", "a", 2**31 + 5),
        ("gcm", "g", 1_700_000_000),
    ]


@pytest_twisted.ensureDeferred
async def test_checking_costs_no_transaction_that_writes(house: SqlHouse) -> None:
    """What is asked for every request, or every push, only reads."""
    await house.directory.create_app("demo", 7)
    before = sum(house.metrics.commit_seconds.counts)
    await house.directory.check_app(7, b"password")
    await house.directory.user_of_token(b"token")
    await house.directory.not_to_disturb([USER], Conversation(True, 5))
    await house.directory.bound_devices([USER])
    assert sum(house.metrics.commit_seconds.counts) == before


@pytest.mark.parametrize("asked", ["secret", "token"])
@pytest_twisted.ensureDeferred
async def test_a_check_that_a_change_overtakes(house: SqlHouse, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """Who was looked up before a new secret or a revocation, and is answered after it, is judged by what is then."""
    directory = house.directory
    _, secret = await directory.create_app("demo", 7)
    (token,) = await directory.issue_tokens(7, [1])
    group: ReadGroup[Any, Any] = directory._secrets if asked == "secret" else directory._sign_ins
    looked_up, go_on = Deferred[None](), threading.Event()
    read = group._read

    def look_up(connection: Connection, items: Sequence[Any]) -> Sequence[Any]:
        answers = read(connection, items)
        if not go_on.is_set():
            running_reactor().callFromThread(looked_up.callback, None)
            assert go_on.wait(30)
        return answers

    monkeypatch.setattr(group, "_read", look_up)
    if asked == "secret":
        checked = directory.check_app(7, as_sent(secret))
        await looked_up
        await directory.rotate_secret(7)
        go_on.set()
        assert await checked is False
    else:
        whose = directory.user_of_token(token.encode())
        await looked_up
        await directory.revoke_token(token)
        go_on.set()
        assert await whose is None


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
    assert await house.rows("SELECT secret_sha256 FROM app") == [(sha256(as_sent(secret)).digest(),)]
    assert await house.rows("SELECT sha256, appid, uid FROM token") == [
        (sha256(token.encode()).digest(), 7, 1),
    ]
    contents = [file.read_bytes() for file in tmp_path.iterdir()]  # noqa: ASYNC240  a small file of the test's own
    assert sha256(token.encode()).digest() in b"".join(contents)
    assert not any(
        clear.encode() in content for clear in (secret, as_sent(secret).decode(), token) for content in contents
    )


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
    for asked in (
        house.directory.check_app(7, b"password"),
        house.directory.user_of_token(b"token"),
        house.directory.not_to_disturb([USER], Conversation(True, 5)),
        house.directory.bound_devices([USER]),
        house.directory.bind_devices(USER, {"apns": "a"}),
    ):
        with pytest.raises(Unavailable):
            await asked


@pytest_twisted.ensureDeferred
async def test_broken_database_is_unavailable(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """What the database cannot do fails with Unavailable, and with nothing else."""
    await house.directory.create_app("demo", 7)
    for table in ("token", "do_not_disturb", "push_token"):
        await house.change(partial(Connection.exec_driver_sql, statement=f"DROP TABLE {table}"))
    for failing in (
        house.directory.user_of_token(b"token"),
        house.directory.not_to_disturb([USER], Conversation(True, 5)),
        house.directory.set_do_not_disturb(USER, Conversation(True, 5), True),
        house.directory.bound_devices([USER]),
        house.directory.bind_devices(USER, {"apns": "a"}),
        house.directory.unbind_devices(USER, {"apns": "a"}),
        house.directory.issue_tokens(7, [1]),
        house.directory.revoke_token("token"),
        house.directory.revoke_tokens(USER),
        house.directory.settings(USER),
    ):
        with pytest.raises(Unavailable):
            await failing
    assert flush_logged_errors(OperationalError)  # the lane told of the batch that was tried first
    assert await house.directory.apps() == [App(7, "demo")]
