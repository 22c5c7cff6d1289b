"""Who may make a call of the two APIs."""

from base64 import b64encode
from hashlib import md5
from typing import Any

import pytest

from imserver.http.access import of_back_ends
from imserver.model import Group, UserKey
from tests.http.server import KEY, Answer, Server, result_of

USER = UserKey(7, 1)
BACK_END_KEY = "b" * 32
POST = "/post_notification?appid=7&uid=1"
#: A call of each kind of the back-end API.
BACK_END_CALLS = [
    ("POST", POST, b"hi"),
    ("GET", "/load_latest_message?appid=7&uid=1&limit=1", None),
    ("GET", "/summary", None),
]


def basic(appid: object, password: str) -> str:
    return "Basic " + b64encode(f"{appid}:{password}".encode()).decode()


def secret_of(server: Server, appid: int) -> str:
    """md5hex of a new secret of an app, which is made if need be."""
    accounts = server.accounts
    if appid not in [app.appid for app in result_of(accounts.apps())]:
        result_of(accounts.create_app("app", appid))
    secret = result_of(accounts.rotate_secret(appid))
    return md5(secret.encode(), usedforsecurity=False).hexdigest()


# The back-end API with a key.


@pytest.fixture
def keyed() -> Server:
    return Server(back_end_key=BACK_END_KEY.encode())


@pytest.mark.parametrize(("method", "path", "body"), BACK_END_CALLS)
def test_no_call_without_the_key(keyed: Server, method: str, path: str, body: bytes | None) -> None:
    """Without the key, with almost the key, or with the operator's, nothing is told and nothing is done."""
    wrong = [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {BACK_END_KEY[:-1]}",
        f"Bearer {BACK_END_KEY}b",
        f"Bearer  {BACK_END_KEY}",
        f"Bearer {BACK_END_KEY.upper()}",
        f"Basic {BACK_END_KEY}",
        f"Bearer {KEY}",
        BACK_END_KEY,
        "Bearer b\xe9",
    ]
    for authorization in wrong:
        answer = keyed.call(method, path, body, authorization=authorization)
        assert answer.is_error(401, "Authorization: Bearer", "key_file"), authorization
        assert answer.headers["www-authenticate"] == "Bearer"
    assert keyed.posts.posted == []
    assert keyed.metrics.http_requests.values == {"401": len(wrong)}


@pytest.mark.parametrize(("method", "path", "body"), BACK_END_CALLS)
@pytest.mark.parametrize("host", ["im.example.com:6666", "127.0.0.1"])
def test_calls_with_the_key(keyed: Server, method: str, path: str, body: bytes | None, host: str) -> None:
    """With the key a call may be made to any name, and from a page too: no browser knows the key by itself."""
    headers = {"Host": host, "Origin": "http://page.example"}
    assert keyed.call(method, path, body, authorization=f"bearer {BACK_END_KEY}", **headers).status == 200


@pytest.mark.parametrize("key", [b"", b"short", b"b" * 31])
def test_key_that_is_none(key: bytes) -> None:
    """A key that is empty or cut is never taken for "no key", nor for one."""
    with pytest.raises(ValueError, match="fewer than 32"):
        of_back_ends(key)


def test_key_comes_before_all_else(keyed: Server) -> None:
    """Who does not have the key does not hear what is wrong with a call."""
    assert keyed.call("POST", "/post_notification?appid=x", b"\xff").status == 401


# The back-end API without a key: on loopback, and not for web pages.


@pytest.mark.parametrize(("method", "path", "body"), BACK_END_CALLS)
def test_pages_are_refused(method: str, path: str, body: bytes | None) -> None:
    """A page in the browser of somebody on this machine cannot make calls, whichever header gives it away."""
    server = Server()
    for origin in ("http://page.example", "null", "http://127.0.0.1:6666", ""):
        assert server.call(method, path, body, authorization=None, Origin=origin).is_error(403, "web pages"), origin
    for site in ("cross-site", "same-site", "same-origin", "something new", ""):
        headers = {"Sec-Fetch-Site": site}
        assert server.call(method, path, body, authorization=None, **headers).is_error(403, "web pages"), site
    assert server.posts.posted == []


