"""Changes of groups: who hears of them, where, and in which words."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from imserver.chat import changes
from imserver.interfaces import AlreadyExists, IGroupChanges, Invalid, NotFound, Unavailable
from imserver.model import Group, NewMember, UserKey, user_timeline
from imserver.protocol.commands import AckStatus
from imserver.protocol.frame import MAX_BODY
from imserver.protocol.messages import (
    GroupIM,
    GroupNotification,
    Message,
    SyncGroup,
    SyncGroupNotify,
    SyncNotify,
)
from tests.fakes.chat import FakeConnection
from tests.unit.chat.world import APP, NOW, World, plain, refused

ALICE, BOB, CAROL, DAVE, EVE = 1, 2, 3, 4, 5
GROUP, SUPER, FOREIGN, NOWHERE = 50, 60, 70, 99


@pytest.fixture
def world() -> World:
    world = World()
    world.groups.add_group(APP, GROUP, (ALICE, BOB, CAROL), name="tea", joined=NOW - 100)
    world.groups.add_group(APP, SUPER, (ALICE, BOB, CAROL), name="tea", joined=NOW - 100, is_super=True)
    world.groups.add_group(8, FOREIGN, (ALICE, BOB), name="tea")
    return world


def result(changed: Deferred[Group]) -> Group:
    results: list[Group] = []
    changed.addCallback(results.append)
    assert len(results) == 1
    return results[0]


def failure(changed: Deferred[Group]) -> type[Exception]:
    failures: list[Any] = []
    changed.addErrback(failures.append)
    assert len(failures) == 1
    return type(failures[0].value)


def contents(messages: list[Message]) -> list[Any]:
    return [json.loads(message.content) for message in messages if isinstance(message, GroupNotification)]


def own(world: World, uid: int) -> list[Any]:
    """The notifications in the user's own timeline."""
    return contents(world.stored(uid))


def of_group(world: World, group: int = SUPER) -> list[Any]:
    """The notifications in the timeline of a super group."""
    return contents(world.stored_in_group(group))


def heard_by(world: World) -> set[int]:
    """Whose own timelines have something."""
    return {timeline.owner for timeline, entries in world.timelines.entries.items() if entries and timeline.kind == 0}


def test_provides_its_interface(world: World) -> None:
    """What the HTTP APIs are given is an IGroupChanges."""
    assert verifyObject(IGroupChanges, world.changes)


# In which words, and who hears them


def test_create(world: World) -> None:
    """To the members, the master among them, who is one in any case."""
    bob = world.connect(BOB)
    members = [NewMember(CAROL, "Carol"), NewMember(BOB), NewMember(CAROL, "again")]
    group = result(world.changes.create(APP, ALICE, "tea", members, False, None))
    said = {
        "group_id": group.group_id,
        "master": ALICE,
        "name": "tea",
        "members": [ALICE, BOB, CAROL],
        "timestamp": NOW,
    }
    for uid in (ALICE, BOB, CAROL):
        assert own(world, uid) == [{"create": said}]
    assert bob.units == [plain([SyncNotify(2)])]
    assert list(group.members) == [ALICE, BOB, CAROL]


