"""Tokens, apps and users: what is asked of the server, and what is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from imserver.cli.complaint import Complaint
from imserver.cli.operator import Operator
from tests.fakes.admin import KEY, Asked, FakeAdmin, http_to
from tests.fakes.server import now

Call = Callable[..., Result]


class TestToken:
    def test_one(self, call: Call, admin: FakeAdmin) -> None:
        """`uid token`, and nothing else."""
        result = call("token", "7", "5")
        assert result.stdout == "5 token-7-5\n"
        assert result.stderr == ""
        assert result.exit_code == 0
        assert admin.asked == [Asked("POST", "/admin/tokens", {"appid": 7, "first": 5, "last": 5})]

    def test_range(self, call: Call) -> None:
        """A line for each user of the range, in order."""
        assert call("token", "7", "5-7").stdout == "5 token-7-5\n6 token-7-6\n7 token-7-7\n"

    def test_large_range(self, call: Call, admin: FakeAdmin) -> None:
        """More than the server makes at once are asked for in several calls."""
        lines = call("token", "7", "1-250000").stdout.splitlines()
        assert [(asked.body["first"], asked.body["last"]) for asked in admin.asked] == [
            (1, 100_000),
            (100_001, 200_000),
            (200_001, 250_000),
        ]
        assert len(lines) == 250_000
        assert (lines[0], lines[-1]) == ("1 token-7-1", "250000 token-7-250000")

    def test_json(self, call: Call) -> None:
        """An object a line."""
        lines = call("token", "7", "5-6", as_json=True).stdout.splitlines()
        assert [json.loads(line) for line in lines] == [
            {"appid": 7, "uid": 5, "token": "token-7-5"},
            {"appid": 7, "uid": 6, "token": "token-7-6"},
        ]

    @pytest.mark.parametrize("uids", ["", "0", "0-5", "7-5", "5-", "-", "x", "1-2-3", "1.5", str(2**53), f"1-{2**53}"])
    def test_no_uids(self, call: Call, admin: FakeAdmin, uids: str) -> None:
        """What is no range of uids is refused before anything is asked."""
        result = call("token", "--", "7", uids)
        assert result.exit_code != 0
        assert "uids" in result.stderr
        assert admin.asked == []

    def test_revoke_one(self, call: Call, admin: FakeAdmin) -> None:
        """A token, also one that looks like an option."""
        admin.answers["POST", "/admin/tokens/revoke"] = (200, {"revoked": 1})
        for token in ("abc", "-abc", "-hbc", "--abc"):
            assert call("token", "revoke", token).stdout == "revoked 1 token\n"
        assert [asked.body for asked in admin.asked] == [{"token": token} for token in ("abc", "-abc", "-hbc", "--abc")]

    def test_revoke_all(self, call: Call, admin: FakeAdmin) -> None:
        """All tokens of a user."""
        admin.answers["POST", "/admin/tokens/revoke"] = (200, {"revoked": 3})
        assert call("token", "revoke", "7", "1").stdout == "revoked 3 tokens\n"
        assert admin.asked[0].body == {"appid": 7, "uid": 1}
        assert json.loads(call("token", "revoke", "7", "1", as_json=True).stdout) == {"revoked": 3}

    @pytest.mark.parametrize("words", [(), ("a", "b"), ("1", "2", "3")])
    def test_revoke_what(self, call: Call, admin: FakeAdmin, words: tuple[str, ...]) -> None:
        """Neither a token nor a user."""
        assert call("token", "revoke", *words).exit_code != 0
        assert admin.asked == []

    def test_help(self, call: Call) -> None:
        """Both forms are in the help, and the words in the middle of them have their own."""
        text = call("token", "--help").stdout
        assert "Usage: imctl token APPID UID[-UID]" in text
        assert "imctl token revoke TOKEN | APPID UID" in text
        assert "Issue a token for each" in call("token", "7", "--help").stdout


class TestApp:
    def test_create(self, call: Call, admin: FakeAdmin) -> None:
        """JSON with number and secret, with and without --json."""
        admin.answers["POST", "/admin/apps"] = (200, {"appid": 8, "secret": "s"})
        assert json.loads(call("app", "create").stdout) == {"appid": 8, "secret": "s"}
        assert json.loads(call("app", "create", "--id", "8", "My shop", as_json=True).stdout)["secret"] == "s"
        assert [asked.body for asked in admin.asked] == [{"name": ""}, {"name": "My shop", "appid": 8}]

    def test_exists(self, call: Call, admin: FakeAdmin) -> None:
        """The server's own words, and exit status 1."""
        admin.answers["POST", "/admin/apps"] = (409, "there is an app 8 already")
        result = call("app", "create", "--id", "8")
        assert result.exit_code == 1
        assert "there is an app 8 already" in result.stderr
        assert result.stdout == ""

    def test_rotate(self, call: Call, admin: FakeAdmin) -> None:
        """The same JSON as of a new app, with and without --json."""
        admin.answers["POST", "/admin/apps/8/rotate"] = (200, {"appid": 8, "secret": "new"})
        for as_json in (False, True):
            result = call("app", "rotate", "8", as_json=as_json)
            assert json.loads(result.stdout) == {"appid": 8, "secret": "new"}
            assert result.exit_code == 0
        assert admin.asked[0] == Asked("POST", "/admin/apps/8/rotate", {})

    def test_rotate_nothing(self, call: Call, admin: FakeAdmin) -> None:
        """An app that there is not, and what is no app."""
        result = call("app", "rotate", "9")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is no such thing" in result.stderr
        for words in ((), ("x",), ("0",), ("7", "8")):
            assert call("app", "rotate", *words).exit_code != 0
        assert len(admin.asked) == 1

    def test_list(self, call: Call, admin: FakeAdmin) -> None:
        """Number and name; a name cannot steer the terminal."""
        apps = [{"appid": 7, "name": "demo"}, {"appid": 12, "name": "\x1b[2Jx"}]
        admin.answers["GET", "/admin/apps"] = (200, {"apps": apps})
        assert call("app", "list").stdout == "     7  demo\n    12  \N{REPLACEMENT CHARACTER}[2Jx\n"
        assert json.loads(call("app", "list", as_json=True).stdout) == {"apps": apps}


