"""One request to the push webhook: signed, its answer in bounded time and memory (docs/push.md)."""

import hmac
import re
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IConsumer, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from imserver import __version__
from imserver.interfaces import WallClock
from imserver.metrics import Metrics

#: Seconds to connect, of those for the whole.
_CONNECT_SECONDS: Final = 5.0
#: Seconds that an idle connection is kept: less than servers keep theirs, which would close it under a request.
_KEEP_SECONDS: Final = 30
#: Bytes of an answer, with its headers.
_MOST_ANSWER: Final = 64 * 1024
#: Seconds by which an answer may put off the next request, at least and at most.
_SHORTEST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 600.0


class Answer(NamedTuple):
    status: int
    #: Seconds to wait before the next request, where the answer says so (Retry-After).
    delay: float | None = None


class NoAnswer(Exception):
    """No answer came, or none that is HTTP. Its text says why."""

    def __init__(self, reason: str, timed_out: bool) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


def signature(key: bytes, seconds: int, body: bytes) -> str:
    """What proves that a body was sent by who has the key, at this time (seconds since 1970)."""
    return f"t={seconds},v1={hmac.new(key, b'%d.%b' % (seconds, body), sha256).hexdigest()}"


class Webhook:
    """The other side. One request at a time; its connection is kept for the next."""

    def __init__(self, url: str, key: bytes, seconds: float, reactor: Any, now: WallClock, metrics: Metrics) -> None:
        """
        Args:
            url: http or https. The server has to prove its name by a certificate that this machine trusts.
            key: signs what is sent.
            seconds: that a request may take, with its answer.
            now: what the signature says.
            metrics: gets how long requests took.
        """
        parts = urlsplit(url)
        #: For logs: path and query may hold secrets.
        self.name = f"{parts.scheme}://{parts.netloc}"
        self._url = url.encode("ascii")
        self._key = key
        self._seconds = seconds
        self._reactor = reactor
        self._now = now
        self._metrics = metrics
        self._endpoints = _Endpoints(reactor, min(seconds, _CONNECT_SECONDS))
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 1
        self._pool.cachedConnectionTimeout = _KEEP_SECONDS
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, self._pool)

    def post(self, body: bytes) -> Deferred[Answer]:
        """Send a body of JSON. Redirects are not followed; they are answers.

        Fires with the answer. Fails with `NoAnswer`, or where it is cancelled with `CancelledError`; then the
        connection is closed.
        """
        began = self._reactor.seconds()
        answered = Deferred.fromCoroutine(self._post(body)).addTimeout(self._seconds, self._reactor)
        return answered.addBoth(self._ended, began)

    async def _post(self, body: bytes) -> Answer:
        try:
            response = await self._agent.request(b"POST", self._url, self._headers(body), _Body(body))
        except Exception:
            if _is_cancelled(Failure()):
                raise CancelledError from None
            raise
        rest = _Rest()
        response.deliverBody(rest)
        try:
            # The next request can have the connection when all of this answer is off it.
            await rest.ended
        except CancelledError:
            self._endpoints.abort()  # what the answer is was said in its first line
        return Answer(response.code, _delay(response.headers, self._now()))

    def _headers(self, body: bytes) -> Headers:
        return Headers(
            {
                b"Content-Type": [b"application/json"],
                b"User-Agent": [b"imserver/" + __version__.encode()],
                b"X-Imserver-Signature": [signature(self._key, int(self._now()), body).encode()],
            }
        )

    def _ended(self, result: Answer | Failure, began: float) -> Answer | Failure:
        self._metrics.push_request_seconds.observe(self._reactor.seconds() - began)
        if not isinstance(result, Failure) or result.check(CancelledError):
            return result
        if result.check(defer.TimeoutError):
            return Failure(NoAnswer(f"no answer within {self._seconds:g} s", timed_out=True))
        return Failure(NoAnswer(_reason(result), timed_out=result.check(error.TimeoutError) is not None))

    def close(self) -> Deferred[None]:
        """Close what is open. Fires when it is."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        self._endpoints.abort()
        return closed


def _delay(headers: Headers, now: float) -> float | None:
    """Retry-After, which is a number of seconds or a date, within bounds."""
    value = headers.getRawHeaders("Retry-After", [""])[0].strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, _SHORTEST_DELAY), _LONGEST_DELAY)


def _is_cancelled(failure: Failure) -> bool:
    """Twisted has an error of its own for each stage at which a request is cancelled."""
    if failure.check(CancelledError, error.ConnectingCancelledError):
        return True
    return any(_is_cancelled(each) for each in getattr(failure.value, "reasons", ()))


def _reason(failure: Failure) -> str:
    """Why there is no answer. What came instead of one is not shown: it may well be an echo of what was sent."""
    reasons = getattr(failure.value, "reasons", ())
    if reasons:
        return "; ".join([_reason(each) for each in reasons])
    if failure.check(error.ConnectionAborted):
        return f"its headers are over {_MOST_ANSWER} bytes"
    if failure.check(error.ConnectError, error.ConnectionClosed, OSError, SSL.Error, VerificationError):
        return failure.getErrorMessage()
    return f"it does not speak HTTP ({type(failure.value).__name__})"


@implementer(IBodyProducer)
class _Body:
    """The body of a request, which is in memory."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written."""

    def resumeProducing(self) -> None:
        """As above."""

    def stopProducing(self) -> None:
        """As above."""


class _Rest(Protocol):
    """Takes the body of an answer, which says nothing to us."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


class _Connection(ProtocolWrapper):
    """Ends where an answer brings too much. (Twisted bounds neither an answer's headers nor its body.)"""

    factory: "_Connections"
    _left = 0

    def write(self, data: bytes) -> None:
        self._left = _MOST_ANSWER  # the body of a request, after which its answer comes
        ProtocolWrapper.write(self, data)

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.abortConnection()
        else:
            ProtocolWrapper.dataReceived(self, data)


class _Connections(WrappingFactory):
    noisy = False
    protocol = _Connection

    def __init__(self, wrapped: IProtocolFactory, open_connections: set[_Connection]) -> None:
        WrappingFactory.__init__(self, wrapped)  # type: ignore[arg-type]  # generic in the newest Twisted only
        self._open = open_connections

    def registerProtocol(self, p: _Connection) -> None:
        self._open.add(p)

    def unregisterProtocol(self, p: _Connection) -> None:
        self._open.discard(p)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Connects to wherever a URL says, and knows what is open."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._policy = BrowserLikePolicyForHTTPS()
        self._open: set[_Connection] = set()

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: Any = HostnameEndpoint(self._reactor, uri.host.decode("ascii"), uri.port, self._seconds)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint, self._reactor)
        return _Endpoint(endpoint, self._open)

    def abort(self) -> None:
        for connection in tuple(self._open):
            connection.abortConnection()


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, endpoint: IStreamClientEndpoint, open_connections: set[_Connection]) -> None:
        self._endpoint = endpoint
        self._open = open_connections

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connected: Deferred[Any] = self._endpoint.connect(_Connections(protocolFactory, self._open))
        return connected.addCallback(lambda connection: connection.wrappedProtocol)