def test_create_a_super_group(world: World) -> None:
    """Into its timeline, where the members find it."""
    bob = world.connect(BOB)
    group = result(world.changes.create(APP, ALICE, "tea", [NewMember(BOB)], True, 1234))
    assert group.group_id == 1234
    assert [kind for said in of_group(world, 1234) for kind in said] == ["create"]
    assert bob.units == [plain([SyncGroupNotify(1234, 2)])]
    assert heard_by(world) == set()
    bob.forget()
    world.say(bob, SyncGroup(1234, 0))
    assert contents([said.message for said in bob.said]) == of_group(world, 1234)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda world, group: world.changes.rename(APP, group, "coffee ☕"),
            {"update_name": {"group_id": 0, "name": "coffee ☕", "timestamp": NOW}},
        ),
        (
            lambda world, group: world.changes.set_nickname(APP, group, BOB, "Bo"),
            {
                "update_member_nickname": {
                    "group_id": 0,
                    "group_name": "tea",
                    "member_id": BOB,
                    "nickname": "Bo",
                    "timestamp": NOW,
                }
            },
        ),
    ],
    ids=["rename", "nickname"],
)
def test_changes_that_concern_all(
    world: World, change: Callable[[World, int], Deferred[Group]], said: dict[str, Any]
) -> None:
    """Members of a normal group hear of it in their own timelines, those of a super group in the group's."""
    [fields] = said.values()
    for group in (GROUP, SUPER):
        result(change(world, group))
    for uid in (ALICE, BOB, CAROL):
        assert own(world, uid) == [{kind: {**fields, "group_id": GROUP} for kind in said}]
    assert of_group(world) == [{kind: {**fields, "group_id": SUPER} for kind in said}]
    assert heard_by(world) == {ALICE, BOB, CAROL}


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_add(world: World, group: int) -> None:
    """One notification for each new member, with what the caller says about them; who joins gets them too."""
    dave = world.connect(DAVE)
    inviter = {"uid": ALICE, "name": "Alice", "some": [1, None, {"x": 0.5}]}
    members = [NewMember(EVE), NewMember(BOB, "was there"), NewMember(DAVE, "Dave", "d.png"), NewMember(EVE, "again")]
    now = result(world.changes.add(APP, group, members, inviter))
    assert list(now.members) == [ALICE, BOB, CAROL, DAVE, EVE]
    common = {"group_id": group, "group_name": "tea", "timestamp": NOW, "inviter": inviter}
    said = [
        {"add_member": {**common, "member_id": EVE}},
        {"add_member": {**common, "member_id": DAVE, "name": "Dave", "avatar": "d.png"}},
    ]
    if group == GROUP:
        for uid in now.members:
            assert own(world, uid) == said
        assert dave.units == [plain([SyncNotify(key)]) for key in (2, 3)]
    else:
        assert of_group(world) == said
        assert heard_by(world) == set()
        assert dave.units == [plain([SyncGroupNotify(SUPER, key)]) for key in (2, 3)]
        dave.forget()
        world.say(dave, SyncGroup(SUPER, 0))
        assert contents([each.message for each in dave.said]) == said


def test_add_without_more(world: World) -> None:
    """What the caller does not say is left out. Who is a member already is not announced again."""
    result(world.changes.add(APP, GROUP, [NewMember(DAVE)], None))
    for _ in range(2):
        result(world.changes.add(APP, GROUP, [NewMember(DAVE), NewMember(BOB)], None))
        result(world.changes.add(APP, GROUP, [], None))
    fields = {"group_id": GROUP, "group_name": "tea", "member_id": DAVE, "timestamp": NOW}
    assert own(world, ALICE) == [{"add_member": fields}]


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_remove(world: World, group: int) -> None:
    """One notification for each who left: the others hear it where they look, and who left in their own timeline."""
    now = result(world.changes.remove(APP, group, [CAROL, DAVE, BOB, CAROL]))
    assert list(now.members) == [ALICE]
    common = {"group_id": group, "group_name": "tea", "timestamp": NOW}
    carols, bobs = ({"quit_group": {**common, "member_id": uid}} for uid in (CAROL, BOB))
    if group == GROUP:
        assert own(world, ALICE) == [carols, bobs]
    else:
        assert of_group(world) == [carols, bobs]
        assert own(world, ALICE) == []
    assert (own(world, CAROL), own(world, BOB), own(world, DAVE)) == ([carols], [bobs], [])


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_the_last_leaves(world: World, group: int) -> None:
    """They hear of it, though there is nobody else; of a group without members nothing can be told."""
    result(world.changes.remove(APP, group, [ALICE, BOB]))
    assert result(world.changes.remove(APP, group, [CAROL])).members == {}
    assert [list(said) for said in own(world, CAROL)][-1] == ["quit_group"]
    before = len(world.timelines.messages)
    assert result(world.changes.rename(APP, group, "coffee")).name == "coffee"
    assert result(world.changes.upgrade(APP, group)).is_super
    assert result(world.changes.disband(APP, group)).members == {}
    assert len(world.timelines.messages) == before


