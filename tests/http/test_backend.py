"""The back-end API: what each call does, and what it says to mistakes."""

from typing import Any
from urllib.parse import quote

import pytest
from twisted.logger import formatEvent

from imserver.http.site import MOST_BODY
from imserver.model import UserKey
from imserver.protocol.commands import Command
from tests.fakes.chat import FakeConnection
from tests.http.server import Answer, Server
from tests.http.server import logged as logged_by
from tests.leaks import FlushLoggedErrors

#: Anything that is UTF-8 is content.
CONTENT = '{"text": "hé\\n€😀", "uuid": "1"}\x00\x7f'.encode()
LARGEST = 2**53 - 1

#: Calls with content as their body: path, query, and what is posted.
PLAIN: list[tuple[str, dict[str, int], tuple[Any, ...]]] = [
    ("/post_peer_message", {"appid": 7, "sender": 1, "receiver": 2}, ("peer", 7, 1, 2, CONTENT)),
    ("/post_peer_message", {"appid": 7, "sender": 0, "receiver": LARGEST}, ("peer", 7, 0, LARGEST, CONTENT)),
    ("/post_group_message", {"appid": 7, "sender": 1, "receiver": 5}, ("group", 7, 1, 5, CONTENT)),
    ("/post_system_message", {"appid": 7, "uid": 2}, ("system", 7, (2,), CONTENT)),
    ("/post_notification", {"appid": 7, "uid": 2}, ("notification", 7, 2, CONTENT)),
    ("/post_realtime_message", {"appid": 7, "sender": 1, "receiver": 2}, ("realtime", 7, 1, 2, CONTENT)),
    ("/post_room_message", {"appid": 7, "uid": 1, "room": 9}, ("room", 7, 1, 9, CONTENT)),
    ("/post_room_message", {"appid": 7, "uid": 0, "room": 9}, ("room", 7, 0, 9, CONTENT)),
]
SYSTEM = {"appid": 7, "receivers": [3, 2], "content": CONTENT.decode()}
NOTIFICATION = {"appid": 7, "group_id": 5, "notification": CONTENT.decode()}
CUSTOMER = {"sender_appid": 7, "sender": 1, "receiver_appid": 17, "receiver": 2, "content": CONTENT.decode()}
#: Calls with a JSON body: path, body, and what is posted.
IN_JSON: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("/post_system_message", SYSTEM, ("system", 7, (3, 2), CONTENT)),
    ("/post_group_notification", NOTIFICATION, ("group_notification", 7, 5, CONTENT, ())),
    ("/post_group_notification", {**NOTIFICATION, "members": None}, ("group_notification", 7, 5, CONTENT, ())),
    (
        "/post_group_notification",
        {**NOTIFICATION, "members": [8, 9], "super": 1},
        ("group_notification", 7, 5, CONTENT, (8, 9)),
    ),
    (
        "/post_group_notification",
        {**NOTIFICATION, "group_id": 404, "members": [8], "super": True},
        ("group_notification", 7, 404, CONTENT, (8,)),
    ),
    ("/post_customer_message", CUSTOMER, ("customer", UserKey(7, 1), UserKey(17, 2), CONTENT)),
]
#: Those of them that are not stored, and have nothing to wait for.
PASSING = ("/post_notification", "/post_realtime_message", "/post_room_message")
READS = [
    "/get_offline_count?appid=7&uid=1",
    "/load_latest_message?appid=7&uid=1&limit=10",
    "/load_history_message?appid=7&uid=1&last_id=0",
]
#: Numbers that none of the parameters takes.
NO_NUMBERS = [
    "",
    "x",
    "-1",
    "+1",
    "1.0",
    "1e3",
    "0x10",
    " 1",
    "1 ",
    "1_0",
    "\u0661",
    "null",
    "true",
    "9" * 19,
    "9" * 5000,
]


def url(path: str, query: dict[str, Any]) -> str:
    return f"{path}?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())


@pytest.fixture
def server() -> Server:
    """App 7 has group 5, app 8 group 6."""
    server = Server()
    server.groups.add_group(7, 5, [1, 2])
    server.groups.add_group(8, 6, [1, 2])
    return server


def is_done(answer: Answer) -> bool:
    return (answer.status, answer.json) == (200, {"data": {}})


# What is posted.


