"""The operator's calls."""

from hashlib import md5
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.logger import formatEvent
from zope.interface.verify import verifyObject

from imserver.chat.trace import Trace
from imserver.interfaces import IAccounts
from imserver.model import Entry, UserKey, user_timeline
from tests.fakes.chat import FakeConnection
from tests.fakes.directory import FakeDirectory
from tests.http.server import KEY, STATUS, Answer, Server, result_of
from tests.http.server import logged as logged_by
from tests.leaks import FlushLoggedErrors

USER = UserKey(7, 1)
#: Every call with a body that it takes.
CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/admin/status", None),
    ("GET", "/admin/apps", None),
    ("POST", "/admin/apps", {"name": "new"}),
    ("POST", "/admin/tokens", {"appid": 7, "first": 1, "last": 3}),
    ("POST", "/admin/tokens/revoke", {"token": "first"}),
    ("POST", "/admin/tokens/revoke", {"appid": 7, "uid": 1}),
    ("GET", "/admin/users/7/1", None),
    ("POST", "/admin/users/7/1/settings", {"forbidden": True}),
    ("POST", "/admin/users/7/1/kick", None),
    ("POST", "/admin/apps/7/rotate", None),
    ("POST", "/admin/groups", {"appid": 7, "master": 1, "name": "tea", "members": [[1, 3]]}),
    ("GET", "/admin/groups/7/20", None),
    ("POST", "/admin/groups/7/20/add", {"members": [[3, 3]]}),
    ("POST", "/admin/groups/7/20/remove", {"members": [[2, 2]]}),
    ("POST", "/admin/groups/7/20/mute", {"uid": 2, "on": True}),
    ("POST", "/admin/groups/7/20/rename", {"name": "coffee"}),
    ("POST", "/admin/groups/7/20/upgrade", None),
    ("POST", "/admin/groups/7/20/disband", None),
    ("GET", "/admin/users/7/1/friends", None),
    ("POST", "/admin/users/7/1/friends", {"uid": 2, "on": True}),
    ("GET", "/admin/users/7/1/blocked", None),
    ("POST", "/admin/users/7/1/blocked", {"uid": 2, "on": True}),
    ("GET", "/admin/trace?appid=7&uid=1", None),
]


@pytest.fixture
def server() -> Server:
    """App 7, whose user 1 has the tokens "first" and "second", and is in group 20 with user 2. Messages are traced."""
    server = Server(trace=Trace(10, False, True, lambda: 1_700_000_000.0, lambda: 5.0))
    server.groups.add_group(7, 20, [1, 2])
    server.accounts.add_user("first", USER)
    server.accounts.add_user("second", USER)
    server.accounts.add_user("other's", UserKey(7, 2))
    return server


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}k",
        f"Bearer  {KEY}",
        f"Bearer {KEY.upper()}",
        f"Basic {KEY}",
        KEY,
        "Bearer ké",
    ],
)
def test_no_call_without_the_key(server: Server, method: str, path: str, body: object, authorization: str) -> None:
    """Without the key, or with almost the key, nothing is told and nothing is done."""
    connection = server.client(USER)
    answer = server.call(method, path, body, authorization=authorization)
    assert answer.is_error(401, "Authorization: Bearer")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert len(result_of(server.accounts.apps())) == 1
    assert result_of(server.accounts.settings(USER)).tokens == 2
    assert (connection.closed, connection.forbidden) == (False, False)
    assert server.group_changes.changed == []
    assert server.relations.friends == server.relations.blacklist == set()
    assert server.metrics.http_requests.values == {"401": 1}


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_every_call_with_the_key(server: Server, method: str, path: str, body: object) -> None:
    """With the key each call of the table is answered, in JSON that no cache keeps and no other page may read."""
    answer = server.call(method, path, body, authorization=f"bearer {KEY}", Origin="http://evil.example")
    assert answer.status == 200
    assert isinstance(answer.json, dict)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("key", ["", "short", "k" * 31])
