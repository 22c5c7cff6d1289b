"""IGroups, as every implementation and the fake have to do it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from threading import Event

import pytest
import pytest_twisted
from sqlalchemy import Connection, update
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from imserver.database import schema
from imserver.directory import groups as module
from imserver.directory import statements
from imserver.directory.groups import SqlGroups
from imserver.interfaces import AlreadyExists, IGroups, NotFound, Unavailable
from imserver.model import (
    SAFE_INTEGER,
    Group,
    Member,
    TimelineKey,
    UserKey,
    group_timeline,
    user_timeline,
)
from tests.contract.sql_directory import SqlHouse
from tests.contract.sql_storage import running_reactor
from tests.fakes.groups import FakeGroups
from tests.leaks import FlushLoggedErrors

ANY = FakeGroups | SqlGroups
NOW = 1_700_000_000


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[SqlHouse]:
    house = SqlHouse(tmp_path)
    for appid in (7, 8):
        await house.directory.create_app("app", appid)
    yield house
    await house.stop()


@pytest.fixture(params=["fake", "sql", "sql without JSON"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind: str = request.param
    if kind == "sql without JSON":
        monkeypatch.setattr(statements, "JSON_DIALECTS", frozenset())
    return kind


@pytest.fixture
def time() -> list[float]:
    """The fake's time, in its only element."""
    return [float(NOW)]


@pytest.fixture
def groups(kind: str, time: list[float], request: pytest.FixtureRequest) -> ANY:
    if kind == "fake":
        fake = FakeGroups(lambda: time[0])
        fake.apps = {7, 8}
        return fake
    house: SqlHouse = request.getfixturevalue("house")
    return house.groups


