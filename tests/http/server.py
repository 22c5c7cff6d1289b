"""The HTTP side of a server in memory: the real tree behind the real listener, with fakes for what it asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
from treq.testing import StubTreq
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from werkzeug.routing import Rule
from zope.interface import implementer

from imserver.chat.trace import Trace
from imserver.http.site import make_root, make_site
from imserver.interfaces import IGroupChanges, IPosts
from imserver.metrics import Metrics
from imserver.model import SignIn, UserKey
from imserver.net.registry import ClientRegistry
from tests.fakes.chat import FakeConnection
from tests.fakes.directory import FakeDirectory
from tests.fakes.groups import FakeGroups
from tests.fakes.relations import FakeRelations
from tests.fakes.timelines import FakeSyncKeys, FakeTimelines
from tests.http.fakes import FakeGroupChanges, FakePosts

Value = TypeVar("Value")


def _build_url(rule: Rule, **values: object) -> tuple[str, str]:
    raise NotImplementedError("nobody asks for the URL of a call")


# Werkzeug would compile two functions for each call, which build its URL: most of what a server costs a test.
Rule._compile_builder = lambda rule, append_unknown=True: _build_url  # type: ignore[assignment, method-assign]

KEY = "k" * 43
STATUS = {"version": "1.2.3", "pid": 4, "connections": {"tcp": 5, "websocket": 6}}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return msgspec.json.decode(self.content)

    def is_error(self, status: int, *words: str) -> bool:
        """Is it an error as ecosystem.md gives its form, with these words in its message?"""
        message = self.json["meta"]["message"]
        return (
            self.status == status
            and self.json == {"meta": {"code": status, "message": message}}
            and all(word in message for word in words)
        )


class Server:
    """`call` for what a well-behaved client asks, `connect` for bytes as they come."""

    def __init__(
        self,
        accounts: FakeDirectory | None = None,
        checks: dict[str, Callable[[], Deferred[None]]] | None = None,
        status: Callable[[], dict[str, Any]] = STATUS.copy,
        connections: int = 100,
        back_end_key: bytes | None = None,
        timelines: FakeTimelines | None = None,
        group_changes: FakeGroupChanges | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.registry = ClientRegistry(self.metrics)
        self.accounts = accounts or FakeDirectory()
        self.timelines = timelines or FakeTimelines()
        self.sync_keys = FakeSyncKeys()
        self.groups = FakeGroups()
        self.posts = FakePosts(self.groups)
        self.group_changes = group_changes or FakeGroupChanges(self.groups)
        self.relations = FakeRelations()
        self.trace = trace
        self._checks = {"storage": lambda: succeed(None)} if checks is None else checks
        self._status = status
        self._connections = connections
        self._back_end_key = back_end_key
        self.serve(self.posts, self.group_changes)

    def serve(self, posts: IPosts, group_changes: IGroupChanges) -> None:
        """Listen, with these behind the calls."""
        self.root = make_root(
            clock=self.clock,
            metrics=self.metrics,
            registry=self.registry,
            accounts=self.accounts,
            timelines=self.timelines,
            sync_keys=self.sync_keys,
            checks=self._checks,
            operator_key=KEY,
            status=self._status,
            back_end_key=self._back_end_key,
            posts=posts,
            groups=self.groups,
            group_changes=group_changes,
            relations=self.relations,
            trace=self.trace,
        )
        self.site = make_site(self.root, self.metrics, self.clock, self._connections)
        self._treq: Any = StubTreq(self.root)  # type: ignore[no-untyped-call]  # treq.testing has no annotations
        # StubTreq would put a Site of its own before the tree; the requests are to meet ours.
        self._treq._agent._serverFactory = self.site

    def ask(
        self, method: str, path: str, body: object = None, authorization: str | None = f"Bearer {KEY}", **headers: str
    ) -> Deferred[Answer]:
        """Fires once the server has answered, and `flush` has run. `body` is bytes, or anything for JSON."""
        if authorization is not None:
            headers["Authorization"] = authorization
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        asked = self._treq.request(method, f"http://127.0.0.1:6666{path}", data=data, headers=headers)
        self._treq.flush()
        answer: Deferred[Answer] = asked.addCallback(self._read)
        return answer

    def _read(self, response: Any) -> Deferred[Answer]:
        headers = {
            name.decode().lower(): b", ".join(values).decode() for name, values in response.headers.getAllRawHeaders()
        }
        answer: Deferred[Answer] = response.content().addCallback(lambda body: Answer(response.code, headers, body))
        return answer

    def flush(self) -> None:
        self._treq.flush()

    def call(self, method: str, path: str, body: object = None, **kwargs: Any) -> Answer:
        return result_of(self.ask(method, path, body, **kwargs))

    def connect(self) -> "Wire":
        return Wire(self.site)

    def client(self, user: UserKey, **settings: Any) -> FakeConnection:
        """A signed-in connection of a user."""
        connection = FakeConnection()
        connection.signed_in(SignIn(user, 3, **settings), 2, b"phone", 2)
        self.registry.add(connection)
        return connection


def result_of(deferred: Deferred[Value]) -> Value:
    """The result, which has to be there."""
    results: list[Value | Failure] = []
    deferred.addBoth(results.append)
    assert results, "there is no answer yet"
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


@implementer(ILogObserver)
class _Events:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if event["log_namespace"].startswith(self.namespace):
            self.events.append(event)


@contextmanager
def logged(namespace: str) -> Iterator[list[LogEvent]]:
    """The events that are logged meanwhile by what lies in this namespace."""
    observer = _Events(namespace)
    globalLogPublisher.addObserver(observer)
    try:
        yield observer.events
    finally:
        globalLogPublisher.removeObserver(observer)


class Wire:
    """One connection to the listener."""

    def __init__(self, site: Any) -> None:
        address = IPv4Address("TCP", "192.0.2.9", 4000)
        self.protocol = site.buildProtocol(address)
        self.transport = StringTransport(peerAddress=address)
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def received(self) -> bytes:
        """What came since the last look."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def answer(self) -> Answer:
        """The one answer that came since the last look."""
        head, _, content = self.received().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert int(headers["content-length"]) == len(content)
        return Answer(int(first.split(" ")[1]), headers, content)

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))