@pytest.mark.parametrize(("path", "query", "posted"), PLAIN)
def test_plain_content(server: Server, path: str, query: dict[str, int], posted: tuple[Any, ...]) -> None:
    """The body goes as it is, whatever its type is said to be; parameters that nobody knows are passed over."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = server.call("POST", url(path, {**query, "msgid": "x", "": ""}), CONTENT, **headers)
    assert is_done(answer)
    assert server.posts.posted == [posted]


@pytest.mark.parametrize(("path", "body", "posted"), IN_JSON)
def test_json(server: Server, path: str, body: dict[str, Any], posted: tuple[Any, ...]) -> None:
    """The fields reach the domain; fields that nobody knows are passed over."""
    assert is_done(server.call("POST", path, {**body, "msgid": "x"}))
    assert server.posts.posted == [posted]


def test_leading_zeros(server: Server) -> None:
    """A number stays the same with zeros before it."""
    assert is_done(server.call("POST", "/post_notification?appid=007&uid=0000000000000000002", b"hi"))
    assert server.posts.posted == [("notification", 7, 2, b"hi")]


@pytest.mark.parametrize(
    ("path", "body"),
    [(url(path, query), CONTENT) for path, query, _ in PLAIN if path not in PASSING]
    + [(path, body) for path, body, _ in IN_JSON],
)
def test_success_comes_after_the_commit(server: Server, path: str, body: Any) -> None:
    """There is no answer while the message may still be lost."""
    server.posts.hold()
    answers: list[Answer] = []
    server.ask("POST", path, body).addCallback(answers.append)
    assert (answers, server.posts.posted) == ([], [])
    server.posts.release()
    server.flush()
    assert is_done(*answers)
    assert len(server.posts.posted) == 1


# Mistakes.


@pytest.mark.parametrize(("path", "query"), [(path, query) for path, query, _ in PLAIN])
def test_wrong_numbers_in_the_query(server: Server, path: str, query: dict[str, int]) -> None:
    """A parameter that is missing, there twice, no number or out of range is named, and nothing is posted."""
    for name, right in query.items():
        rest = {other: value for other, value in query.items() if other != name}
        least = 0 if name == "sender" or (path, name) == ("/post_room_message", "uid") else 1
        assert server.call("POST", url(path, rest), CONTENT).is_error(400, name)
        for wrong in (*NO_NUMBERS, str(least - 1), str(2**53)):
            answer = server.call("POST", url(path, {**rest, name: wrong}), CONTENT)
            assert answer.is_error(400, name), wrong
        assert server.call("POST", f"{url(path, query)}&{name}={right}", CONTENT).is_error(400, name)
    assert server.posts.posted == []


@pytest.mark.parametrize(("path", "query"), [(path, query) for path, query, _ in PLAIN])
def test_what_is_no_content(server: Server, path: str, query: dict[str, int]) -> None:
    """A body that is empty or not UTF-8 is no message."""
    for content, word in (
        (None, "empty"),
        (b"", "empty"),
        (b"\xff", "UTF-8"),
        (b'{"text": "\xc3\x28"}', "UTF-8"),
        (b"\xed\xa0\x80", "UTF-8"),
    ):
        assert server.call("POST", url(path, query), content).is_error(400, word), content
    assert server.posts.posted == []


@pytest.mark.parametrize(
    ("path", "make"),
    [(url(path, query), lambda content: content) for path, query, _ in PLAIN]
    + [
        ("/post_system_message", lambda content: {**SYSTEM, "content": content.decode()}),
        ("/post_group_notification", lambda content: {**NOTIFICATION, "notification": content.decode()}),
        ("/post_customer_message", lambda content: {**CUSTOMER, "content": content.decode()}),
    ],
)
def test_too_long(server: Server, path: str, make: Any) -> None:
    """Content that no frame holds is refused by the domain, and a body over 1 MiB before it is read."""
    assert server.call("POST", path, make(b"x" * 32_768)).is_error(400, "too long")
    assert server.call("POST", path, make(b"x" * (MOST_BODY + 1))).is_error(413)
    assert server.posts.posted == []
    assert is_done(server.call("POST", path, make(b"x" * 32_000)))


@pytest.mark.parametrize("path", ["/post_system_message", "/post_group_notification", "/post_customer_message"])
def test_what_is_no_json(server: Server, path: str) -> None:
    """A body that is no JSON object is a mistake."""
    for sent in (b"", b"{", b"\xff\xfe", b"[]", b"null", b'"text"', b"{} {}", b"appid=7&uid=1"):
        assert server.call("POST", path, sent).is_error(400), sent
    assert server.call("POST", path, b'{"x":' + b"[" * 100_000).is_error(400, "in each other")
    assert server.posts.posted == []


@pytest.mark.parametrize(
    ("path", "body", "optional"),
    [
        ("/post_system_message", SYSTEM, ()),
        ("/post_group_notification", {**NOTIFICATION, "members": [1], "super": False}, ("members", "super")),
        ("/post_customer_message", CUSTOMER, ()),
    ],
)
def test_wrong_fields(server: Server, path: str, body: dict[str, Any], optional: tuple[str, ...]) -> None:
    """A field that is missing, of another type or out of range is named, and nothing is posted."""
    wrong: dict[str, list[Any]] = {
        "content": ["", 1, None, ["x"], {"text": "x"}],
        "notification": ["", 1, None, ["x"], {"text": "x"}],
        "receivers": [[], [0], [-1], ["1"], [1.5], [None], 1, "1", None, {"1": 1}, [1] * 10_001, [2**53]],
        "members": [[0], ["1"], 1, "1", {"1": 1}, [1] * 10_001, [2**53]],
        "super": [2, -1, "yes", [], 1.0],
    }
    for name in body:
        rest = {other: value for other, value in body.items() if other != name}
        if name not in optional:
            assert server.call("POST", path, rest).is_error(400, name)
        for value in wrong.get(name, [0, -1, 2**53, 10**30, 1.0, "1", True, None, [1], {}]):
            assert server.call("POST", path, {**rest, name: value}).is_error(400, name), value
    assert server.posts.posted == []


@pytest.mark.parametrize("path", ["/post_system_message", "/post_group_notification", "/post_customer_message"])
def test_half_a_character(server: Server, path: str) -> None:
    r"""JSON can name code points that are no characters ("\ud800"); no UTF-8 holds them."""
    body = {**SYSTEM, **NOTIFICATION, **CUSTOMER}
    for half in (r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud83d x", r"\udc00\ud83d"):
        text = '"appid": 7, "group_id": 5, "receivers": [1], "sender_appid": 7, "sender": 1, "receiver_appid": 7,'
        raw = f'{{{text} "receiver": 2, "content": "{half}", "notification": "{half}"}}'
        assert server.call("POST", path, raw.encode()).is_error(400), half
    assert server.posts.posted == []
    assert is_done(server.call("POST", path, body))


def test_half_of_the_older_form(server: Server) -> None:
    """Which form of a system message it is depends on the query; half a query is a mistake and never a guess."""
    for query in ("appid=7", "uid=1", "appid=7&uid=0", "uid=1&appid=x", "appid=&uid=1", "appid=7&uid=1&uid=2"):
        assert server.call("POST", f"/post_system_message?{query}", SYSTEM).is_error(400, "query"), query
    assert server.posts.posted == []


def test_older_form_with_a_body_in_json(server: Server) -> None:
    """In the older form the body is content, also where it looks like the newer form."""
    assert is_done(server.call("POST", "/post_system_message?appid=8&uid=9", b'{"appid":7,"receivers":[1]}'))
    assert server.posts.posted == [("system", 8, (9,), b'{"appid":7,"receivers":[1]}')]


@pytest.mark.parametrize("group", [404, 6])
def test_group_that_the_app_does_not_have(server: Server, group: int) -> None:
    """No such group, or a group of another app: a mistake, and nobody gets anything."""
    answer = server.call("POST", f"/post_group_message?appid=7&sender=1&receiver={group}", CONTENT)
    assert answer.is_error(400, str(group))
    assert server.call("POST", "/post_group_notification", {**NOTIFICATION, "group_id": group}).is_error(400, "nobody")
    assert server.posts.posted == []


# The server's own failures.


@pytest.mark.parametrize(
    ("path", "body"),
    [(url(path, query), CONTENT) for path, query, _ in PLAIN if path not in PASSING]
    + [(path, body) for path, body, _ in IN_JSON],
)
def test_message_that_is_not_stored(server: Server, path: str, body: Any) -> None:
    """Where the database does not answer, nobody hears of success."""
    server.posts.unavailable = True
    assert server.call("POST", path, body).is_error(500)


@pytest.mark.parametrize("path", READS)
def test_database_that_does_not_answer(server: Server, path: str) -> None:
    """The same for what is read: no empty list, no count of 0."""
    server.timelines.broken = True
    assert server.call("GET", path).is_error(500)


def test_saved_key_that_cannot_be_read(server: Server) -> None:
    """Nor is a key that is not known taken for 0."""
    server.sync_keys.broken = True
    assert server.call("GET", "/get_offline_count?appid=7&uid=1").is_error(500)


@pytest.mark.parametrize(
    ("path", "body"),
    [(url(path, query), CONTENT) for path, query, _ in PLAIN] + [(path, body) for path, body, _ in IN_JSON],
)
def test_bug(server: Server, path: str, body: Any, flush_logged_errors: FlushLoggedErrors) -> None:
    """What breaks is told to the log, and to nobody else."""
    server.posts.bug = ZeroDivisionError("a secret of the house")
    answer = server.call("POST", path, body)
    assert answer.is_error(500, "log")
    assert b"secret" not in answer.content
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_nothing_of_a_message_is_logged(server: Server) -> None:
    """What went well is for debugging only; what did not is told without content."""
    with logged_by("imserver") as events:
        server.call("POST", "/post_peer_message?appid=7&sender=1&receiver=2", b"a secret")
        server.call("POST", "/post_peer_message?appid=7&sender=1&receiver=0", b"a secret")
        server.call("POST", "/post_customer_message", {**CUSTOMER, "sender": 0, "content": "a secret"})
    lines = [(event["log_level"].name, formatEvent(event)) for event in events]
    assert lines == [
        ("debug", "127.0.0.1 POST /post_peer_message: 200"),
        ("info", "127.0.0.1 POST /post_peer_message: 400"),
        ("info", "127.0.0.1 POST /post_customer_message: 400"),
    ]


# The summary.


def enter(server: Server, user: UserKey, room: int) -> FakeConnection:
    connection = server.client(user)
    server.registry.enter_room(connection, room)
    return connection


def test_summary(server: Server) -> None:
    """Connections and users are counted, and messages: frames with something said, not PINGs and ACKs."""
    server.metrics.connections.read = lambda: {"tcp": 5.0, "websocket": 2.0}
    for user in (UserKey(7, 1), UserKey(7, 1), UserKey(7, 2), UserKey(8, 1)):
        server.client(user)
    for command, frames in ((Command.IM, 4), (Command.GROUP_IM, 2), (Command.PING, 100), (Command.ACK, 10)):
        server.metrics.frames_in.counts[command] = frames
    for command, frames in ((Command.IM, 8), (Command.SYSTEM, 1), (Command.PONG, 100), (Command.METADATA, 10)):
        server.metrics.frames_out.counts[command] = frames
    answer = server.call("GET", "/summary")
    assert (answer.status, answer.json) == (
        200,
        {
            "connection_count": 7,
            "client_count": 4,
            "clientset_count": 3,
            "in_message_count": 6,
            "out_message_count": 9,
        },
    )


def test_summary_of_an_app(server: Server) -> None:
    """Only the app's own clients and rooms; the large ones by name. A room of two apps is two rooms."""
    for uid in range(1, 1000):
        enter(server, UserKey(7, uid), 30)
    enter(server, UserKey(7, 1), 31)
    enter(server, UserKey(8, 1), 30)
    enter(server, UserKey(8, 1), 32)
    server.client(UserKey(7, 1000))
    answer = server.call("GET", "/summary?appid=7").json
    counts = {"clientset_count": 1000, "client_count": 1001, "room_count": 2, "room_client_count": 1000}
    assert answer["app_7"] == {**counts, "room_stat": {}}
    assert (answer["client_count"], answer["clientset_count"]) == (1003, 1001)
    enter(server, UserKey(7, 1000), 30)
    assert server.call("GET", "/summary?appid=7").json["app_7"]["room_stat"] == {"30": 1000}
    none = {"clientset_count": 0, "client_count": 0, "room_count": 0, "room_client_count": 0, "room_stat": {}}
    assert server.call("GET", "/summary?appid=404").json["app_404"] == none


def test_summary_of_no_app(server: Server) -> None:
    """A wrong appid is a mistake."""
    for appid in ("0", "x", "", "-1", str(2**53)):
        assert server.call("GET", f"/summary?appid={appid}").is_error(400, "appid"), appid