@pytest.mark.parametrize("group", [GROUP, SUPER])
def test_disband(world: World, group: int) -> None:
    """All who were members hear of it in their own timelines: that of the group is nobody's any more."""
    group_before = result(world.changes.disband(APP, group))
    assert list(group_before.members) == [ALICE, BOB, CAROL]
    for uid in group_before.members:
        assert own(world, uid) == [{"disband": {"group_id": group, "group_name": "tea", "timestamp": NOW}}]
    assert of_group(world) == []


def test_upgrade(world: World) -> None:
    """Members have not looked into the group's timeline yet: they hear of it in their own, and there, where it begins.
    Once only; a super group is not upgraded."""
    bob = world.connect(BOB)
    for _ in range(2):
        assert result(world.changes.upgrade(APP, GROUP)).is_super
        assert result(world.changes.upgrade(APP, SUPER)).is_super
    said = [{"upgrade": {"group_id": GROUP, "group_name": "tea", "timestamp": NOW, "super": 1}}]
    for uid in (ALICE, BOB, CAROL):
        assert own(world, uid) == said
    assert of_group(world, GROUP) == said
    assert of_group(world, SUPER) == []
    assert len(world.timelines.messages) == 1
    assert bob.units == [plain([SyncGroupNotify(GROUP, 2)]), plain([SyncNotify(2)])]


def test_mute(world: World) -> None:
    """In force, and not announced."""
    alice = world.connect(ALICE)
    for on, units in ((True, [refused(1, AckStatus.MUTED)]), (False, [])):
        alice.forget()
        assert result(world.changes.set_mute(APP, GROUP, ALICE, on)).members[ALICE].muted == on
        assert world.timelines.messages == []
        world.say(alice, GroupIM(ALICE, GROUP, 0, 0, b"hello"))
        assert not units or alice.units == units
        world.timelines.messages.clear()
    assert len(world.stored(BOB)) == 1


# What cannot be


@pytest.mark.parametrize("group", [NOWHERE, FOREIGN])
def test_no_such_group(world: World, group: int) -> None:
    """Nor one of another app: nothing is changed or announced."""
    before = shown(world.groups.group(8, FOREIGN))
    for changed in (
        world.changes.rename(APP, group, "coffee"),
        world.changes.disband(APP, group),
        world.changes.add(APP, group, [NewMember(DAVE)], None),
        world.changes.remove(APP, group, [BOB]),
        world.changes.upgrade(APP, group),
        world.changes.set_nickname(APP, group, BOB, "Bo"),
        world.changes.set_mute(APP, group, BOB, True),
    ):
        assert failure(changed) is NotFound
    assert shown(world.groups.group(8, FOREIGN)) == before
    assert world.timelines.entries == {}


def shown(group: Any) -> Any:
    return group.name, group.members, group.is_super


def test_no_such_member_or_app(world: World) -> None:
    """Who is no member has no nickname and cannot be muted; without an app there is no group."""
    assert failure(world.changes.set_nickname(APP, GROUP, DAVE, "Dave")) is NotFound
    assert failure(world.changes.set_mute(APP, GROUP, DAVE, True)) is NotFound
    assert failure(world.changes.create(12345, ALICE, "tea", [], False, None)) is NotFound
    assert failure(world.changes.create(APP, ALICE, "tea", [], False, GROUP)) is AlreadyExists
    assert world.timelines.entries == {}


