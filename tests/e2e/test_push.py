"""Those who are offline, or only seem to be online, through a real server and a webhook that the test plays."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import endpoints
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from imserver.protocol.messages import IM, Ack
from tests.contract.sql_storage import running_reactor
from tests.e2e.process import ServerProcess

KEY = b"0123456789abcdef0123456789abcdef"


class Hook(Resource):
    """Takes pushes while `takes` is set, and answers 500 while it is not."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)
        self.takes = True
        #: The pushes of each request that was taken.
        self.taken: DeferredQueue[list[Any]] = DeferredQueue()
        #: Those of each request that was refused.
        self.refused: DeferredQueue[list[Any]] = DeferredQueue()

    def render_POST(self, request: Any) -> Any:
        body = request.content.read()
        time, _, signature = request.getHeader("X-Imserver-Signature").partition(",v1=")
        signed = hmac.new(KEY, time.removeprefix("t=").encode() + b"." + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(signature, signed)
        pushes = json.loads(body)["pushes"]
        request.setResponseCode(204 if self.takes else 500)
        request.finish()
        (self.taken if self.takes else self.refused).put(pushes)
        return NOT_DONE_YET


@pytest_twisted.async_yield_fixture
async def hook() -> AsyncIterator[tuple[Hook, int]]:
    hook = Hook()
    reactor = running_reactor()
    port = await endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Site(hook, reactor=reactor))
    yield hook, port.getHost().port
    await port.stopListening()


def settings(tmp_path: Path, port: int, more: str = "") -> str:
    key = tmp_path / "push.key"
    key.touch(0o600)
    key.write_bytes(KEY)
    return f'[push]\nkind = "webhook"\nurl = "http://127.0.0.1:{port}/"\nkey_file = "{key}"\n{more}'


def soon(done: Deferred[list[Any]]) -> Deferred[list[Any]]:
    return done.addTimeout(30, running_reactor())


@pytest_twisted.ensureDeferred
async def test_pushes_outlive_a_kill(
    new_server: Callable[[str], ServerProcess], hook: tuple[Hook, int], tmp_path: Path
) -> None:
    """What the webhook did not take is sent by the server that starts after one that was killed, each push once."""
    webhook, port = hook
    server = new_server(settings(tmp_path, port))
    await server.start()
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1])
    webhook.takes = False
    contents = [json.dumps({"text": f"number {n}"}) for n in range(5)]
    for content in contents:
        alice.send(IM(1, 2, 0, 0, content.encode()))
        await alice.expect(Ack)
    refused: list[Any] = []
    while len(refused) < len(contents):  # the last has to be on disk, too
        refused = await soon(webhook.refused.get())
    assert [push["content"] for push in refused] == contents
    await server.kill()
    webhook.takes = True
    await server.start()
    taken: list[Any] = []
    while len(taken) < len(contents):
        taken += await soon(webhook.taken.get())
    assert [push["content"] for push in taken] == contents
    assert {(push["queue"], push["sender"], push["receiver"]) for push in taken} == {("push_queue", 1, 2)}
    assert [push["id"] for push in taken] == [push["id"] for push in refused]
    assert await server.stop() == 0
    assert webhook.taken.pending == []


@pytest_twisted.ensureDeferred
async def test_who_seems_to_be_online(
    new_server: Callable[[str], ServerProcess], hook: tuple[Hook, int], tmp_path: Path
) -> None:
    """A message that was pushed to a client that says nothing is queued after all, once; of one that answers it is
    not. The trace tells both."""
    webhook, port = hook
    server = new_server(settings(tmp_path, port, "rescue_seconds = 3\n"))
    await server.start()
    tokens = await server.tokens(1, 3)
    alice, silent, heard = [await server.client(tokens[uid]) for uid in (1, 2, 3)]
    numbers = []
    for receiver, client in ((2, silent), (3, heard)):
        alice.send(IM(1, receiver, 0, 0, b'{"text":"are you there?"}'))
        await client.expect(IM)
        await alice.expect(Ack)
        if client is heard:
            client.send(Ack(3))  # AUTH_STATUS was 1, METADATA 2
            await client.ping()
        (traced,) = (await server.operate("GET", f"/admin/trace?appid=7&uid={receiver}"))["messages"]
        numbers.append(traced["message"])
        assert traced["acknowledgements"] == (client is heard)
    (push,) = await soon(webhook.taken.get())
    assert (push["sender"], push["receiver"], push["content"]) == (1, 2, '{"text":"are you there?"}')
    events = [
        [event["event"] for event in (await server.operate("GET", f"/admin/trace?message={number}"))["events"]]
        for number in numbers
    ]
    assert "rescued" in events[0]
    assert "acknowledged" not in events[0]
    assert "rescued" not in events[1]
    assert "acknowledged" in events[1]
    assert await server.stop() == 0
    assert webhook.taken.pending == []


@pytest_twisted.ensureDeferred
async def test_a_stop_does_not_wait_for_the_webhook(new_server: Callable[[str], ServerProcess], tmp_path: Path) -> None:
    """A webhook that takes the request and never answers holds nobody up; the push waits for the next start."""
    arrived: Deferred[None] = Deferred()

    class Mute(Resource):
        isLeaf = True

        def render_POST(self, request: Any) -> Any:
            request.notifyFinish().addBoth(lambda _: None)
            if not arrived.called:
                arrived.callback(None)
            return NOT_DONE_YET

    reactor = running_reactor()
    port = await endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(
        Site(Mute(), reactor=reactor)  # type: ignore[no-untyped-call]  # twisted.web has no annotations
    )
    server = new_server(settings(tmp_path, port.getHost().port))
    await server.start()
    tokens = await server.tokens(1, 1)
    alice = await server.client(tokens[1])
    alice.send(IM(1, 2, 0, 0, b'{"text":"hello"}'))
    await arrived.addTimeout(30, reactor)
    assert await server.stop() == 0
    await port.stopListening()
