"""Groups: what is asked of the server, and what is printed."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from imserver.cli import operator
from imserver.cli.common import Imctl
from imserver.cli.complaint import Complaint
from imserver.cli.found import FoundServer
from imserver.cli.operator import Operator
from imserver.cli.root import imctl
from tests.fakes.admin import KEY, Asked, FakeAdmin, http_to
from tests.fakes.server import now

Call = Callable[..., Result]

GROUP: dict[str, Any] = {
    "appid": 7,
    "group_id": 20,
    "name": "Tea",
    "notice": "",
    "master": 1,
    "super": False,
    "size": 3,
}


def member(uid: int, muted: bool = False, nickname: str = "") -> dict[str, Any]:
    return {"uid": uid, "joined": 1_700_000_000, "muted": muted, "nickname": nickname}


class TestCreate:
    def test_create(self, call: Call, admin: FakeAdmin) -> None:
        """Members and ranges of them; JSON with the group's number, with and without --json."""
        admin.answers["POST", "/admin/groups"] = (200, GROUP)
        words = ("group", "create", "--app", "8", "--master", "1", "--member", "1-5", "--member", "9", "Tea")
        for as_json in (False, True):
            result = call(*words, as_json=as_json)
            assert (result.exit_code, result.stderr) == (0, "")
            assert json.loads(result.stdout)["group_id"] == 20
        body = {"appid": 8, "master": 1, "name": "Tea", "members": [[1, 5], [9, 9]], "super": False}
        assert admin.asked == [Asked("POST", "/admin/groups", body)] * 2

    def test_options(self, call: Call, admin: FakeAdmin) -> None:
        """A super group with a number of one's own; app 7 unless another is named; nobody but the master."""
        admin.answers["POST", "/admin/groups"] = (200, GROUP)
        assert call("group", "create", "Tea", "--master", "1", "--super", "--id", "20").exit_code == 0
        body = {"appid": 7, "master": 1, "name": "Tea", "members": [], "super": True, "group_id": 20}
        assert admin.asked == [Asked("POST", "/admin/groups", body)]

    def test_large_group(self, call: Call, admin: FakeAdmin) -> None:
        """Ten thousand members are one range in one call."""
        admin.answers["POST", "/admin/groups"] = (200, GROUP)
        assert call("group", "create", "--master", "1", "--member", "1-10000", "All").exit_code == 0
        [asked] = admin.asked
        assert asked.body["members"] == [[1, 10_000]]

    def test_exists(self, call: Call, admin: FakeAdmin) -> None:
        """The server's own words, and exit status 1."""
        admin.answers["POST", "/admin/groups"] = (409, "there is a group 20 already")
        result = call("group", "create", "--master", "1", "--id", "20", "Tea")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is a group 20 already" in result.stderr

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("Tea",), "--master"),
            (("--master", "1"), "NAME"),
            (("--master", "0", "Tea"), "is no number from 1 to"),
            (("--master", "1", "--member", "5-3", "Tea"), "a range goes up"),
            (("--master", "1", "--member", "a", "Tea"), "no range of uids"),
            (("--master", "1", "--member", f"1-{2**53}", "Tea"), "uids go from 1"),
            (("--master", "1", "--id", "0", "Tea"), "is no number from 1 to"),
            (("--master", "1", "--app", "x", "Tea"), "is no number from 1 to"),
            (("--master", "1", "Tea", "time"), "time"),
        ],
    )
    def test_mistakes(self, call: Call, admin: FakeAdmin, words: tuple[str, ...], complaint: str) -> None:
        """What is no group is refused before anything is asked."""
        result = call("group", "create", *words)
        assert result.exit_code != 0
        assert complaint in result.stderr
        assert admin.asked == []


class TestShow:
    def test_normal_group(self, call: Call, admin: FakeAdmin) -> None:
        """Members as ranges, who is muted, nicknames, the notice; all of it as JSON."""
        members = [member(1), member(2, muted=True), member(3, nickname="C\x1b[2J"), member(9, muted=True)]
        answer = {**GROUP, "size": 4, "notice": "at five", "head": None, "members": members}
        admin.answers["GET", "/admin/groups/7/20"] = (200, answer)
        assert call("group", "show", "7", "20").stdout == (
            "group 20 of app 7: Tea\n"
            "  kind       normal\n"
            "  master     1\n"
            "  members    4: 1-3, 9\n"
            "  muted      2, 9\n"
            "  nicknames  3 C\N{REPLACEMENT CHARACTER}[2J\n"
            "  notice     at five\n"
        )
        assert json.loads(call("group", "show", "7", "20", as_json=True).stdout) == answer

    def test_large_super_group(self, call: Call, admin: FakeAdmin) -> None:
        """What would fill the screen is cut; a name cannot steer the terminal, and may be missing."""
        members = [member(uid) for uid in range(1, 20_001, 2)]
        answer = {**GROUP, "name": "", "super": True, "size": 10_000, "head": 12, "members": members}
        admin.answers["GET", "/admin/groups/7/20"] = (200, answer)
        text = call("group", "show", "7", "20").stdout
        assert text.startswith("group 20 of app 7\n  kind       super, newest entry 12\n")
        assert "members    10,000: 1, 3, 5" in text
        assert text.endswith(", 39 … (9,980 more; --json has all)\n")
        admin.answers["GET", "/admin/groups/7/20"] = (200, {**answer, "name": "\x1b[2J:"})
        assert "group 20 of app 7: \N{REPLACEMENT CHARACTER}[2J:\n" in call("group", "show", "7", "20").stdout

    def test_no_such_group(self, call: Call) -> None:
        """The server's own words, and exit status 1."""
        result = call("group", "show", "7", "99")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is no such thing" in result.stderr


