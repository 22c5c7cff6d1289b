"""The operator's calls to a running server, over HTTP."""

import json
from typing import Any, Final

import treq
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from imserver.cli.complaint import Complaint
from imserver.cli.found import FoundServer, operator_key

#: Seconds for one call; orders of many tokens take their caller's.
_SECONDS: Final = 10.0
#: Bytes of one answer: 100,000 tokens have about 6 MB.
_MOST_BYTES: Final = 64 * 1024 * 1024


class Operator:
    """Makes calls to one server. Every method raises `Complaint` where a call fails."""

    def __init__(self, clock: IReactorTime, http: HTTPClient, url: str, key: str) -> None:
        self._clock = clock
        self._http = http
        self._url = url
        self._key = key

    async def get(self, path: str) -> Any:
        """The answer's JSON."""
        return await self._call("GET", path, None, _SECONDS)

    async def post(self, path: str, body: dict[str, Any], seconds: float = _SECONDS) -> Any:
        """The same, with JSON in the body and time for more than a few rows."""
        return await self._call("POST", path, json.dumps(body).encode(), seconds)

    async def tokens(self, appid: int, first: int, last: int) -> list[tuple[int, str]]:
        """New tokens for a range of users, at most 100,000: (uid, token) for each."""
        answer = await self.post("/admin/tokens", {"appid": appid, "first": first, "last": last}, 120.0)
        return [(uid, token) for uid, token in answer["tokens"]]

    def _call(self, method: str, path: str, body: bytes | None, seconds: float) -> Deferred[Any]:
        def too_late(value: Any, seconds: float) -> Any:
            if isinstance(value, Failure):
                raise Complaint(f"the server at {self._url} gave no answer within {seconds:.0f} s")
            return value

        return Deferred.fromCoroutine(self._answer(method, path, body)).addTimeout(seconds, self._clock, too_late)

    async def _answer(self, method: str, path: str, body: bytes | None) -> Any:
        headers = Headers({"Authorization": [f"Bearer {self._key}"], "Content-Type": ["application/json"]})
        parts: list[bytes] = []
        size = 0

        def take(part: bytes) -> None:
            nonlocal size
            size += len(part)
            if size > _MOST_BYTES:
                raise Complaint(f"the server at {self._url} answers without end")
            parts.append(part)

        try:
            response = await self._http.request(
                method, self._url + path, headers=headers, data=body, allow_redirects=False
            )
            await treq.collect(response, take)
        except CancelledError:
            raise
        except (ConnectError, ResponseFailed, OSError) as error:
            raise Complaint(
                f"the server does not answer at {self._url} ({str(error).rstrip('.')}): "
                "it may have been killed; start it again"
            ) from None
        try:
            answer = json.loads(b"".join(parts))
            if response.code == 200 and isinstance(answer, dict):
                return answer
            message = str(answer["meta"]["message"])
        except (ValueError, KeyError, TypeError):
            raise Complaint(
                f"what answers at {self._url} (status {response.code}) is no imserver: stop it, then start the server"
            ) from None
        if response.code == 401:
            raise Complaint(
                f"the server at {self._url} does not take the key of this data directory: another server has its "
                "port; stop that one, or give its --data"
            )
        raise Complaint(message)


def operator_of(reactor: Any, server: FoundServer) -> Operator:
    """The operator of a running server. Raises `Complaint`."""
    address = server.http_address()
    pool = HTTPConnectionPool(reactor, persistent=False)
    if address.startswith("unix:"):
        agent = Agent.usingEndpointFactory(reactor, _OneSocket(reactor, address.removeprefix("unix:")), pool)
        address = "localhost"
    else:
        agent = Agent(reactor, connectTimeout=_SECONDS, pool=pool)
    return Operator(reactor, HTTPClient(agent), f"http://{address}", operator_key(server.data))


@implementer(IAgentEndpointFactory)
class _OneSocket:
    """Whatever the URL, the answer comes from one Unix socket."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return UNIXClientEndpoint(self._reactor, self._path)
