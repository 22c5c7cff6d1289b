"""The HTTP listener: one tree of calls, and what a caller may cost."""

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from imserver.chat.trace import Trace
from imserver.http import health, openapi
from imserver.http import metrics as metrics_calls
from imserver.http.access import of_back_ends
from imserver.http.application import Application
from imserver.http.backend import BackEnd
from imserver.http.calls import Call, Reply, Route
from imserver.http.endpoints import route as endpoint_route
from imserver.http.errors import error_reply, reply_to
from imserver.http.health import Readiness
from imserver.http.history import History
from imserver.http.operator import Operator, for_operators
from imserver.http.operator_groups import OperatorGroups
from imserver.http.operator_relations import OperatorRelations
from imserver.http.operator_trace import OperatorTrace
from imserver.http.settings import Settings
from imserver.interfaces import (
    IAccounts,
    IClientRegistry,
    IGroupChanges,
    IGroups,
    IPosts,
    IRelations,
    ISyncKeys,
    ITimelines,
)
from imserver.metrics import Metrics

#: Bytes of a request's body.
MOST_BODY: Final = 1024 * 1024


def make_root(
    *,
    clock: IReactorTime,
    metrics: Metrics,
    registry: IClientRegistry,
    accounts: IAccounts,
    timelines: ITimelines,
    sync_keys: ISyncKeys,
    checks: Mapping[str, Callable[[], Deferred[None]]],
    operator_key: str,
    status: Callable[[], Mapping[str, Any]],
    back_end_key: bytes | None,
    posts: IPosts,
    groups: IGroups,
    group_changes: IGroupChanges,
    relations: IRelations,
    trace: Trace | None,
) -> IResource:
    """The tree of all calls.

    Args:
        checks: as `Readiness` takes them.
        operator_key: as `for_operators` takes it.
        status: as `Operator` takes it.
        back_end_key: as `access.of_back_ends` takes it.
        trace: None: nothing is traced.
    """
    readiness = Readiness(checks, clock)
    settings = Settings(accounts, registry)
    history = History(timelines, sync_keys)
    operator = Operator(registry, accounts, settings, timelines, sync_keys, readiness, status)
    operated = (
        *operator.routes(),
        *OperatorTrace(trace, accounts).routes(),
        *OperatorGroups(groups, group_changes, timelines).routes(),
        *OperatorRelations(relations, accounts).routes(),
    )
    back_end = BackEnd(posts, history, registry, metrics)
    application = Application(posts, history, accounts, settings, groups, group_changes)
    endpoints = (*back_end.endpoints(of_back_ends(back_end_key)), *application.endpoints())
    return _tree(
        (
            *health.routes(readiness),
            *metrics_calls.routes(metrics),
            *for_operators(operator_key, operated),
            *map(endpoint_route, endpoints),
            *openapi.routes(endpoints),
        )
    )


def _tree(routes: Iterable[Route]) -> IResource:
    from klein import Klein  # imports the reactor, which may not be installed while modules are loaded

    app = Klein()
    app.url_map.merge_slashes = False  # a path is right or wrong; no redirects
    for route in routes:
        app.route(route.path, methods=[route.method], endpoint=f"{route.method} {route.path}")(_endpoint(route.call))
    app.handle_errors(Exception)(lambda request, failure: _apply(request, reply_to(failure)))
    resource: IResource = app.resource()
    return resource


def _endpoint(call: Call) -> Callable[..., Deferred[bytes]]:
    async def carry_out(request: IRequest, values: Mapping[str, str]) -> Reply:
        try:
            return await call(request, **values)
        except Exception:
            return reply_to(Failure())

    def begin(request: IRequest, **values: str) -> Deferred[bytes]:
        # Klein cancels what it waits for when the caller goes. It waits for this Deferred, not for the call itself: a
        # token that was revoked still has connections to be closed.
        replied: Deferred[Reply] = Deferred()
        Deferred.fromCoroutine(carry_out(request, values)).addCallback(replied.callback)
        return replied.addCallback(lambda reply: _apply(request, reply))

    return begin