def test_key_that_is_none(key: str) -> None:
    """A server whose key file is empty or cut does not start: it would let in anybody."""
    from imserver.http.site import make_root

    server = Server()
    with pytest.raises(ValueError, match="fewer than 32"):
        make_root(
            clock=server.clock,
            metrics=server.metrics,
            registry=server.registry,
            accounts=server.accounts,
            timelines=server.timelines,
            sync_keys=server.sync_keys,
            checks={},
            operator_key=key,
            status=dict,
            back_end_key=None,
            posts=server.posts,
            groups=server.groups,
            group_changes=server.group_changes,
            relations=server.relations,
            trace=None,
        )


@pytest.mark.parametrize(("method", "path", "body"), CALLS[1:])
def test_database_that_does_not_answer(server: Server, method: str, path: str, body: object) -> None:
    """Where the directory is unavailable the answer is 503, and nothing was done."""
    connection = server.client(USER)
    server.accounts.unavailable = server.groups.unavailable = server.relations.unavailable = True
    assert server.call(method, path, body).is_error(503)
    assert (connection.closed, connection.forbidden) == (False, False)


@pytest.mark.parametrize(("method", "path", "body"), [call for call in CALLS if call[0] == "POST" and call[2]])
@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"{} {}", ""),
        (b"name=new&appid=7", "JSON"),
        (b'{"nam": "new"}', "nam"),
        (b'{"name": "\xff"}', ""),
        (b'{"x":' + b"[" * 100_000, ""),
    ],
)
def test_what_is_not_the_json_it_takes(
    server: Server, method: str, path: str, body: object, sent: bytes, word: str
) -> None:
    """A body that is no JSON, no UTF-8, no object, or has fields that nobody knows is a mistake."""
    assert server.call(method, path, sent).is_error(400, word)
    assert result_of(server.accounts.settings(USER)).tokens == 2
    assert len(result_of(server.accounts.apps())) == 1


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("tokens", {"appid": "7", "first": 1, "last": 2}, "appid"),
        ("tokens", {"appid": 7, "first": 1.0, "last": 2}, "first"),
        ("tokens", {"appid": 7, "first": 1, "last": True}, "last"),
        ("tokens", {"appid": 7, "first": 1, "last": None}, "last"),
        ("tokens", {"appid": 7, "first": 1}, "last"),
        ("tokens", {"first": 1, "last": 2}, "appid"),
        ("tokens", {"appid": 7, "first": 0, "last": 2}, "first"),
        ("tokens", {"appid": 7, "first": -1, "last": 2}, "first"),
        ("tokens", {"appid": 7, "first": 1, "last": 2**53}, "last"),
        ("tokens", {"appid": 7, "first": 1, "last": 10**30}, "last"),
        ("tokens", {"appid": 0, "first": 1, "last": 2}, "appid"),
        ("tokens", {"appid": 7, "first": 3, "last": 2}, "first"),
        ("tokens", {"appid": 7, "first": 1, "last": 100_001}, "100000"),
        ("tokens", {"appid": 7, "first": 1, "last": 2, "app": 1}, "app"),
        ("apps", {}, "name"),
        ("apps", {"name": 1}, "name"),
        ("apps", {"name": "n" * 256}, "name"),
        ("apps", {"name": "two\nlines"}, "name"),
        ("apps", {"name": "a line\n"}, "name"),
        ("apps", {"name": "\x1b[31m"}, "name"),
        ("apps", {"name": "new", "appid": "9"}, "appid"),
        ("apps", {"name": "new", "appid": 0}, "appid"),
        ("apps", {"name": "new", "appid": 2**53}, "appid"),
        ("tokens/revoke", {}, "token"),
        ("tokens/revoke", {"token": 5}, "token"),
        ("tokens/revoke", {"token": ""}, "token"),
        ("tokens/revoke", {"token": "t" * 256}, "token"),
        ("tokens/revoke", {"appid": 7}, "uid"),
        ("tokens/revoke", {"uid": 1}, "appid"),
        ("tokens/revoke", {"token": "first", "appid": 7, "uid": 1}, "either"),
        ("tokens/revoke", {"token": "first", "uid": 1}, "either"),
        ("tokens/revoke", {"appid": "7", "uid": 1}, "appid"),
        ("tokens/revoke", {"appid": 7, "uid": [1]}, "uid"),
        ("users/7/1/settings", {}, "one or more"),
        ("users/7/1/settings", {"name": None}, "one or more"),
        ("users/7/1/settings", {"name": 5}, "name"),
        ("users/7/1/settings", {"name": "n" * 256}, "name"),
        ("users/7/1/settings", {"forbidden": 1}, "forbidden"),
        ("users/7/1/settings", {"forbidden": "yes"}, "forbidden"),
        ("users/7/1/settings", {"notification_on": 0}, "notification_on"),
        ("users/7/1/settings", {"unread": 0}, "unread"),
    ],
)
def test_wrong_fields(server: Server, path: str, body: object, word: str) -> None:
    """A field that is missing, of another type or out of its range is named, and nothing is done."""
    connection = server.client(USER)
    assert server.call("POST", f"/admin/{path}", body).is_error(400, word)
    assert result_of(server.accounts.settings(USER)).tokens == 2
    assert len(result_of(server.accounts.apps())) == 1
    assert (connection.closed, connection.forbidden) == (False, False)


