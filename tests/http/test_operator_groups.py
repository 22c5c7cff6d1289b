"""The operator's calls about groups."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from imserver.interfaces import Invalid
from imserver.model import Entry, Group, NewMember, group_timeline
from tests.fakes.groups import FakeGroups
from tests.http.fakes import FakeGroupChanges
from tests.http.server import Answer, Server, result_of

GROUP = "/admin/groups/7/20"


@pytest.fixture
def server() -> Server:
    """Group 20 of app 7: users 1 (the master), 2 and 3; group 21 is of app 8."""
    server = Server()
    server.groups.add_group(7, 20, [1, 2, 3], name="tea", joined=1_700_000_000, muted=[3])
    server.groups.add_group(8, 21, [1, 2])
    return server


def members_of(server: Server, gid: int) -> list[int]:
    group = server.groups.group(7, gid)
    assert isinstance(group, Group)
    return list(group.members)


def described(**changed: Any) -> dict[str, Any]:
    """Group 20 as changes answer it."""
    group = {"appid": 7, "group_id": 20, "name": "tea", "notice": "", "master": 1, "super": False, "size": 3}
    return {**group, **changed}


def test_create(server: Server) -> None:
    """Ranges of members, each once, whatever the ranges have in common; the master need not be named."""
    body = {"appid": 7, "master": 1, "name": "coffee", "members": [[5, 7], [6, 8], [1, 1]]}
    answer = server.call("POST", "/admin/groups", body)
    gid = answer.json["group_id"]
    assert answer.json == described(group_id=gid, name="coffee", size=5)
    assert members_of(server, gid) == [1, 5, 6, 7, 8]
    members = [NewMember(uid) for uid in (5, 6, 7, 8, 1)]
    assert server.group_changes.changed == [("create", 7, 1, "coffee", members, False, None)]


def test_create_with_all_options(server: Server) -> None:
    """A super group of a number of one's own, with nobody but its master."""
    body = {"appid": 7, "master": 4, "name": "", "members": [], "super": True, "group_id": 99}
    answer = server.call("POST", "/admin/groups", body)
    assert answer.json == described(group_id=99, name="", master=4, super=True, size=1)
    assert server.group_changes.changed == [("create", 7, 4, "", [], True, 99)]
    assert server.call("POST", "/admin/groups", body).is_error(409, "99")


@pytest.mark.parametrize("ranges", [[[1, 10_000]], [[uid, uid] for uid in range(1, 10_001)]])
def test_create_a_large_group(server: Server, ranges: list[list[int]]) -> None:
    """10,000 members at once, in one range or in as many."""
    body = {"appid": 7, "master": 1, "name": "all", "members": ranges}
    answer = server.call("POST", "/admin/groups", body)
    assert (answer.status, answer.json["size"]) == (200, 10_000)
    assert members_of(server, answer.json["group_id"]) == list(range(1, 10_001))


@pytest.mark.parametrize("path", ["/admin/groups", f"{GROUP}/add", f"{GROUP}/remove"])
@pytest.mark.parametrize(
    ("ranges", "word"),
    [
        ([[1, 10_001]], "10001 members in one call are too many: at most 10000"),
        ([[1, 6000], [1, 6000]], "12000 members"),
        ([[1, 2**53 - 1]], "too many"),
        ([[uid, uid] for uid in range(1, 10_002)], "length"),
        ([[3, 2]], "3 to 2"),
        ([[0, 2]], "members"),
        ([[1, 2**53]], "members"),
        ([[1]], "members"),
        ([[1, 2, 3]], "members"),
        ([1, 2], "members"),
        (["1-2"], "members"),
        ([["1", "2"]], "members"),
        ([[1.0, 2]], "members"),
        ("1-2", "members"),
        (None, "members"),
    ],
)
def test_wrong_members(server: Server, path: str, ranges: object, word: str) -> None:
    """What are no ranges of users, or too many, is refused before anything is done."""
    body: dict[str, object] = {"members": ranges}
    if path == "/admin/groups":
        body |= {"appid": 7, "master": 1, "name": "coffee"}
    assert server.call("POST", path, body).is_error(400, word)
    assert server.group_changes.changed == []


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("", {"appid": 0, "master": 1, "name": "a", "members": []}, "appid"),
        ("", {"appid": 7, "master": 0, "name": "a", "members": []}, "master"),
        ("", {"appid": 7, "name": "a", "members": []}, "master"),
        ("", {"appid": 7, "master": 1, "members": []}, "name"),
        ("", {"appid": 7, "master": 1, "name": "a"}, "members"),
        ("", {"appid": 7, "master": 1, "name": "n" * 256, "members": []}, "name"),
        ("", {"appid": 7, "master": 1, "name": "two\nlines", "members": []}, "name"),
        ("", {"appid": 7, "master": 1, "name": "a", "members": [], "super": 1}, "super"),
        ("", {"appid": 7, "master": 1, "name": "a", "members": [], "group_id": 2**53}, "group_id"),
        ("/7/20/add", {"members": []}, "members"),
        ("/7/20/remove", {"members": []}, "members"),
        ("/7/20/mute", {"uid": 2}, "on"),
        ("/7/20/mute", {"on": True}, "uid"),
        ("/7/20/mute", {"uid": 2, "on": 1}, "on"),
        ("/7/20/mute", {"uid": 0, "on": True}, "uid"),
        ("/7/20/rename", {}, "name"),
        ("/7/20/rename", {"name": None}, "name"),
        ("/7/20/rename", {"name": "\x1b[2J"}, "name"),
    ],
)
def test_wrong_fields(server: Server, path: str, body: object, word: str) -> None:
    """A field that is missing, of another type or out of its range is named, and nothing is done."""
    assert server.call("POST", f"/admin/groups{path}", body).is_error(400, word)
    assert server.group_changes.changed == []