def test_rebound_names_are_refused() -> None:
    """A page whose host's name was made to stand for 127.0.0.1 is on the same host to its browser, but not to us."""
    server = Server()
    for host in (
        "page.example",
        "page.example:6666",
        "127.0.0.1.page.example",
        "localhost.page.example",
        "127.1",
        "0x7f000001",
        "2130706433",
        "127.0.0.1:6666.page.example",
        "127.0.0.1@page.example",
        "[::1].page.example",
        "[page.example]",
        "::1",
        "",
        "localhost:x",
    ):
        wire = server.connect()
        wire.send(b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\nhi" % (POST.encode(), host.encode()))
        assert wire.answer().is_error(403, "key_file"), host
    assert server.posts.posted == []


def test_call_without_a_host_is_refused() -> None:
    """Nor may the name be missing."""
    server = Server()
    wire = server.connect()
    wire.send(b"POST %s HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi" % POST.encode())
    assert wire.answer().is_error(403, "key_file")
    assert server.posts.posted == []


def test_programs_need_no_key() -> None:
    """What programs send on this machine, and what people type, is let in by every name that no page can have."""
    server = Server()
    for host in ("127.0.0.1", "127.0.0.1:6666", "LocalHost:1", "localhost", "[::1]:6666", "10.0.0.5:"):
        for headers in ({"Host": host}, {"Host": host, "Sec-Fetch-Site": "none"}):
            for method, path, body in BACK_END_CALLS:
                assert server.call(method, path, body, authorization=None, **headers).status == 200, headers


# The application API for apps.


@pytest.fixture
def server() -> Server:
    """Apps 7 and 8 with groups 5 and 6; the token "mine" is that of user 1 of app 7."""
    server = Server()
    server.accounts.add_user("mine", USER)
    server.accounts.add_user("other's", UserKey(8, 1))
    server.groups.add_group(7, 5, [1, 2])
    server.groups.add_group(8, 6, [1, 2])
    return server


#: Calls for apps.
APP_CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/auth/grant", {"uid": 1}),
    ("POST", "/users/1", {"forbidden": True}),
    ("PATCH", "/users/1", {"name": "new"}),
    ("POST", "/groups", {"master": 1, "name": "new", "members": [2]}),
    ("PATCH", "/groups/5", {"name": "new"}),
    ("DELETE", "/groups/5", None),
    ("POST", "/groups/5/members", [3]),
    ("DELETE", "/groups/5/members", [2]),
    ("DELETE", "/groups/5/members/2", None),
    ("PATCH", "/groups/5/members/2", {"mute": True}),
    ("POST", "/groups/5/upgrade", None),
    ("POST", "/messages/peers", {"sender": 1, "receiver": 2, "content": "hi"}),
    ("POST", "/messages/groups", {"sender": 1, "receiver": 5, "content": "hi"}),
    ("POST", "/messages/systems", {"receiver": 2, "content": "hi"}),
    ("POST", "/messages/notifications", {"receiver": 2, "content": "hi"}),
    ("POST", "/messages/rooms", {"sender": 1, "receiver": 2, "content": "hi"}),
    ("POST", "/messages/groups/notifications", {"group_id": 5, "content": "hi"}),
    ("GET", "/messages/offline?uid=1", None),
]
#: Calls for users.
USER_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/messages", None),
    ("GET", "/messages/offline", None),
    ("POST", "/device/bind", {"apns_device_token": "t"}),
    ("POST", "/device/unbind", {"apns_device_token": "t"}),
]


def untouched(server: Server) -> bool:
    """Was nothing done?"""
    settings = result_of(server.accounts.settings(USER))
    return (
        server.posts.posted == []
        and server.group_changes.changed == []
        and (settings.tokens, settings.name, settings.forbidden) == (1, "", False)
        and result_of(server.accounts.bound_devices([USER])) == {}
    )


@pytest.mark.parametrize(("method", "path", "body"), APP_CALLS)
def test_no_call_without_the_secret(server: Server, method: str, path: str, body: Any) -> None:
    """Without the secret of the very app, or with anything but Basic, nothing is told and nothing is done."""
    password, other = secret_of(server, 7), secret_of(server, 8)
    wrong = [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !",
        "Basic Og==",
        basic(7, ""),
        basic(7, password[:-1]),
        basic(7, password + "0"),
        basic(7, other),
        basic(8, password),
        basic(404, password),
        basic("", password),
        basic(0, password),
        basic(-7, password),
        basic(f"{7 + 2**53}", password),
        basic(f"{7 + 2**64}", password),
        basic("7 ", password),
        basic("\u0667", password),
        basic("7:", password),
        password,
        f"Basic 7:{password}",
        basic(7, password).replace("Basic ", "Basic  \xff"),
        f"Digest {basic(7, password)[6:]}",
        *([] if path.startswith("/messages/offline") else ["Bearer mine", f"Bearer {password}", f"Bearer {KEY}"]),
    ]
    for authorization in wrong:
        answer = server.call(method, path, body, authorization=authorization)
        assert answer.is_error(401, "Authorization: Basic"), authorization
        assert answer.headers["www-authenticate"] == 'Basic realm="imserver"'
    assert untouched(server)