@pytest.mark.parametrize("bad", [0, -1, 2**53, 2**63])
def test_ids_out_of_range(world: World, bad: int) -> None:
    """They are from 1 to 2^53 - 1."""
    for changed in (
        world.changes.create(bad, ALICE, "tea", [], False, None),
        world.changes.create(APP, bad, "tea", [], False, None),
        world.changes.create(APP, ALICE, "tea", [NewMember(bad)], False, None),
        world.changes.create(APP, ALICE, "tea", [], False, bad),
        world.changes.rename(bad, GROUP, "coffee"),
        world.changes.rename(APP, bad, "coffee"),
        world.changes.add(APP, GROUP, [NewMember(DAVE), NewMember(bad)], None),
        world.changes.remove(APP, GROUP, [BOB, bad]),
        world.changes.disband(APP, bad),
        world.changes.upgrade(APP, bad),
        world.changes.set_nickname(APP, bad, BOB, ""),
        world.changes.set_mute(APP, bad, BOB, True),
    ):
        assert failure(changed) is Invalid
    assert world.timelines.entries == {}
    group = world.groups.group(APP, GROUP)
    assert isinstance(group, Group)
    assert list(group.members) == [ALICE, BOB, CAROL]


LONG = "x" * MAX_BODY


def test_names_that_cannot_be_announced(world: World) -> None:
    """They are refused before anything is changed."""
    for changed in (
        world.changes.create(APP, ALICE, LONG, [], False, None),
        world.changes.rename(APP, GROUP, LONG),
        world.changes.set_nickname(APP, GROUP, BOB, LONG),
        world.changes.add(APP, GROUP, [NewMember(DAVE), NewMember(EVE, LONG)], None),
        world.changes.add(APP, GROUP, [NewMember(DAVE)], {"name": LONG}),
    ):
        assert failure(changed) is Invalid
    assert shown(world.groups.group(APP, GROUP))[:1] == ("tea",)
    assert world.timelines.entries == {}
    assert world.groups.group(APP, 71) is None


def test_a_large_group_is_made(world: World) -> None:
    """The notification names as many members as it has room for; all are members, and hear of it."""
    members = [NewMember(uid) for uid in range(1, 9_001)]
    group = result(world.changes.create(APP, ALICE, "large", members, False, None))
    assert len(group.members) == 9_000
    (message,) = world.timelines.messages
    assert MAX_BODY - 8 < len(message.body) <= MAX_BODY
    (said,) = own(world, 9_000)
    named = said["create"]["members"]
    assert named == list(range(1, len(named) + 1))
    assert len(named) > 6_000


def test_too_many_changes_at_once(world: World) -> None:
    """A notification for each who joins, to each member of a large group: more than a server should be asked for."""
    world.groups.add_group(APP, NOWHERE, range(1, 3001))
    assert failure(world.changes.add(APP, NOWHERE, [NewMember(uid) for uid in range(3001, 3400)], None)) is Invalid
    assert failure(world.changes.remove(APP, NOWHERE, range(1, 400))) is Invalid
    assert world.timelines.entries == {}
    assert len(result(world.changes.remove(APP, NOWHERE, [1, *range(4000, 9000)])).members) == 2999


# Order, and what fails


def test_changes_of_a_group_are_made_in_turn(world: World) -> None:
    """So what is announced is what changed, in the order in which it did, also where answers take their time."""
    world.groups.hold()
    changed = [
        world.changes.add(APP, GROUP, [NewMember(DAVE)], None),
        world.changes.add(APP, GROUP, [NewMember(DAVE), NewMember(EVE)], None),
        world.changes.remove(APP, GROUP, [DAVE]),
        world.changes.rename(APP, GROUP, "coffee"),
        world.changes.remove(APP, GROUP, [DAVE, EVE]),
    ]
    assert not any(each.called for each in changed)
    # Another group need not wait for that.
    other = world.changes.set_mute(APP, SUPER, BOB, True)
    world.groups.release()
    assert other.called
    for each in changed:
        result(each)
    said = [(kind, fields.get("member_id")) for each in own(world, ALICE) for kind, fields in each.items()]
    assert said == [
        ("add_member", DAVE),
        ("add_member", EVE),
        ("quit_group", DAVE),
        ("update_name", None),
        ("quit_group", EVE),
    ]
    assert own(world, ALICE)[-1]["quit_group"]["group_name"] == "coffee"
    assert world.changes._turns == {}