@pytest.fixture
def set_time(kind: str, time: list[float], request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Sets the time by which members join."""
    if kind == "fake":
        return lambda seconds: time.__setitem__(0, seconds)
    house: SqlHouse = request.getfixturevalue("house")
    return lambda seconds: setattr(house, "seconds", seconds)


async def found(groups: ANY, appid: int, group_id: int) -> Group | None:
    """The group as somebody sees it who asks now."""
    group = groups.group(appid, group_id)
    return await group if isinstance(group, Deferred) else group


def shown(group: Group | None) -> object:
    """All that a group says, to be compared."""
    if group is None:
        return None
    return (
        group.appid,
        group.group_id,
        group.master,
        group.name,
        group.notice,
        group.is_super,
        group.members,
        group.users,
        group.timelines,
    )


async def same_for_all(groups: ANY, changed: Group) -> None:
    """What a change fired with is what whoever asks afterwards gets."""
    assert shown(await found(groups, changed.appid, changed.group_id)) == shown(changed)


def test_provides_the_interface(groups: ANY) -> None:
    """The declaration is true."""
    assert verifyObject(IGroups, groups)


@pytest_twisted.ensureDeferred
async def test_a_new_group(groups: ANY) -> None:
    """It has its members and its master, each once, from now on; nobody sees it emptier than it is."""
    made = await groups.create(7, 5, "Gruppe 组", [9, 2, 5, 9], False, None)
    number = made.group_id
    assert 0 < number < SAFE_INTEGER
    assert shown(made) == (
        7,
        number,
        5,
        "Gruppe 组",
        "",
        False,
        {2: Member(NOW), 5: Member(NOW), 9: Member(NOW)},
        (UserKey(7, 2), UserKey(7, 5), UserKey(7, 9)),
        tuple(user_timeline(UserKey(7, uid)) for uid in (2, 5, 9)),
    )
    assert list(made.members) == [2, 5, 9]
    await same_for_all(groups, made)


@pytest_twisted.ensureDeferred
async def test_a_new_super_group(groups: ANY) -> None:
    """It has a timeline of its own; its master alone is a member too."""
    made = await groups.create(7, 5, "", [], True, None)
    assert made.is_super
    assert made.timelines == (group_timeline(7, made.group_id),) == (TimelineKey(7, 1, made.group_id),)
    assert made.users == (UserKey(7, 5),)
    await same_for_all(groups, made)


@pytest_twisted.ensureDeferred
async def test_groups_are_of_their_app(groups: ANY) -> None:
    """For any other app there is none, whether it is known here or has to be looked up, and none that could be
    changed."""
    made = await groups.create(7, 1, "ours", [2], False, None)
    assert await found(groups, 8, made.group_id) is None
    number = made.group_id
    for change in (
        groups.rename(8, number, "theirs"),
        groups.disband(8, number),
        groups.upgrade(8, number),
        groups.add_members(8, number, [3]),
        groups.remove_members(8, number, [2]),
        groups.change_member(8, number, 2, muted=True),
    ):
        with pytest.raises(NotFound, match=f"app 8 has no group {number}"):
            await change
        assert await found(groups, 8, number) is None
    await same_for_all(groups, made)


@pytest_twisted.ensureDeferred
async def test_no_such_group(groups: ANY) -> None:
    """Neither found nor changed, also with ids that no group can have."""
    for group_id in (1, 0, -1, -(2**63), SAFE_INTEGER, 2**63 - 1):
        assert await found(groups, 7, group_id) is None
    for change in (
        groups.rename(7, 5, "name"),
        groups.disband(7, 5),
        groups.upgrade(7, 5),
        groups.add_members(7, 5, [3]),
        groups.remove_members(7, 5, [2]),
        groups.change_member(7, 5, 2, nickname="n"),
    ):
        with pytest.raises(NotFound, match="app 7 has no group 5"):
            await change


@pytest_twisted.ensureDeferred
async def test_no_group_without_an_app(groups: ANY) -> None:
    """Nothing is left of one that was refused."""
    with pytest.raises(NotFound, match="9"):
        await groups.create(9, 1, "name", [2], False, 50)
    assert await found(groups, 9, 50) is None
    assert (await groups.create(7, 1, "name", [2], False, 50)).group_id == 50


@pytest_twisted.ensureDeferred
async def test_an_id_of_ones_own(groups: ANY) -> None:
    """It is given once, to whatever app, and not again after the group is gone; ids that are counted differ from it."""
    assert await found(groups, 7, 1000) is None
    made = await groups.create(7, 1, "mine", [], False, 1000)
    assert made.group_id == 1000
    await same_for_all(groups, made)
    for appid in (7, 8):
        with pytest.raises(AlreadyExists, match="1000"):
            await groups.create(appid, 2, "again", [3], False, 1000)
    await same_for_all(groups, made)
    await groups.disband(7, 1000)
    with pytest.raises(AlreadyExists, match="1000"):
        await groups.create(7, 1, "again", [], False, 1000)
    assert await found(groups, 7, 1000) is None
    counted = [(await groups.create(7, 1, "counted", [], False, None)).group_id for _ in range(3)]
    assert len({1000, *counted}) == 4


@pytest_twisted.ensureDeferred
async def test_the_last_id_is_not_the_end(groups: ANY) -> None:
    """An app that takes the highest id of all does not keep others from making groups."""
    last = await groups.create(7, 1, "last", [2], False, SAFE_INTEGER - 1)
    made = [await groups.create(8, 1, f"after {n}", [3], False, None) for n in range(3)]
    assert all(0 < group.group_id < SAFE_INTEGER for group in made)
    assert len({group.group_id for group in (last, *made)}) == 4
    for group in (last, *made):
        await same_for_all(groups, group)
    assert [list(group.members) for group in made] == [[1, 3]] * 3


@pytest_twisted.ensureDeferred
async def test_groups_made_at_once(groups: ANY) -> None:
    """They get different ids and their own members; of two that want the same id one gets it."""
    made = await gatherResults([groups.create(7, uid, f"of {uid}", [100 + uid], False, None) for uid in range(1, 21)])
    assert len({group.group_id for group in made}) == 20
    assert [(group.name, list(group.members)) for group in made] == [(f"of {n}", [n, 100 + n]) for n in range(1, 21)]
    first, second = groups.create(7, 1, "first", [], False, 500), groups.create(7, 2, "second", [], False, 500)
    assert (await first).name == "first"
    with pytest.raises(AlreadyExists):
        await second


@pytest_twisted.ensureDeferred
async def test_renaming(groups: ANY) -> None:
    """Nothing else changes."""
    made = await groups.create(7, 1, "old", [2, 3], True, None)
    await groups.change_member(7, made.group_id, 2, nickname="Bo", muted=True)
    renamed = await groups.rename(7, made.group_id, "new")
    assert (renamed.name, renamed.master, renamed.is_super) == ("new", 1, True)
    assert renamed.members == {1: Member(NOW), 2: Member(NOW, True, "Bo"), 3: Member(NOW)}
    assert made.name == "old"
    await same_for_all(groups, renamed)


@pytest_twisted.ensureDeferred
async def test_disbanding(groups: ANY) -> None:
    """It fires with the group as it was; from then on there is none, for anybody and any change."""
    made = await groups.create(7, 1, "ours", [2, 3], False, None)
    gone = await groups.disband(7, made.group_id)
    assert shown(gone) == shown(made)
    assert await found(groups, 7, made.group_id) is None
    for change in (
        groups.disband(7, made.group_id),
        groups.add_members(7, made.group_id, [4]),
        groups.rename(7, made.group_id, "name"),
    ):
        with pytest.raises(NotFound):
            await change
    assert await found(groups, 7, made.group_id) is None


@pytest_twisted.ensureDeferred
async def test_upgrading(groups: ANY) -> None:
    """The group has one timeline from then on; a second time changes nothing."""
    made = await groups.create(7, 1, "ours", [2], False, None)
    for _ in range(2):
        upgraded = await groups.upgrade(7, made.group_id)
        assert upgraded.is_super
        assert upgraded.timelines == (group_timeline(7, made.group_id),)
        assert upgraded.members == made.members
        await same_for_all(groups, upgraded)


@pytest_twisted.ensureDeferred
async def test_members_join(groups: ANY, set_time: Callable[[float], None]) -> None:
    """Each from now on; those who are there already stay as they are."""
    made = await groups.create(7, 1, "ours", [2], False, None)
    await groups.change_member(7, made.group_id, 2, nickname="Bo", muted=True)
    set_time(NOW + 10.9)
    joined = await groups.add_members(7, made.group_id, [4, 2, 3, 4])
    assert joined.members == {
        1: Member(NOW),
        2: Member(NOW, True, "Bo"),
        3: Member(NOW + 10),
        4: Member(NOW + 10),
    }
    assert list(joined.members) == [1, 2, 3, 4]
    await same_for_all(groups, joined)
    assert shown(await groups.add_members(7, made.group_id, [])) == shown(joined)


@pytest_twisted.ensureDeferred
async def test_members_join_after_each_other(groups: ANY, set_time: Callable[[float], None]) -> None:
    """Each time in a second of its own, so that what is said between is told from what is said after; also after who
    has left again. They are ahead of the clock by a minute at most, and not after somebody who is further ahead."""
    made = await groups.create(7, 1, "ours", [], False, None)
    number = made.group_id

    async def joined(uid: int) -> int:
        return (await groups.add_members(7, number, [uid])).members[uid].joined - NOW

    assert [await joined(uid) for uid in (2, 3)] == [1, 2]
    await groups.remove_members(7, number, [3])
    assert await joined(4) == 3
    assert await joined(3) == 4
    set_time(NOW + 1.5)
    assert await joined(5) == 5
    set_time(NOW + 6)
    assert await joined(6) == 6
    assert [await joined(uid) for uid in range(100, 162)] == [*range(7, 67), 66, 66]
    set_time(NOW + 8)
    assert [await joined(uid) for uid in (200, 201, 202)] == [67, 68, 68]
    set_time(NOW + 7)
    assert await joined(203) == 7


@pytest_twisted.ensureDeferred
async def test_members_leave(groups: ANY) -> None:
    """Those who are named and are there; the master too, who stays the master."""
    made = await groups.create(7, 1, "ours", [2, 3, 4], False, None)
    left = await groups.remove_members(7, made.group_id, [2, 9, 1, 2])
    assert list(left.members) == [3, 4]
    assert left.master == 1
    await same_for_all(groups, left)
    assert shown(await groups.remove_members(7, made.group_id, [2, 5])) == shown(left)
    empty = await groups.remove_members(7, made.group_id, [3, 4])
    assert empty.members == {}
    await same_for_all(groups, empty)


@pytest_twisted.ensureDeferred
async def test_who_comes_back_joins_anew_and_stays_muted(groups: ANY, set_time: Callable[[float], None]) -> None:
    """Leaving is no way around being muted, and what was said meanwhile is not for them."""
    made = await groups.create(7, 1, "ours", [2, 3], False, None)
    for uid in (2, 3):
        await groups.change_member(7, made.group_id, uid, muted=uid == 2)
    await groups.remove_members(7, made.group_id, [2, 3])
    set_time(NOW + 60)
    back = await groups.add_members(7, made.group_id, [2, 3, 4])
    assert back.members == {1: Member(NOW), 2: Member(NOW + 60, True), 3: Member(NOW + 60), 4: Member(NOW + 60)}
    await same_for_all(groups, back)


@pytest_twisted.ensureDeferred
async def test_joining_after_2038(groups: ANY, set_time: Callable[[float], None]) -> None:
    """A join time of more than 31 bits is kept, and mutes nobody."""
    set_time(2**31 + 5)
    made = await groups.create(7, 1, "ours", [2], False, None)
    set_time(2**33 + 5)
    later = await groups.add_members(7, made.group_id, [3])
    assert later.members == {1: Member(2**31 + 5), 2: Member(2**31 + 5), 3: Member(2**33 + 5)}
    await same_for_all(groups, later)


@pytest_twisted.ensureDeferred
async def test_changing_a_member(groups: ANY) -> None:
    """What is not named stays; nobody else changes; who is no member, or no longer, cannot be changed."""
    made = await groups.create(7, 1, "ours", [2, 3], False, None)
    number = made.group_id
    assert (await groups.change_member(7, number, 2, nickname="Bo")).members[2] == Member(NOW, False, "Bo")
    assert (await groups.change_member(7, number, 2, muted=True)).members[2] == Member(NOW, True, "Bo")
    assert (await groups.change_member(7, number, 2)).members[2] == Member(NOW, True, "Bo")
    assert (await groups.change_member(7, number, 2, nickname="", muted=False)).members[2] == Member(NOW)
    changed = await groups.change_member(7, number, 3, muted=True)
    assert changed.members == {1: Member(NOW), 2: Member(NOW), 3: Member(NOW, True)}
    await same_for_all(groups, changed)
    await groups.remove_members(7, number, [3])
    for uid in (3, 4):
        with pytest.raises(NotFound, match=f"{uid} is no member of group {number}"):
            await groups.change_member(7, number, uid, muted=False)


@pytest_twisted.ensureDeferred
async def test_changes_at_once_are_all_in_force(groups: ANY) -> None:
    """Of changes that are carried out together none is lost, each is answered, and after each somebody who asks sees
    what it did."""
    made = await groups.create(7, 1, "ours", [2], False, None)
    number = made.group_id
    seen: list[bool] = []

    def look(group: Group, uid: int) -> None:
        now = groups.group(7, number)
        assert isinstance(now, Group)
        seen.append(uid in now.members and uid in group.members)

    await gatherResults([groups.add_members(7, number, [uid]).addCallback(look, uid) for uid in range(10, 40)])
    assert seen == [True] * 30
    after = await found(groups, 7, number)
    assert after is not None
    assert list(after.members) == [1, 2, *range(10, 40)]


@pytest_twisted.ensureDeferred
async def test_a_change_and_the_end_at_once(groups: ANY) -> None:
    """A change that was asked for before the group was disbanded is carried out; one after it is refused."""
    made = await groups.create(7, 1, "ours", [2], False, None)
    asked = [
        groups.rename(7, made.group_id, "renamed"),
        groups.disband(7, made.group_id),
        groups.add_members(7, made.group_id, [5]),
    ]
    assert (await asked[0]).name == "renamed"
    gone = await asked[1]
    assert (gone.name, list(gone.members)) == ("renamed", [1, 2])
    with pytest.raises(NotFound):
        await asked[2]
    assert await found(groups, 7, made.group_id) is None


@pytest_twisted.ensureDeferred
async def test_a_large_group(groups: ANY) -> None:
    """10,000 members are made, changed and found again, all of them."""
    uids = range(10, 10_010)
    made = await groups.create(7, 10, "large", uids, False, None)
    assert list(made.members) == list(uids)
    assert len(made.timelines) == 10_000
    halved = await groups.remove_members(7, made.group_id, range(10, 10_010, 2))
    assert list(halved.members) == list(range(11, 10_010, 2))
    grown = await groups.add_members(7, made.group_id, range(10, 12_010))
    assert list(grown.members) == list(range(10, 12_010))
    await same_for_all(groups, grown)


@pytest_twisted.ensureDeferred
async def test_fake_can_hold_and_fail() -> None:
    """What the tests of others rely on: groups of the test's own, answers that wait, in order, and failures."""
    groups = FakeGroups()
    made = groups.add_group(8, 50, [3, 1], is_super=True, joined=5, muted=[1])
    assert made.members == {1: Member(5, True), 3: Member(5)}
    assert (made.master, made.is_super) == (3, True)
    assert isinstance(groups.group(8, 50), Group)
    assert (await groups.create(8, 1, "name", [], False, None)).group_id == 51
    groups.hold()
    waiting = groups.group(8, 50)
    assert isinstance(waiting, Deferred)
    removed = groups.remove_members(8, 50, [1])
    assert not waiting.called
    assert not removed.called
    groups.release()
    assert shown(await waiting) == shown(made)
    assert list((await removed).members) == [3]
    groups.unavailable = True
    failed = groups.group(8, 50)
    assert isinstance(failed, Deferred)
    for asked in (failed, groups.disband(8, 50)):
        with pytest.raises(Unavailable):
            await asked


# What only a database can do wrong.


def another(house: SqlHouse) -> SqlGroups:
    """Groups on the same database that have cached nothing: another node, or this one after a restart."""
    return SqlGroups(house.writes, house.reads, lambda: house.seconds, lambda: house.seconds, house.metrics, 100_000)


@pytest_twisted.ensureDeferred
async def test_what_is_cached_is_what_is_stored(house: SqlHouse) -> None:
    """After any change somebody who reads the database anew sees the same group."""
    groups = house.groups
    made = await groups.create(7, 1, "ours", range(2, 700), False, None)
    number = made.group_id
    await groups.change_member(7, number, 2, nickname="Bo", muted=True)
    await groups.remove_members(7, number, range(2, 600))
    await groups.add_members(7, number, range(300, 900))
    await groups.upgrade(7, number)
    cached = await groups.rename(7, number, "renamed")
    assert list(cached.members) == [1, *range(300, 900)]
    assert shown(await found(another(house), 7, number)) == shown(cached)
    await groups.disband(7, number)
    assert await found(another(house), 7, number) is None
    assert await found(another(house), 8, number) is None


@pytest_twisted.ensureDeferred
async def test_rows_stay(house: SqlHouse) -> None:
    """Back ends count on it: who left and what was disbanded is marked, not gone."""
    made = await house.groups.create(7, 1, "ours", [2], False, 40)
    await house.groups.change_member(7, made.group_id, 2, nickname="Bo", muted=True)
    await house.groups.remove_members(7, made.group_id, [2])
    await house.groups.disband(7, made.group_id)
    assert await house.rows('SELECT id, appid, master, super, name, deleted FROM "group"') == [(40, 7, 1, 0, "ours", 1)]
    assert await house.rows("SELECT group_id, uid, timestamp, nickname, mute, deleted FROM group_member") == [
        (40, 1, NOW, "", 0, 0),
        (40, 2, NOW, "Bo", 1, 1),
    ]


@pytest_twisted.ensureDeferred
async def test_rows_of_a_back_end(house: SqlHouse) -> None:
    """Columns that a back end leaves empty, or adds, do no harm, and its rows can be changed here."""
    for statement in (
        'ALTER TABLE "group" ADD COLUMN avatar TEXT',
        "ALTER TABLE group_member ADD COLUMN inviter INTEGER DEFAULT 9",
        'INSERT INTO "group" (id, appid) VALUES (1, 7)',
        'INSERT INTO "group" VALUES (2, 7, NULL, NULL, NULL, NULL, NULL, NULL)',
        "INSERT INTO \"group\" VALUES (3, 7, 5, 1, 'name', 'notice', 0, 'a')",
        "INSERT INTO \"group\" VALUES (4, 7, 5, 1, 'gone', '', 1, 'a')",
        "INSERT INTO group_member (group_id, uid) VALUES (1, 20)",
        "INSERT INTO group_member VALUES (2, 10, NULL, NULL, NULL, NULL, NULL), (2, 11, 5, 'n', 1, 0, 1)",
        "INSERT INTO group_member VALUES (2, 12, 5, 'gone', 1, 2, 1), (4, 12, 5, 'n', 1, 0, 1)",
    ):
        await house.change(lambda connection, text=statement: connection.exec_driver_sql(text))  # type: ignore[misc]
    assert shown(await found(house.groups, 7, 1)) == shown(Group(7, 1, 0, "", "", False, {20: Member(0)}))
    assert shown(await found(house.groups, 7, 2)) == shown(
        Group(7, 2, 0, "", "", False, {10: Member(0), 11: Member(5, True, "n")})
    )
    assert shown(await found(house.groups, 7, 3)) == shown(Group(7, 3, 5, "name", "notice", True, {}))
    assert await found(house.groups, 7, 4) is None
    changed = await house.groups.add_members(7, 2, [10, 12, 13])
    assert changed.members == {
        10: Member(0),
        11: Member(5, True, "n"),
        12: Member(NOW, True, "gone"),
        13: Member(NOW),
    }
    assert (await house.groups.change_member(7, 2, 10, muted=True)).members[10] == Member(0, True)
    assert (await house.groups.create(7, 1, "next", [], False, None)).group_id == 5


@pytest_twisted.ensureDeferred
async def test_an_id_is_never_given_twice(house: SqlHouse) -> None:
    """The timeline of a super group whose rows a back end has deleted is not the next group's."""
    made = await house.groups.create(7, 1, "ours", [2], True, None)
    await house.change(lambda connection: connection.exec_driver_sql('DELETE FROM "group"'))
    assert (await house.groups.create(7, 1, "next", [2], True, None)).group_id > made.group_id


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (lambda groups, group_id: groups.remove_members(7, group_id, [2]), [1]),
        (lambda groups, group_id: groups.disband(7, group_id), None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_read_beside_a_change(
    house: SqlHouse,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[SqlGroups, int], Deferred[Group]],
    after: list[int] | None,
) -> None:
    """Who asks before a change may see the group as it was; who asks after it does not, and nothing old is kept."""

    def members(group: Group | Deferred[Group | None] | None) -> list[int] | None:
        assert not isinstance(group, Deferred)
        return None if group is None else list(group.members)

    number = (await house.groups.create(7, 1, "ours", [2], False, None)).group_id
    groups = another(house)
    has_read, go_on = Deferred[None](), Event()
    read = module._read_group

    def read_and_wait(connection: Connection, group_id: int) -> Group | None:
        group = read(connection, group_id)
        running_reactor().callFromThread(has_read.callback, None)
        assert go_on.wait(30)
        return group

    monkeypatch.setattr(module, "_read_group", read_and_wait)
    asked = groups.group(7, number)
    assert isinstance(asked, Deferred)
    await has_read
    await change(groups, number)
    assert members(groups.group(7, number)) == after
    go_on.set()
    assert members(await asked) == [1, 2]
    assert members(groups.group(7, number)) == after


@pytest_twisted.ensureDeferred
async def test_a_change_that_is_refused_or_fails(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """Perhaps the cache was wrong, and perhaps the change was made: the group is read again."""
    number = (await house.groups.create(7, 1, "ours", [2], False, None)).group_id
    other = (await house.groups.create(7, 1, "other", [2], False, None)).group_id
    await house.change(lambda connection: connection.execute(update(schema.group).values(deleted=1)))
    assert isinstance(house.groups.group(7, number), Group)
    with pytest.raises(NotFound):
        await house.groups.rename(7, number, "renamed")
    assert await found(house.groups, 7, number) is None
    await house.change(lambda connection: connection.exec_driver_sql("ALTER TABLE group_member RENAME TO away"))
    await house.change(lambda connection: connection.execute(update(schema.group).values(deleted=0)))
    with pytest.raises(Unavailable):
        await house.groups.add_members(7, other, [3])
    assert flush_logged_errors(OperationalError)  # the lane told of the transaction that failed
    asked = house.groups.group(7, other)
    assert isinstance(asked, Deferred)
    with pytest.raises(Unavailable):
        await asked


@pytest_twisted.ensureDeferred
async def test_a_group_is_read_once(house: SqlHouse) -> None:
    """Those who wait for it share one read, and those who come later ask the database no more; nor do those who look
    for one that does not exist."""
    made = await house.groups.create(7, 1, "ours", range(2, 100), False, None)
    groups, reads = another(house), house.metrics.group_reads.values
    before = reads[""]
    many = await gatherResults([Deferred.fromCoroutine(found(groups, 7, made.group_id)) for _ in range(50)])
    assert [shown(group) for group in many] == [shown(made)] * 50
    assert reads[""] == before + 1
    assert isinstance(groups.group(7, made.group_id), Group)
    assert groups.group(8, made.group_id) is None
    assert await found(groups, 7, 999) is None
    assert groups.group(7, 999) is None
    assert groups.group(7, -1) is None
    assert reads[""] == before + 2


@pytest_twisted.ensureDeferred
async def test_unavailable_is_not_unknown(house: SqlHouse, flush_logged_errors: FlushLoggedErrors) -> None:
    """Where the database cannot be read nobody learns that there is no group, and it is asked again next time; a change
    that failed leaves nothing in force."""
    made = await house.groups.create(7, 1, "ours", [2], False, None)
    groups = another(house)
    await house.change(lambda connection: connection.exec_driver_sql("ALTER TABLE group_member RENAME TO away"))
    for _ in range(2):
        asked = groups.group(7, made.group_id)
        assert isinstance(asked, Deferred)
        with pytest.raises(Unavailable):
            await asked
    for change in (
        house.groups.rename(7, made.group_id, "renamed"),
        house.groups.add_members(7, made.group_id, [5]),
        house.groups.create(7, 1, "never", [2], False, 99),
    ):
        with pytest.raises(Unavailable):
            await change
    assert flush_logged_errors(OperationalError)  # the lane told of the transactions that failed
    await house.change(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO group_member"))
    for any_groups in (groups, house.groups):
        assert shown(await found(any_groups, 7, made.group_id)) == shown(made)
        assert await found(any_groups, 7, 99) is None


@pytest_twisted.ensureDeferred
async def test_closed_lanes_are_unavailable(tmp_path: Path) -> None:
    """What comes after the database was closed fails with Unavailable; what is known here is still known."""
    house = SqlHouse(tmp_path)
    await house.directory.create_app("app", 7)
    made = await house.groups.create(7, 1, "ours", [2], False, None)
    await house.stop()
    assert isinstance(house.groups.group(7, made.group_id), Group)
    asked = house.groups.group(7, 77)
    assert isinstance(asked, Deferred)
    for failing in (asked, house.groups.create(7, 1, "ours", [2], False, None), house.groups.disband(7, 5)):
        with pytest.raises(Unavailable):
            await failing
