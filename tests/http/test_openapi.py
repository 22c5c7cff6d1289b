"""GET /openapi.json says what the two APIs do, and they do what it says."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

from imserver.chat.policy import Policy
from imserver.chat.table import Chat
from imserver.interfaces import Unavailable
from imserver.model import UserKey
from tests.fakes.chat import FakeBus, FakePushQueue
from tests.fakes.words import FakeWords
from tests.http.server import Answer, Server
from tests.http.test_access import APP_CALLS, BACK_END_KEY, USER_CALLS, basic, secret_of
from tests.leaks import FlushLoggedErrors

KEY = BACK_END_KEY.encode()
#: Every call of the back-end API, in a form that succeeds.
BACK_END_CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/post_peer_message?appid=7&sender=1&receiver=2", b"hi"),
    ("POST", "/post_group_message?appid=7&sender=1&receiver=5", b"hi"),
    ("POST", "/post_group_notification", {"appid": 7, "group_id": 5, "notification": "hi"}),
    ("POST", "/post_system_message", {"appid": 7, "receivers": [1], "content": "hi"}),
    ("POST", "/post_notification?appid=7&uid=2", b"hi"),
    ("POST", "/post_realtime_message?appid=7&sender=1&receiver=2", b"hi"),
    ("POST", "/post_room_message?appid=7&uid=1&room=2", b"hi"),
    (
        "POST",
        "/post_customer_message",
        {"sender_appid": 7, "sender": 1, "receiver_appid": 8, "receiver": 1, "content": "hi"},
    ),
    ("GET", "/get_offline_count?appid=7&uid=1", None),
    ("GET", "/load_latest_message?appid=7&uid=1&limit=10", None),
    ("GET", "/load_history_message?appid=7&uid=1&last_id=0", None),
    ("GET", "/summary?appid=7", None),
]
CALLS = BACK_END_CALLS + APP_CALLS + USER_CALLS


class Operation(NamedTuple):
    method: str
    path: str
    described: dict[str, Any]

    @property
    def example(self) -> tuple[str, str, Any]:
        """A call of this operation that succeeds. Every operation needs one."""
        pattern = re.sub(r"{\w+}", "[0-9]+", self.path) + r"(\?.*)?"
        return next(call for call in CALLS if call[0] == self.method and re.fullmatch(pattern, call[1]))

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in self.described["responses"]]

    @property
    def body_types(self) -> list[str]:
        return list(self.described.get("requestBody", {}).get("content", ()))


def with_the_domain(server: Server) -> Server:
    """The same, with the real domain behind its calls, on fakes of what that stands on."""
    chat = Chat(
        directory=server.accounts,
        groups=server.groups,
        registry=server.registry,
        timelines=server.timelines,
        sync_keys=server.sync_keys,
        bus=FakeBus(),
        push_queue=FakePushQueue(),
        policy=Policy(words=FakeWords(["a"])),
        metrics=server.metrics,
        now=lambda: 1000.0,
        kefu_appid=8,
    )
    server.serve(chat.posts, chat.changes)
    return server


def description_of(server: Server) -> dict[str, Any]:
    answer = server.call("GET", "/openapi.json", authorization=None)
    assert answer.status == 200
    description: dict[str, Any] = answer.json
    return description


def operations_of(server: Server) -> list[Operation]:
    paths = description_of(server)["paths"]
    return [Operation(method.upper(), path, paths[path][method]) for path in paths for method in paths[path]]


def a_server(back_end_key: bytes | None = KEY) -> Server:
    """App 7 has group 5; the token "mine" is that of its user 1."""
    server = Server(back_end_key=back_end_key)
    server.accounts.add_user("mine", UserKey(7, 1))
    server.groups.add_group(7, 5, range(1, 10))
    return server


def credentials(server: Server, operation: Operation) -> str | None:
    """What the operation's description wants first, if anything."""
    match operation.described["security"]:
        case [{"key": _}, *_]:
            return f"Bearer {BACK_END_KEY}"
        case [{"app": _}, *_]:
            return basic(7, secret_of(server, 7))
        case [{"user": _}, *_]:
            return "Bearer mine"
        case _:
            return None


OPERATIONS = operations_of(a_server())


# The description and the tree.


@pytest.mark.parametrize("key", [KEY, None])
def test_every_route_is_described(key: bytes | None) -> None:
    """What the tree answers and what is described are the same calls, except for those of operators and probes."""
    server = a_server(key)
    rules = server.root._app.url_map.iter_rules()  # type: ignore[attr-defined]  # Klein's resource is its own
    routes = {(method, re.sub(r"<(\w+)>", r"{\1}", rule.rule)) for rule in rules for method in rule.methods or ()}
    others = {route for route in routes if re.match(r"/(admin/|healthz|readyz|metrics|openapi\.json)", route[1])}
    heads = {route for route in routes if route[0] == "HEAD"}
    described = {(operation.method, operation.path) for operation in operations_of(server)}
    assert described == routes - others - heads
    assert len(described) == 33


def test_description_is_valid() -> None:
    """It is an OpenAPI document, and whoever reads it finds each call by a name of its own."""
    description = description_of(a_server())
    schemathesis.openapi.from_dict(description).validate()
    names = [operation.described["operationId"] for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(description).decode())) == set(
        description["components"]["schemas"]
    )