CHANGES: list[tuple[tuple[str, ...], str, dict[str, Any], str]] = [
    (("add", "10", "30-39"), "add", {"members": [[10, 10], [30, 39]]}, "group 20 of app 7 has 3 members now"),
    (("remove", "2"), "remove", {"members": [[2, 2]]}, "group 20 of app 7 has 3 members now"),
    (("mute", "2"), "mute", {"uid": 2, "on": True}, "user 2 may not speak in group 20 of app 7 any more"),
    (("unmute", "2"), "mute", {"uid": 2, "on": False}, "user 2 may speak in group 20 of app 7"),
    (("rename", "Tea"), "rename", {"name": "Tea"}, "group 20 of app 7: Tea"),
    (("upgrade",), "upgrade", {}, "group 20 of app 7 is a super group"),
    (("disband",), "disband", {}, "group 20 of app 7 is no more; it had 3 members"),
]


class TestChanges:
    @pytest.mark.parametrize(("words", "path", "body", "said"), CHANGES)
    def test_change(
        self, call: Call, admin: FakeAdmin, words: tuple[str, ...], path: str, body: dict[str, Any], said: str
    ) -> None:
        """One call, one line, or the answer as JSON."""
        admin.answers["POST", f"/admin/groups/7/20/{path}"] = (200, GROUP)
        what, *more = words
        result = call("group", what, "7", "20", *more)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{said}\n", "")
        assert json.loads(call("group", what, "7", "20", *more, as_json=True).stdout) == GROUP
        assert admin.asked == [Asked("POST", f"/admin/groups/7/20/{path}", body)] * 2

    def test_one_member(self, call: Call, admin: FakeAdmin) -> None:
        """One is one."""
        admin.answers["POST", "/admin/groups/7/20/remove"] = (200, {**GROUP, "size": 1})
        assert call("group", "remove", "7", "20", "2").stdout == "group 20 of app 7 has 1 member now\n"

    @pytest.mark.parametrize("words", [words for words, *_ in CHANGES])
    def test_refused(self, call: Call, admin: FakeAdmin, words: tuple[str, ...]) -> None:
        """What the server says against it, and exit status 1."""
        path = "mute" if words[0] == "unmute" else words[0]
        admin.answers["POST", f"/admin/groups/7/20/{path}"] = (503, "the database did not answer in time")
        result = call("group", words[0], "7", "20", *words[1:])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the database did not answer in time" in result.stderr

    @pytest.mark.parametrize("words", [words for words, *_ in CHANGES])
    def test_no_such_group(self, call: Call, words: tuple[str, ...]) -> None:
        """A group of another app is none of this."""
        result = call("group", words[0], "8", "20", *words[1:])
        assert result.exit_code == 1
        assert "there is no such thing" in result.stderr

    @pytest.mark.parametrize(
        "words",
        [
            ("add", "7", "20"),
            ("add", "7", "20", "x"),
            ("add", "7", "20", "5", "4-3"),
            ("remove", "7", "20"),
            ("remove", "7", "20", "0"),
            ("mute", "7", "20"),
            ("mute", "7", "20", "1-5"),
            ("unmute", "7", "20", "x"),
            ("rename", "7", "20"),
            ("upgrade", "7"),
            ("upgrade", "7", "x"),
            ("disband", "20"),
            ("disband", "7", "20", "21"),
            ("show", "0", "20"),
            ("show", "7", str(2**53)),
        ],
    )
    def test_mistakes(self, call: Call, admin: FakeAdmin, words: tuple[str, ...]) -> None:
        """What is no change of a group is refused before anything is asked."""
        assert call("group", *words).exit_code != 0
        assert admin.asked == []


class Waiting(Imctl):
    """Says what a command waits for, and leaves time to the test."""

    def __init__(self, data: Path) -> None:
        super().__init__(None, str(data), False)
        self.clock = MemoryReactorClock()
        self.waited: Deferred[None] | None = None

    def wait_for(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self.waited = Deferred.fromCoroutine(work(self.clock))


@pytest.mark.parametrize("words", [("create", "--master", "1", "Tea"), ("add", "7", "20", "5"), ("disband", "7", "20")])
def test_changes_have_time(data: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """What is told to ten thousand members takes longer than a row; not for ever."""

    def operator_of(reactor: Any, server: FoundServer) -> Operator:
        return Operator(reactor, http_to(Silent()), "http://127.0.0.1:6666", KEY)  # type: ignore[no-untyped-call]  # Twisted's

    monkeypatch.setattr(operator, "operator_of", operator_of)
    waiting = Waiting(data)
    assert CliRunner().invoke(imctl, ("group", *words), obj=waiting).exit_code == 0
    assert waiting.waited is not None
    waiting.clock.advance(119)
    assert not waiting.waited.called
    waiting.clock.advance(2)
    with pytest.raises(Complaint, match="no answer within 120 s"):
        now(waiting.waited)


class Silent(Resource):
    """Takes requests and never answers."""

    isLeaf = True

    def render(self, request: Request) -> int:
        return NOT_DONE_YET


@pytest.mark.parametrize(
    "words", [(), ("create",), ("show",), ("add",), ("remove",), ("mute",), ("rename",), ("upgrade",), ("disband",)]
)
def test_help(call: Call, words: tuple[str, ...]) -> None:
    """Each says what it does."""
    text = call("group", *words, "--help").stdout
    assert text.startswith(f"Usage: imctl {' '.join(('group', *words))}")
    assert len(text.splitlines()) > 4