USER: dict[str, Any] = {
    "appid": 7,
    "uid": 1,
    "name": "Ada",
    "forbidden": False,
    "notification_on": True,
    "unread": 3,
    "tokens": 2,
    "head": 12,
    "saved_key": 10,
}
CONNECTION: dict[str, Any] = {
    "number": 5,
    "address": "127.0.0.1",
    "transport": "tcp",
    "version": 2,
    "device": 4,
    "device_id": "phone",
    "platform": 2,
    "room": 9,
    "signed_in_at": 1_700_000_000.5,
}


class TestUser:
    def test_show(self, call: Call, admin: FakeAdmin) -> None:
        """All that the server knows, for people and for programs."""
        answer = {**USER, "connections": [CONNECTION, {**CONNECTION, "device_id": "", "platform": 77, "room": 0}]}
        admin.answers["GET", "/admin/users/7/1"] = (200, answer)
        text = call("user", "show", "7", "1").stdout
        for words in (
            "user 1 of app 7: Ada",
            "newest entry 12, saved sync key 10",
            "connections        2",
            "    5      tcp from 127.0.0.1, Android, device 4 (phone), version 2, since 2023-11-1",
            ", in room 9",
            "platform 77, no device",
        ):
            assert words in text
        assert json.loads(call("user", "show", "7", "1", as_json=True).stdout) == answer

    def test_forbid_and_allow(self, call: Call, admin: FakeAdmin) -> None:
        """One setting, two words."""
        admin.answers["POST", "/admin/users/7/1/settings"] = (200, USER)
        assert call("user", "forbid", "7", "1").stdout == "user 1 of app 7 may not speak any more\n"
        assert call("user", "allow", "7", "1").stdout == "user 1 of app 7 may speak\n"
        assert [asked.body for asked in admin.asked] == [{"forbidden": True}, {"forbidden": False}]

    def test_kick(self, call: Call, admin: FakeAdmin) -> None:
        """How many connections were closed."""
        admin.answers["POST", "/admin/users/7/1/kick"] = (200, {"kicked": 2})
        assert call("user", "kick", "7", "1").stdout == "closed 2 connections of user 1 of app 7\n"
        assert admin.asked == [Asked("POST", "/admin/users/7/1/kick", {})]

    def test_no_such_app(self, call: Call) -> None:
        """What the server does not know."""
        result = call("user", "kick", "99", "1")
        assert result.exit_code == 1
        assert "there is no such thing" in result.stderr

    @pytest.mark.parametrize("word", ["0", "x", "-1", str(2**53)])
    def test_no_number(self, call: Call, admin: FakeAdmin, word: str) -> None:
        """Neither apps nor users have such numbers."""
        result = call("user", "kick", "--", "7", word)
        assert result.exit_code != 0
        assert "is no number from 1 to" in result.stderr
        assert admin.asked == []