def test_too_many_changes_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits has a bound."""
    monkeypatch.setattr(changes, "_MOST_WAITING", 2)
    world.groups.hold()
    changed = [world.changes.rename(APP, GROUP, str(n)) for n in range(4)]
    assert failure(changed[3]) is Unavailable
    world.groups.release()
    assert result(changed[2]).name == "2"
    assert world.changes._turns == {}


def test_in_force_when_it_is_announced(world: World) -> None:
    """And when the caller hears that it is done, the notification is on disk."""
    dave = world.connect(DAVE)
    world.timelines.hold()
    changed = world.changes.add(APP, GROUP, [NewMember(DAVE), NewMember(EVE)], None)
    assert (changed.called, dave.units) == (False, [])
    world.say(dave, GroupIM(DAVE, GROUP, 0, 0, b"hello"))
    world.timelines.release()
    assert changed.called
    entries = world.timelines.entries[user_timeline(UserKey(APP, DAVE))]
    assert [entry.command for entry in entries] == [7, 8, 7]


def changes_of(world: World) -> list[Callable[[], Deferred[Group]]]:
    return [
        lambda: world.changes.create(APP, ALICE, "tea", [NewMember(BOB)], False, NOWHERE),
        lambda: world.changes.rename(APP, GROUP, "coffee"),
        lambda: world.changes.set_nickname(APP, GROUP, BOB, "Bo"),
        lambda: world.changes.add(APP, GROUP, [NewMember(DAVE), NewMember(EVE)], None),
        lambda: world.changes.remove(APP, GROUP, [BOB, CAROL]),
        lambda: world.changes.upgrade(APP, GROUP),
        lambda: world.changes.disband(APP, GROUP),
    ]


@pytest.mark.parametrize("which", range(7))
def test_a_change_that_cannot_be_announced(world: World, which: int) -> None:
    """The caller is told of failure; the change stands; the next change is none the worse for it."""
    before = [world.groups.group(APP, group) for group in (GROUP, NOWHERE)]
    world.timelines.failing = Unavailable("as the test wants it")
    assert failure(changes_of(world)[which]()) is Unavailable
    after = [world.groups.group(APP, group) for group in (GROUP, NOWHERE)]
    assert [group and shown(group) for group in before] != [group and shown(group) for group in after]
    assert world.timelines.entries == {}
    world.timelines.failing = None
    assert result(world.changes.rename(APP, SUPER, "coffee")).name == "coffee"
    assert world.changes._turns == {}


@pytest.mark.parametrize("which", range(7))
def test_a_change_that_cannot_be_made(world: World, which: int) -> None:
    """Nothing is announced that did not happen."""
    world.groups.unavailable = True
    assert failure(changes_of(world)[which]()) is Unavailable
    assert world.timelines.entries == {}
    assert world.changes._turns == {}


def test_clients_hear_before_and_after(world: World) -> None:
    """What is said before somebody is put out they hear, what is said after they do not; the others hear all."""
    bob: FakeConnection = world.connect(BOB)
    for content in (b"before", b"after"):
        world.posts.group(APP, 0, GROUP, content)
        world.changes.remove(APP, GROUP, [BOB])
    assert [message.content for message in world.stored(BOB) if isinstance(message, GroupIM)] == [b"before"]
    assert [message.content for message in world.stored(CAROL) if isinstance(message, GroupIM)] == [b"before", b"after"]
    assert len(bob.units) == 2