#: What can be asked of a group.
ASKED: list[tuple[str, object]] = [
    ("", None),
    ("/add", {"members": [[5, 5]]}),
    ("/remove", {"members": [[2, 2]]}),
    ("/mute", {"uid": 2, "on": True}),
    ("/rename", {"name": "mine"}),
    ("/upgrade", None),
    ("/disband", None),
]


@pytest.mark.parametrize(("suffix", "body"), ASKED)
@pytest.mark.parametrize("group", ["7/21", "8/20", "7/22", "9/20"])
def test_group_of_another_app(server: Server, group: str, suffix: str, body: object) -> None:
    """A group of another app is one that does not exist."""
    method = "POST" if suffix else "GET"
    assert server.call(method, f"/admin/groups/{group}{suffix}", body).is_error(404, group.partition("/")[2])
    assert server.group_changes.changed == []


@pytest.mark.parametrize(("suffix", "body"), ASKED)
@pytest.mark.parametrize(("group", "word"), [("x/20", "appid"), ("0/20", "appid"), ("7/x", "gid"), ("7/0", "gid")])
def test_wrong_group_in_the_path(server: Server, group: str, word: str, suffix: str, body: object) -> None:
    """A number in the path that is none, or out of range, is named."""
    method = "POST" if suffix else "GET"
    assert server.call(method, f"/admin/groups/{group}{suffix}", body).is_error(400, word)


def test_show(server: Server) -> None:
    """The group, and each member as the group knows them."""
    result_of(server.groups.change_member(7, 20, 2, nickname="Bob"))
    assert server.call("GET", GROUP).json == described(
        head=None,
        members=[
            {"uid": 1, "joined": 1_700_000_000, "muted": False, "nickname": ""},
            {"uid": 2, "joined": 1_700_000_000, "muted": False, "nickname": "Bob"},
            {"uid": 3, "joined": 1_700_000_000, "muted": True, "nickname": ""},
        ],
    )


def test_show_a_super_group(server: Server) -> None:
    """It has a timeline of its own."""
    server.groups.add_group(7, 30, [1], is_super=True)
    server.timelines.entries[group_timeline(7, 30)] += [Entry(key, 8, 0, b"", 0) for key in (2, 3)]
    answer = server.call("GET", "/admin/groups/7/30").json
    assert (answer["super"], answer["head"]) == (True, 3)


def test_show_one_that_is_not_in_memory(server: Server) -> None:
    """A group that has to be read is waited for."""
    server.groups.hold()
    answers: list[Answer] = []
    server.ask("GET", GROUP).addCallback(answers.append)
    assert answers == []
    server.groups.release()
    server.flush()
    assert [answer.json["size"] for answer in answers] == [3]


def test_add_and_remove(server: Server) -> None:
    """Members come and go; the answer is the group as it is then."""
    assert server.call("POST", f"{GROUP}/add", {"members": [[2, 5]]}).json == described(size=5)
    assert server.call("POST", f"{GROUP}/remove", {"members": [[1, 1], [4, 9]]}).json == described(size=2)
    assert members_of(server, 20) == [2, 3]
    assert server.group_changes.changed == [
        ("add", 7, 20, [NewMember(uid) for uid in (2, 3, 4, 5)], None),
        ("remove", 7, 20, [1, 4, 5, 6, 7, 8, 9]),
    ]


def test_mute(server: Server) -> None:
    """One member may not speak any more, and may again; who is no member cannot be muted."""
    for uid, on in ((2, True), (3, False)):
        assert server.call("POST", f"{GROUP}/mute", {"uid": uid, "on": on}).json == described()
    shown = server.call("GET", GROUP).json["members"]
    assert [member["muted"] for member in shown] == [False, True, False]
    assert server.group_changes.changed == [("set_mute", 7, 20, 2, True), ("set_mute", 7, 20, 3, False)]
    assert server.call("POST", f"{GROUP}/mute", {"uid": 9, "on": True}).is_error(404, "9 is no member")


def test_rename_upgrade_disband(server: Server) -> None:
    """Each goes the way of changes; a group that is disbanded is gone."""
    assert server.call("POST", f"{GROUP}/rename", {"name": "coffee"}).json == described(name="coffee")
    assert server.call("POST", f"{GROUP}/upgrade").json == described(name="coffee", super=True)
    assert server.call("POST", f"{GROUP}/disband").json == described(name="coffee", super=True)
    assert server.group_changes.changed == [("rename", 7, 20, "coffee"), ("upgrade", 7, 20), ("disband", 7, 20)]
    assert server.call("GET", GROUP).is_error(404, "20")
    assert server.call("POST", f"{GROUP}/disband").is_error(404, "20")


class Choosy(FakeGroupChanges):
    """Has something against every group."""

    def __init__(self) -> None:
        super().__init__(FakeGroups())

    def create(self, *args: object) -> Deferred[Group]:
        return fail(Invalid("the notification would be too long"))


def test_change_that_can_never_be() -> None:
    """What the domain refuses for good is the caller's mistake, in the domain's words."""
    server = Server(group_changes=Choosy())
    body = {"appid": 7, "master": 1, "name": "coffee", "members": []}
    assert server.call("POST", "/admin/groups", body).is_error(400, "the notification would be too long")