def _apply(request: IRequest, reply: Reply) -> bytes:
    """Make the request's response that of `reply`, up to its body, which is what to write."""
    request.setResponseCode(reply.status)
    for name, value in (
        ("Server", "imserver"),
        ("Content-Type", reply.content_type),
        ("Content-Length", str(len(reply.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *reply.headers,
    ):
        request.setHeader(name.encode(), value.encode())
    return reply.body


def make_site(
    root: IResource, metrics: Metrics, clock: IReactorTime, connections: int = 100, seconds: float = 30.0
) -> Site:
    """What listens.

    Args:
        root: from `make_root`.
        metrics: counts answers, and connections that were turned away.
        clock: measures `seconds`.
        connections: that may be open at once.
        seconds: in which a request has to arrive whole, counted from when its connection is free for it.
    """
    return HttpSite(root, metrics, clock, connections, seconds)


# Twisted's web server has no annotations; mypy (setup.cfg) lets us call its methods by the names of its classes only.


class _Request(Request):
    """A request whose body is kept in memory, as far as it may be that long, and looked at by nobody but its call."""

    channel: "_Channel"
    content: BytesIO
    _refused = False

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        # Without this header Twisted takes no body for a form: a parsed one costs a multiple of its size.
        self.requestHeaders.removeHeader(b"Content-Type")
        if length is not None and length > MOST_BODY:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        if not self._refused and self.content.tell() + len(data) > MOST_BODY:
            self._refuse()
        if not self._refused:
            self.content.write(data)

    def _refuse(self) -> None:
        """Answer at once. What still comes is read and dropped, until the request's time is over: who sends does not
        listen, and would lose the answer if the connection were closed under it."""
        self._refused = True
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")  # 413 says it all; no "100 Continue" after it
        reply = error_reply(413, f"the body is over {MOST_BODY} bytes")
        HTTPChannel.write(
            self.channel,
            b"HTTP/1.1 413 Request Entity Too Large\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(reply.body), reply.body),
        )
        self.channel.site.refused_body(self)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._refused:
            self.channel.loseConnection()
        else:
            Request.requestReceived(self, command, path, version)

    def process(self) -> None:
        self.site = self.channel.site
        try:
            unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            self._finish_with(error_reply(400, "the path is not UTF-8"))
        else:
            Request.process(self)

    def getRequestHostname(self) -> bytes:
        """What the caller calls this host decides nothing, so that it need not be valid either."""
        return b"localhost"

    def processingFailed(self, reason: Failure) -> Failure:
        self._finish_with(reply_to(reason))
        return reason

    def _finish_with(self, reply: Reply) -> None:
        Request.write(self, _apply(self, reply))
        Request.finish(self)


class _Channel(HTTPChannel):
    #: Set by `Site.buildProtocol`.
    site: "HttpSite"

    maxHeaders = 100
    totalHeadersSize = 16 * 1024
    #: Seconds to take the end of the last answer.
    abortTimeout = 10
    _leaving = False

    def resetTimeout(self) -> None:
        """Bytes that trickle in buy no time: the request as a whole has its deadline."""

    def loseConnection(self) -> None:
        if not self._leaving:
            self._leaving = True
            HTTPChannel.setTimeout(self, self.abortTimeout)
            HTTPChannel.loseConnection(self)

    def timeoutConnection(self) -> None:
        if self._leaving:
            HTTPChannel.forceAbortClient(self)
        else:
            self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        HTTPChannel.connectionLost(self, reason)
        self.site.connection_lost()


class HttpSite(Site):
    _log = Logger()

    noisy = False
    protocol = _Channel  # type: ignore[assignment]  # the usual one wraps the channel, for HTTP/2 to take its place
    requestFactory = _Request

    def __init__(
        self, root: IResource, metrics: Metrics, clock: IReactorTime, connections: int, seconds: float
    ) -> None:
        Site.__init__(self, root, timeout=seconds, reactor=clock)
        self._metrics = metrics
        self._most_connections = connections
        self._connections = 0

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self._connections >= self._most_connections:
            self._metrics.refused.inc("http")
            return None
        self._connections += 1
        return Site.buildProtocol(self, addr)

    def connection_lost(self) -> None:
        self._connections -= 1

    def acceptableProtocols(self) -> list[bytes]:
        """No HTTP/2: the limits here are those of HTTP/1.1."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """No log file, and no timer for its dates."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def refused_body(self, request: Request) -> None:
        self._metrics.http_requests.inc("413")
        self._log.info("{address} sent a body over {most} bytes", address=_address(request), most=MOST_BODY)

    def log(self, request: HTTPRequest) -> None:
        """Count an answer, and tell what was asked: without the query, the headers and the bodies, which may hold
        secrets. What went well is for debugging only (probes ask for ever, back ends post a thousand times a second),
        except where an operator did something."""
        self._metrics.http_requests.inc(str(request.code))
        operated = request.method != b"GET" and request.path.startswith(b"/admin/")
        log = self._log.info if operated or request.code != 200 else self._log.debug
        log(
            "{address} {method} {path}: {status}",
            address=_address(request),
            method=_printable(request.method),
            path=_printable(request.path),
            status=request.code,
        )


def _address(request: HTTPRequest) -> str:
    return str(getattr(request.client, "host", "-"))  # a UNIX socket has no host


def _printable(raw: bytes) -> str:
    return raw[:200].decode("latin-1").encode("unicode_escape").decode("ascii")