class TestOperator:
    """Ways in which no answer comes."""

    def test_wrong_key(self, call: Call, admin: FakeAdmin) -> None:
        """Another server has the port."""
        admin.key = "another"
        result = call("app", "list")
        assert result.exit_code == 1
        assert "does not take the key of this data directory" in result.stderr

    @pytest.mark.parametrize("raw", [b"<html>", b"", b"[1]", b"\xff"])
    def test_another_program(self, call: Call, admin: FakeAdmin, raw: bytes) -> None:
        """What answers is not JSON as we know it."""
        admin.raw = raw
        result = call("token", "7", "1")
        assert result.exit_code == 1
        assert "is no imserver" in result.stderr

    def test_no_key(self, call: Call, data: Path) -> None:
        """A data directory without a key."""
        (data / "operator.key").unlink()
        result = call("app", "list")
        assert result.exit_code == 1
        assert "there is no key in" in result.stderr

    def test_no_server(self, call: Call, data: Path) -> None:
        """A data directory without a server."""
        (data / "listening.json").unlink()
        result = call("app", "list")
        assert result.exit_code == 1
        assert f"no server runs with its data in {data}: start it" in result.stderr
        assert "imctl --data DIR" in result.stderr

    def test_no_answer(self) -> None:
        """A server that takes the request and keeps quiet is given up in time."""
        clock = Clock()
        stub = http_to(Silent())  # type: ignore[no-untyped-call]  # Twisted's
        answer = Deferred.fromCoroutine(Operator(clock, stub, "http://127.0.0.1:6666", KEY).get("/admin/status"))
        stub.flush()
        clock.advance(9.9)
        assert not answer.called
        clock.advance(0.2)
        with pytest.raises(Complaint, match="gave no answer within 10 s"):
            now(answer)

    def test_endless_answer(self, monkeypatch: pytest.MonkeyPatch, admin: FakeAdmin) -> None:
        """An answer is taken up to a bound."""
        monkeypatch.setattr("imserver.cli.operator._MOST_BYTES", 1000)
        stub = http_to(admin)
        for length, fits in ((900, True), (1001, False)):
            admin.answers["GET", "/x"] = (200, {"x": "x" * length})
            answer = Deferred.fromCoroutine(Operator(Clock(), stub, "http://127.0.0.1:6666", KEY).get("/x"))
            stub.flush()
            if fits:
                assert now(answer) == {"x": "x" * length}
            else:
                with pytest.raises(Complaint, match="answers without end"):
                    now(answer)


class Silent(Resource):
    """Takes requests and never answers."""

    isLeaf = True

    def render(self, request: Request) -> int:
        return NOT_DONE_YET