@pytest.mark.parametrize("suffix", ["", "/settings", "/kick", "/friends", "/blocked"])
@pytest.mark.parametrize(
    ("user", "word"),
    [
        ("x/1", "appid"),
        ("7/x", "uid"),
        ("7/0", "uid"),
        ("7/-1", "uid"),
        ("7/1.0", "uid"),
        ("7/+1", "uid"),
        ("7/%31%20", "uid"),
        ("0/1", "appid"),
        (f"7/{2**53}", "uid"),
        ("7/" + "9" * 5000, "uid"),
        ("7/%D9%A3", "uid"),
    ],
)
def test_wrong_user_in_the_path(server: Server, suffix: str, user: str, word: str) -> None:
    """A number in the path that is none, or out of range, is named."""
    method = "POST" if suffix else "GET"
    assert server.call(method, f"/admin/users/{user}{suffix}", {"name": "Ann"}).is_error(400, word)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/tokens", {"appid": 8, "first": 1, "last": 1}),
        ("POST", "/admin/tokens/revoke", {"appid": 8, "uid": 1}),
        ("GET", "/admin/users/8/1", None),
        ("POST", "/admin/users/8/1/settings", {"name": "Ann"}),
        ("POST", "/admin/users/8/1/kick", None),
        ("POST", "/admin/apps/8/rotate", None),
        ("POST", "/admin/groups", {"appid": 8, "master": 1, "name": "tea", "members": [[1, 3]]}),
        ("GET", "/admin/users/8/1/friends", None),
        ("POST", "/admin/users/8/1/friends", {"uid": 2, "on": True}),
        ("GET", "/admin/users/8/1/blocked", None),
        ("POST", "/admin/users/8/1/blocked", {"uid": 2, "on": True}),
        ("GET", "/admin/trace?appid=8&uid=1", None),
    ],
)
def test_no_such_app(server: Server, method: str, path: str, body: object) -> None:
    """Users and tokens of an app that does not exist do not exist."""
    assert server.call(method, path, body).is_error(404, "8")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/admin/tokens", "POST"),
        ("POST", "/admin/status", "GET, HEAD"),
        ("DELETE", "/admin/apps", "GET, HEAD, POST"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/admin/apps", "GET, HEAD, POST"),
        ("BREW", "/metrics", "GET, HEAD"),
    ],
)
def test_wrong_method(server: Server, method: str, path: str, allowed: str) -> None:
    """A call that exists under another method says under which."""
    answer = server.call(method, path)
    assert answer.is_error(405, allowed)
    assert answer.headers["allow"] == allowed
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/admin",
        "/admin/",
        "/admin/apps/",
        "/admin//apps",
        "/admin/users",
        "/admin/users/7",
        "/admin/users/7/1/",
        "/admin/users/7/1/kick/more",
        "/admin/../admin/apps",
        "/Admin/apps",
        "/admin/%2e%2e/apps",
    ],
)
def test_no_such_call(server: Server, path: str) -> None:
    """A path is right or it is wrong: no redirect, no guess."""
    for method in ("GET", "POST"):
        answer = server.call(method, path)
        assert answer.is_error(404, "no such call")
        assert "location" not in answer.headers


