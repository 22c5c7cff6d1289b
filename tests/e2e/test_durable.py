"""What was acknowledged is on disk: the server is killed at full speed, and nothing of it may be missing."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from imserver.client.connection import ClientConnection, Received
from imserver.client.endpoints import connect
from imserver.protocol.messages import IM, Ack, Message, Sync, SyncEnd, SyncNotify
from tests.e2e.process import ServerProcess

PAIRS = 8
WINDOW = 48


class Sender:
    """Keeps a window of numbered messages on the way, and remembers which were acknowledged."""

    def __init__(self, uid: int, receiver: int) -> None:
        self.uid = uid
        self.receiver = receiver
        self.sent = 0
        self.acked: list[int] = []
        self.connection: ClientConnection
        self._under_way: dict[int, int] = {}

    async def connect(self, reactor: object, server: ServerProcess, token: str, transport: str) -> None:
        self._under_way.clear()
        self.connection = await connect(reactor, server.address(transport), received=self._received)  # type: ignore[arg-type]  # the reactor has no type
        assert (await self.connection.sign_in(token, device=f"sender-{self.uid}")).status == 0

    def fill_window(self) -> None:
        while len(self._under_way) < WINDOW and self.connection.is_open:
            self.sent += 1
            content = f'{{"text":"{self.uid}:{self.sent}","uuid":"{self.uid}-{self.sent}"}}'
            seq = self.connection.send(IM(self.uid, self.receiver, 0, 0, content.encode()))
            self._under_way[seq] = self.sent

    def _received(self, received: Received[Message]) -> None:
        message = received.message
        if isinstance(message, Ack):
            assert message.status == 0
            self.acked.append(self._under_way.pop(message.seq))
            self.fill_window()


async def timeline(reactor: object, server: ServerProcess, token: str, uid: int) -> list[bytes]:
    """The contents of the user's whole timeline, by as many SYNCs as it takes."""
    connection = await connect(reactor, server.address("tcp"))  # type: ignore[arg-type]  # the reactor has no type
    assert (await connection.sign_in(token, device=f"reader-{uid}")).status == 0
    contents: list[bytes] = []
    key, more = 1, True
    while more:
        connection.send(Sync(key))
        await connection.ping(timeout=30)
        received = [each.message for each in connection.inbox]
        connection.inbox.clear()
        contents += [message.content for message in received if isinstance(message, IM)]
        key = next(message.key for message in received if isinstance(message, SyncEnd))
        more = any(isinstance(message, SyncNotify) for message in received)
    connection.close()
    await connection.closed
    return contents


def numbers_from(contents: list[bytes], sender: int) -> list[int]:
    texts = [content.split(b'"')[3].decode() for content in contents]
    return [int(text.split(":")[1]) for text in texts if text.split(":")[0] == str(sender)]


async def kill_rounds(new_server: Callable[[str], ServerProcess], rounds: int, seed: int) -> None:
    from twisted.internet import reactor

    chance = random.Random(seed)
    server = new_server("")
    server.python_path = Path(__file__).parent / "slow_disk"
    await server.start()
    tokens = await server.tokens(1, 2 * PAIRS)
    senders = [Sender(uid, PAIRS + uid) for uid in range(1, PAIRS + 1)]
    for _ in range(rounds):
        for sender in senders:
            transport = chance.choice(("tcp", "websocket"))
            await sender.connect(reactor, server, tokens[sender.uid], transport)
        before = sum(len(sender.acked) for sender in senders)
        for sender in senders:
            sender.fill_window()
        await deferLater(reactor, chance.uniform(0.05, 0.7))
        await server.kill()
        for sender in senders:
            await sender.connection.closed
        assert sum(len(sender.acked) for sender in senders) > before, "nothing was acknowledged in this round"
        await server.start()
        for sender in senders:
            for uid in (sender.uid, sender.receiver):
                stored = numbers_from(await timeline(reactor, server, tokens[uid], uid), sender.uid)
                assert stored == sorted(set(stored)), f"seed {seed}: doubled or out of order for {uid}"
                missing = set(sender.acked) - set(stored)
                assert not missing, f"seed {seed}: acknowledged, and not in the timeline of {uid}: {sorted(missing)}"
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_one_kill(new_server: Callable[[str], ServerProcess]) -> None:
    """After a SIGKILL every acknowledged message is in both timelines, once and in order."""
    await kill_rounds(new_server, 1, random.randrange(1 << 32))


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_twenty_kills(new_server: Callable[[str], ServerProcess]) -> None:
    """The same, twenty times on the same data."""
    await kill_rounds(new_server, 20, random.randrange(1 << 32))


@pytest_twisted.ensureDeferred
async def test_resend_after_a_restart(new_server: Callable[[str], ServerProcess]) -> None:
    """A message that was stored before a kill is not stored again after it, and its ACK carries the first's key."""
    from imserver.protocol.messages import Metadata

    server = new_server("")
    await server.start()
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1], device="a")
    alice.send(IM(1, 2, 0, 0, b'{"text":"once","uuid":"the-same"}'))
    alice.send(IM(1, 2, 0, 7, b"no uuid"))
    alice.send(IM(1, 2, 0, 0, b"neither uuid nor msgid"))
    await alice.ping()
    await server.kill()
    await alice.closed
    await server.start()
    alice = await server.client(tokens[1], device="a")
    first = alice.send(IM(1, 2, 0, 3, b'{"text":"once","uuid":"the-same"}'))
    second = alice.send(IM(1, 2, 0, 7, b"no uuid"))
    third = alice.send(IM(1, 2, 0, 0, b"neither uuid nor msgid"))
    await alice.ping()
    assert [each.message for each in alice.inbox] == [
        *(Metadata(2, 1), Ack(first)),
        *(Metadata(3, 2), Ack(second)),
        *(Metadata(5, 4), Ack(third)),
    ]
    bob = await server.client(tokens[2], device="b")
    bob.send(Sync(1))
    await bob.ping()
    assert len([each for each in bob.inbox if isinstance(each.message, IM)]) == 4
    for connection in (alice, bob):
        connection.close()
        await connection.closed
    assert await server.stop() == 0
