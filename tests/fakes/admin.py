"""The operator's calls, answered from memory: what imctl talks to in its tests."""

import json
from typing import Any, NamedTuple

from treq.testing import StubTreq
from twisted.web.resource import Resource
from twisted.web.server import Request

KEY = "k" * 43


class Asked(NamedTuple):
    method: str
    #: With its query.
    path: str
    body: Any


class FakeAdmin(Resource):
    """Answers what a test puts into `answers`, tokens by itself, and 404 to the rest; wants the key."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.asked: list[Asked] = []
        #: (method, path) -> status and JSON.
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.key = KEY
        #: Token -> uid.
        self.issued: dict[str, int] = {}
        #: Answer with this, whatever is asked.
        self.raw: bytes | None = None

    def render(self, request: Request) -> bytes:
        if self.raw is not None:
            return self.raw
        if request.getHeader("Authorization") != f"Bearer {self.key}":
            return self._answer(request, 401, "no key")
        content = request.content.read() if request.content else b""
        asked = Asked(request.method.decode(), request.uri.decode(), json.loads(content) if content else None)
        self.asked.append(asked)
        if asked[:2] == ("POST", "/admin/tokens"):
            body = asked.body
            assert body["last"] - body["first"] < 100_000
            uids = range(body["first"], body["last"] + 1)
            tokens = [f"token-{body['appid']}-{uid}" for uid in uids]
            self.issued |= dict(zip(tokens, uids, strict=True))
            return self._answer(request, 200, {"tokens": list(zip(uids, tokens, strict=True))})
        status, answer = self.answers.get(asked[:2], (404, "there is no such thing"))
        return self._answer(request, status, answer)

    def _answer(self, request: Request, status: int, answer: Any) -> bytes:
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")
        if status != 200:
            answer = {"meta": {"code": status, "message": answer}}
        return json.dumps(answer).encode()


def http_to(resource: Resource) -> Any:
    """What stands for treq's HTTPClient, and asks this resource; `flush` moves the bytes."""
    return StubTreq(resource)  # type: ignore[no-untyped-call]  # treq's