def test_status(server: Server) -> None:
    """The figures of whoever knows them, and whether all checks pass now."""
    assert server.call("GET", "/admin/status").json == {**STATUS, "ready": True, "checks": {"storage": True}}
    ill = Server(checks={"storage": lambda: fail(OSError("disk"))})
    answer = ill.call("GET", "/admin/status")
    assert (answer.status, answer.json["ready"], answer.json["checks"]) == (200, False, {"storage": False})


def test_tokens(server: Server) -> None:
    """A token for each uid of the range, each its user's."""
    answer = server.call("POST", "/admin/tokens", {"appid": 7, "first": 10, "last": 12})
    assert answer.status == 200
    assert list(answer.json) == ["tokens"]
    assert [uid for uid, _ in answer.json["tokens"]] == [10, 11, 12]
    for uid, token in answer.json["tokens"]:
        sign_in = result_of(server.accounts.sign_in(token.encode(), b"", 2))
        assert sign_in is not None
        assert sign_in.user == UserKey(7, uid)


def test_token_of_the_last_user(server: Server) -> None:
    """The largest uid has a token like any other."""
    answer = server.call("POST", "/admin/tokens", {"appid": 7, "first": 2**53 - 1, "last": 2**53 - 1})
    assert [uid for uid, _ in answer.json["tokens"]] == [2**53 - 1]


def test_revoking_one_token(server: Server) -> None:
    """One token goes, and all connections of its user are closed, nobody else's."""
    mine = [server.client(USER), server.client(USER)]
    others = [server.client(UserKey(7, 2)), server.client(UserKey(8, 1))]
    assert server.call("POST", "/admin/tokens/revoke", {"token": "first"}).json == {"revoked": 1}
    assert [connection.closing for connection in mine] == ["revoked", "revoked"]
    assert not any(connection.closing for connection in others)
    assert result_of(server.accounts.sign_in(b"first", b"", 2)) is None
    assert result_of(server.accounts.sign_in(b"second", b"", 2)) is not None
    assert server.call("POST", "/admin/tokens/revoke", {"token": "first"}).is_error(404, "token")


def test_revoking_all_tokens(server: Server) -> None:
    """All tokens of a user go, and the connections are closed also where there was none left."""
    first = server.client(USER)
    assert server.call("POST", "/admin/tokens/revoke", {"appid": 7, "uid": 1}).json == {"revoked": 2}
    second = server.client(USER)
    assert server.call("POST", "/admin/tokens/revoke", {"appid": 7, "uid": 1}).json == {"revoked": 0}
    assert (first.closing, second.closing) == ("revoked", "revoked")
    assert result_of(server.accounts.sign_in(b"second", b"", 2)) is None
    assert result_of(server.accounts.sign_in(b"other's", b"", 2)) is not None