def test_credentials_are_described() -> None:
    """Without a key the back-end API wants none; the rest stays as it is."""
    with_key = {(each.method, each.path): each.described["security"] for each in OPERATIONS}
    without = {(each.method, each.path): each.described["security"] for each in operations_of(a_server(None))}
    changed = {call for call in with_key if with_key[call] != without[call]}
    assert changed == {(method, path.partition("?")[0]) for method, path, _ in BACK_END_CALLS}
    assert all((with_key[call], without[call]) == ([{"key": []}], []) for call in changed)


# The statuses.


def provoke(server: Server, operation: Operation, status: int) -> Answer:
    """Make a call that has to be answered with this status. After 500 the server stays broken."""
    method, path, body = operation.example
    headers: dict[str, str] = {}
    authorization = credentials(server, operation)
    match status:
        case 400 if "?" in path:
            path = path.partition("?")[0] + "?appid=x&uid=x"
        case 400 if "{" in operation.path:
            path = re.sub("[0-9]+", "0", path)
        case 400:
            body = b"{"
        case 401:
            authorization = "Bearer wrong"
        case 403:
            headers = {"Origin": "http://page.example"}
        case 413:
            body = b" " * (2**20 + 1)
        case 500:
            server.posts.bug = Unavailable("as the test wants it")
            server.timelines.broken = server.accounts.unavailable = True
            server.metrics.connections.read = lambda: {"tcp": 1 // 0}
    return server.call(method, path, body, authorization=authorization, **headers)


@pytest.mark.parametrize(
    ("key", "operation"),
    [
        pytest.param(key, operation, id=f"{operation.method} {operation.path}, {'a' if key else 'no'} key")
        for key in (KEY, None)
        for operation in operations_of(a_server(key))
    ],
)
def test_every_status_is_reached(
    key: bytes | None, operation: Operation, flush_logged_errors: FlushLoggedErrors
) -> None:
    """No status is described that nobody ever gets."""
    server = a_server(key)
    assert operation.statuses == sorted(operation.statuses)
    for status in operation.statuses:
        answer = provoke(server, operation, status)
        if status == 200:
            assert answer.status == 200
        else:
            assert answer.is_error(status)
    assert len(flush_logged_errors(ZeroDivisionError)) == (operation.path == "/summary")


# What schemathesis finds.


class Wsgi:
    """The listener as an application that schemathesis can call: each request has a connection of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = "?".join(part for part in (environ["REQUEST_URI"], environ["QUERY_STRING"]) if part)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        lines = [f"{environ['REQUEST_METHOD']} {target} HTTP/1.1", f"Content-Length: {len(body)}"]
        lines += [
            f"{name[5:].replace('_', '-')}: {value}" for name, value in environ.items() if name.startswith("HTTP_")
        ]
        wire = self._server.connect()
        wire.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        answer = wire.answer()
        wire.lose()
        start_response(f"{answer.status} Status", list(answer.headers.items()))
        return [answer.content]


def whole(value: Any) -> Any:
    """With numbers like 5.0 written as 5. JSON Schema takes both for integers; here they have to be written as such."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [whole(item) for item in value]
        case dict():
            return {name: whole(item) for name, item in value.items()}
        case _:
            return value


CHECKS = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": [200]},
        "negative_data_rejection": {"expected-statuses": [400, 413]},
    }
}


def cases_of(server: Server, operation: Operation, mode: GenerationMode) -> st.SearchStrategy[Case[Any]]:
    description = description_of(server)
    # The test brings its own credentials, and would not find its way if they were varied too.
    description["paths"][operation.path][operation.method.lower()].pop("security")
    schema = schemathesis.openapi.from_dict(description, config=schemathesis.Config.from_dict(CHECKS))
    schema.app = Wsgi(server)
    schema.hook("map_body")(lambda context, body: whole(body))
    return schema[operation.path][operation.method].as_strategy(generation_mode=mode)


def is_always_accepted(operation: Operation) -> bool:
    """Is whatever fits the description a success? Not where a group has to exist, or one end to be of the
    customer-service app, where a query has to go with its body, or somebody to be named."""
    others = ("/post_customer_message", "/post_system_message", "/messages/offline")
    return "group" not in operation.path and operation.path not in others


def is_always_rejected(operation: Operation) -> bool:
    """Is whatever does not fit it a mistake? Not where any text will do; and parameters that may be left out are, to
    schemathesis, there, but empty."""
    optional = any(not parameter["required"] for parameter in operation.described["parameters"])
    return "text/plain" not in operation.body_types and not optional


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{mode.value} {operation.method} {operation.path}")
        for operation in OPERATIONS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or 400 in operation.statuses
    ],
)
@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_schemathesis_finds_nothing(operation: Operation, mode: GenerationMode, examples: int) -> None:
    """Whatever fits the description, or nearly does, is answered as it is described, and never with 500."""
    server = with_the_domain(a_server())
    authorization = credentials(server, operation)
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
        *([positive_data_acceptance] if is_always_accepted(operation) else []),
        *([negative_data_rejection] if is_always_rejected(operation) else []),
    ]

    @settings(max_examples=examples)
    @given(case=cases_of(server, operation, mode))
    def call(case: Case[Any]) -> None:
        server.groups.add_group(7, 5, range(1, 10))  # one call may have disbanded it
        case.call_and_validate(headers={"Authorization": authorization}, checks=checks)

    call()