@pytest.mark.parametrize(("method", "path", "body"), APP_CALLS)
def test_calls_with_the_secret(server: Server, method: str, path: str, body: Any) -> None:
    """With it each call is answered, in JSON that no cache keeps."""
    answer = server.call(method, path, body, authorization=basic(7, secret_of(server, 7)).replace("Basic", "basic"))
    assert (answer.status, list(answer.json)) == (200, ["data"])
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path", "body"), APP_CALLS)
def test_pages_are_refused_though_the_browser_knows_the_secret(
    server: Server, method: str, path: str, body: Any
) -> None:
    """Browsers keep what somebody typed for Basic, and send it along with what any page asks for."""
    authorization = basic(7, secret_of(server, 7))
    for headers in ({"Origin": "http://page.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = server.call(method, path, body, authorization=authorization, **headers)
        assert answer.is_error(403, "web pages"), headers
    assert untouched(server)


def test_rotated_secret(server: Server) -> None:
    """The old secret is void at once."""
    old, new = secret_of(server, 7), secret_of(server, 7)
    assert server.call("POST", "/auth/grant", {"uid": 1}, authorization=basic(7, old)).status == 401
    assert server.call("POST", "/auth/grant", {"uid": 1}, authorization=basic(7, new)).status == 200


@pytest.mark.parametrize(("method", "path", "body"), [call for call in APP_CALLS if call[1].startswith("/groups/")])
def test_groups_of_other_apps(server: Server, method: str, path: str, body: Any) -> None:
    """A group of another app does not exist: whoever holds one app's secret changes nothing of another's."""
    answers: list[Answer] = []
    for group in (6, 404):
        asked = path.replace("/5", f"/{group}")
        answers.append(server.call(method, asked, body, authorization=basic(7, secret_of(server, 7))))
        assert answers[-1].is_error(400, str(group))
    assert answers[0].content.replace(b"6", b"404") == answers[1].content
    assert untouched(server)
    theirs = server.groups.group(8, 6)
    assert isinstance(theirs, Group)
    assert (theirs.name, list(theirs.members), theirs.is_super) == ("group", [1, 2], False)


def test_app_in_a_body_is_passed_over(server: Server) -> None:
    """Which app it is about is what the credentials say, whatever else a call claims."""
    body = {"uid": 1, "appid": 8, "app_id": 8}
    answer = server.call("POST", "/auth/grant?appid=8", body, authorization=basic(7, secret_of(server, 7)))
    assert result_of(server.accounts.user_of_token(answer.json["data"]["token"].encode())) == USER


# The application API for users.


@pytest.mark.parametrize(("method", "path", "body"), USER_CALLS)
def test_no_call_without_a_token(server: Server, method: str, path: str, body: Any) -> None:
    """Without a token in force nothing is told and nothing is done."""
    result_of(server.accounts.issue_tokens(7, [9]))
    result_of(server.accounts.revoke_token("other's"))
    password = secret_of(server, 7)
    for authorization in ("Bearer", "Bearer ", "Bearer min", "Bearer  mine", "Bearer other's", f"Bearer {'t' * 256}"):
        answer = server.call(method, path, body, authorization=authorization)
        assert answer.is_error(401, "token of a user"), authorization
        assert answer.headers["www-authenticate"] == "Bearer"
    for none in (None, "", "mine", "Basic mine", "Token mine"):
        assert server.call(method, path, body, authorization=none).is_error(401), none
    if path != "/messages/offline":
        assert server.call(method, path, body, authorization=basic(7, password)).is_error(401, "token of a user")
    assert untouched(server)


@pytest.mark.parametrize(("method", "path", "body"), USER_CALLS)
@pytest.mark.parametrize("headers", [{}, {"Origin": "http://page.example", "Sec-Fetch-Site": "same-origin"}])
def test_calls_with_a_token(server: Server, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
    """With a token each call is answered, also to a page: no browser knows the token by itself."""
    answer = server.call(method, path, body, authorization="bearer mine", **headers)
    assert (answer.status, list(answer.json)) == (200, ["data"])


def test_long_tokens_are_not_looked_up(server: Server) -> None:
    """No token is over 255 bytes: what is costs the database nothing."""
    server.accounts.unavailable = True
    assert server.call("GET", "/messages", authorization=f"Bearer {'t' * 256}").status == 401
    assert server.call("GET", "/messages", authorization=f"Bearer {'t' * 255}").status == 500


@pytest.mark.parametrize("path", ["/messages/offline?uid=2", "/messages/offline?uid=x", "/messages/offline?uid=0"])
def test_token_and_the_count_of_another(server: Server, path: str) -> None:
    """A user's token tells nothing about others."""
    assert server.call("GET", path, authorization="Bearer mine").is_error(400, "uid")
    assert server.call("GET", "/messages/offline?uid=1", authorization="Bearer mine").status == 200


@pytest.mark.parametrize(("method", "path", "body"), APP_CALLS + USER_CALLS)
def test_database_that_does_not_answer(server: Server, method: str, path: str, body: Any) -> None:
    """Where nobody can say whether credentials are good the answer is 500, and neither yes nor no."""
    authorization = "Bearer mine" if (method, path, body) in USER_CALLS else basic(7, secret_of(server, 7))
    server.accounts.unavailable = True
    assert server.call(method, path, body, authorization=authorization).is_error(500)
    server.accounts.unavailable = False
    assert untouched(server)