class SlowDirectory(FakeDirectory):
    """Revokes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on: Deferred[None] = Deferred()

    def revoke_tokens(self, user: UserKey) -> Deferred[int]:
        return self.go_on.addCallback(lambda _: FakeDirectory.revoke_tokens(self, user))


def test_caller_who_leaves(flush_logged_errors: FlushLoggedErrors) -> None:
    """What was begun is finished although who asked for it has gone: a revoked user does not stay connected."""
    accounts = SlowDirectory()
    assert verifyObject(IAccounts, accounts)
    accounts.add_user("first", USER)
    server = Server(accounts)
    connection = server.client(USER)
    wire = server.connect()
    body = b'{"appid": 7, "uid": 1}'
    wire.send(
        b"POST /admin/tokens/revoke HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
        % (KEY.encode(), len(body), body)
    )
    wire.lose()
    assert not connection.closed
    accounts.go_on.callback(None)
    assert connection.closing == "revoked"
    assert flush_logged_errors() == []


def test_apps(server: Server) -> None:
    """An app is made with the number that was asked for, or the next; one that exists is not made again."""
    answer = server.call("POST", "/admin/apps", {"name": "Büro", "appid": 9})
    assert (answer.status, answer.json["appid"]) == (200, 9)
    assert len(answer.json["secret"]) >= 32
    assert server.call("POST", "/admin/apps", {"name": "next"}).json["appid"] == 8
    assert server.call("POST", "/admin/apps", {"name": "again", "appid": 9}).is_error(409, "9")
    assert server.call("GET", "/admin/apps").json == {
        "apps": [{"appid": 7, "name": "app"}, {"appid": 8, "name": "next"}, {"appid": 9, "name": "Büro"}]
    }


def test_rotating_a_secret(server: Server) -> None:
    """The app's back end goes on with the new secret, and no longer with the old one; other apps keep theirs."""
    old = server.call("POST", "/admin/apps", {"name": "shop", "appid": 9}).json["secret"]
    other = server.call("POST", "/admin/apps", {"name": "other", "appid": 10}).json["secret"]
    answer = server.call("POST", "/admin/apps/9/rotate")
    assert (answer.status, answer.json["appid"]) == (200, 9)
    new = answer.json["secret"]
    assert len(new) >= 32
    assert _may_call(server, 9, new)
    assert not _may_call(server, 9, old)
    assert _may_call(server, 10, other)
    assert server.call("POST", "/admin/apps/x/rotate").is_error(400, "appid")


def _may_call(server: Server, appid: int, secret: str) -> bool:
    return result_of(server.accounts.check_app(appid, md5(secret.encode(), usedforsecurity=False).hexdigest().encode()))


def test_user_with_connections(server: Server) -> None:
    """All that is known about a user, and each connection as it is now."""
    server.timelines.entries[user_timeline(USER)] += [Entry(key, 4, 0, b"", 0) for key in range(2, 13)]
    server.sync_keys.save_key(USER, 10)
    server.accounts.set_unread(USER, 3)
    server.accounts.change_settings(USER, name="Ann", forbidden=True, notification_on=True)
    server.client(UserKey(7, 2))
    connection = server.client(USER)
    server.registry.enter_room(connection, 5)
    assert server.call("GET", "/admin/users/7/1").json == {
        "appid": 7,
        "uid": 1,
        "name": "Ann",
        "forbidden": True,
        "notification_on": True,
        "unread": 3,
        "tokens": 2,
        "head": 12,
        "saved_key": 10,
        "connections": [
            {
                "number": connection.number,
                "address": "192.0.2.1",
                "transport": "tcp",
                "version": 2,
                "device": 3,
                "device_id": "phone",
                "platform": 2,
                "room": 5,
                "signed_in_at": 1.0,
            }
        ],
    }


def test_user_never_heard_of(server: Server) -> None:
    """Any uid of an app is a user, with the defaults."""
    assert server.call("GET", "/admin/users/7/999").json == {
        "appid": 7,
        "uid": 999,
        "name": "",
        "forbidden": False,
        "notification_on": False,
        "unread": 0,
        "tokens": 0,
        "head": 1,
        "saved_key": 0,
        "connections": [],
    }


def test_timelines_that_do_not_answer(server: Server) -> None:
    """A user cannot be shown without the keys."""
    server.timelines.broken = True
    assert server.call("GET", "/admin/users/7/1").is_error(503)


def _settings_of(connection: FakeConnection) -> tuple[bool, bool]:
    return connection.forbidden, connection.notification_on


def test_settings_are_in_force_at_once(server: Server) -> None:
    """What is changed holds for the user's open connections, for nobody else's, and for those to come."""
    mine, other = [server.client(USER), server.client(USER)], server.client(UserKey(7, 2))
    answer = server.call("POST", "/admin/users/7/1/settings", {"forbidden": True})
    assert answer.status == 200
    assert (answer.json["forbidden"], answer.json["notification_on"]) == (True, False)
    assert [_settings_of(connection) for connection in mine] == [(True, False)] * 2
    answer = server.call("POST", "/admin/users/7/1/settings", {"notification_on": True, "name": "Ann"})
    assert (answer.json["name"], answer.json["forbidden"], answer.json["notification_on"]) == ("Ann", True, True)
    assert [_settings_of(connection) for connection in mine] == [(True, True)] * 2
    server.call("POST", "/admin/users/7/1/settings", {"forbidden": False})
    assert [_settings_of(connection) for connection in mine] == [(False, True)] * 2
    assert _settings_of(other) == (False, False)
    assert not any(connection.closed for connection in (*mine, other))
    sign_in = result_of(server.accounts.sign_in(b"first", b"", 2))
    assert sign_in is not None
    assert (sign_in.forbidden, sign_in.notification_on) == (False, True)


def test_settings_answer_as_the_user_is_shown(server: Server) -> None:
    """The answer to a change is what GET shows, without the connections."""
    changed = server.call("POST", "/admin/users/7/1/settings", {"name": "Ann"}).json
    shown = server.call("GET", "/admin/users/7/1").json
    del shown["connections"]
    assert changed == shown


def test_kick(server: Server) -> None:
    """All connections of the user are closed, and the tokens stay."""
    mine, other = [server.client(USER) for _ in range(3)], server.client(UserKey(7, 2))
    assert server.call("POST", "/admin/users/7/1/kick").json == {"kicked": 3}
    assert [connection.closing for connection in mine] == ["kicked"] * 3
    assert not other.closed
    assert result_of(server.accounts.sign_in(b"first", b"", 2)) is not None
    for connection in mine:
        server.registry.remove(connection)
    assert server.call("POST", "/admin/users/7/1/kick").json == {"kicked": 0}


def _broken() -> dict[str, Any]:
    raise ZeroDivisionError("a secret of the house")


def test_bug_is_logged_and_not_told(flush_logged_errors: FlushLoggedErrors) -> None:
    """What the server did wrong is 500 in JSON, without the reason; the reason stands in the log, once."""
    server = Server(status=_broken)
    answer = server.call("GET", "/admin/status")
    assert answer.is_error(500, "log")
    assert b"secret" not in answer.content
    assert b"Traceback" not in answer.content
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_no_secret_in_the_log(server: Server) -> None:
    """Neither keys nor tokens nor secrets nor names stand in any event of the log."""
    with logged_by("") as events:
        secrets = [KEY, "first", "Ann"]
        secrets.append(server.call("POST", "/admin/apps", {"name": "new"}).json["secret"])
        secrets.append(server.call("POST", "/admin/apps/7/rotate").json["secret"])
        tokens = server.call("POST", "/admin/tokens?key=in-query", {"appid": 7, "first": 5, "last": 6}).json
        secrets += [token for _, token in tokens["tokens"]]
        answers: list[Answer] = [
            server.call("POST", "/admin/tokens/revoke", {"token": "first"}),
            server.call("POST", "/admin/users/7/1/settings", {"name": "Ann"}),
            server.call("GET", "/admin/apps", authorization="Bearer mistyped-key"),
            server.call("POST", "/admin/tokens/revoke", b'{"token": "malformed-token'),
        ]
    assert [answer.status for answer in answers] == [200, 200, 401, 400]
    text = "\n".join(f"{formatEvent(event)} {event}" for event in events)
    assert "/admin/tokens/revoke: 200" in text
    for secret in (*secrets, "in-query", "mistyped-key", "malformed-token"):
        assert secret not in text
