"""Clients that read slowly or not at all: they cost no more than their caps, lose nothing, and nobody else notices."""

from collections.abc import Awaitable, Callable

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from imserver.client.connection import ClientConnection, Received
from imserver.protocol.messages import IM, Ack, Message
from tests.e2e.load import (
    KIB,
    MIB,
    NOBODY,
    TRANSPORTS,
    Listener,
    Memory,
    SlowReading,
    Talker,
    close_all,
    connect_narrow,
    metric,
    more_acks,
    percentile,
    until,
)
from tests.e2e.process import ServerProcess

#: What a connection may hold by default: pushes, replies, and what the transport takes before it says pause.
CAPS = MIB + 256 * KIB + 128 * KIB
#: By how much a server under load may rise whoever reads: the database's page cache (16 MiB at most), statements for
#: batches of sizes that it had not met before, fragments. Without caps a minute of this load would be ten times that.
ALLOWANCE = 24 * MIB
#: Bytes after which the database's cache is full (16 MiB).
WARM = 20 * MIB
#: Talkers are to be stopped by nothing; and 60 s without a byte taken would end the listeners.
UNLIMITED = "[limits]\nmessages_per_second = 0\nbytes_per_second = 0\nstalled_seconds = 600\n"


async def listen(server: ServerProcess, token: str, transport: str, room: int = 16 * KIB) -> Listener:
    from twisted.internet import reactor

    listener = Listener()
    listener.connection = await connect_narrow(reactor, server.address(transport), listener.received, room)
    assert (await listener.connection.sign_in(token, device="listener")).status == 0
    return listener


async def receivers_stop_reading(
    server: ServerProcess, size: int, load: Callable[[list[Talker]], Awaitable[None]]
) -> None:
    """A receiver over each transport reads nothing while four clients talk to them, for as long as `load` takes."""
    from twisted.internet import reactor

    await server.start()
    tokens = await server.tokens(1, 6)
    memory = Memory(reactor, server)
    listeners = [await listen(server, tokens[uid], transport) for uid, transport in enumerate(TRANSPORTS, 1)]
    talkers = [Talker(3 + n, NOBODY, size, 4) for n in range(4)]
    for n, talker in enumerate(talkers):
        await talker.connect(reactor, server, tokens[talker.uid], TRANSPORTS[n // 2])
        talker.talk()
    await more_acks(reactor, talkers, WARM // size // 4)
    for n, talker in enumerate(talkers):
        await talker.hush()
        talker.acked.clear()
        talker.latencies()
        talker.receiver = 1 + n % len(listeners)

    for talker in talkers:
        talker.talk()
    await more_acks(reactor, talkers, 150)
    before = [latency for talker in talkers for latency in talker.latencies()]
    memory_before = memory.most()

    for listener in listeners:
        listener.connection.pause()
    await load(talkers)
    during = [latency for talker in talkers for latency in talker.latencies()]
    assert memory.most() - memory_before < len(listeners) * CAPS + ALLOWANCE
    assert percentile(during, 0.99) < 3 * percentile(before, 0.99) + 0.05
    assert await metric(server, "imserver_queue_drops_total", kind="stored") > 0

    for talker in talkers:
        await talker.hush()
    for uid, listener in enumerate(listeners, 1):
        mine = [talker for talker in talkers if talker.receiver == uid]
        listener.connection.resume()
        await listener.has(1 + sum(len(talker.acked) for talker in mine), seconds=60)
        listener.check(mine)
    memory.stop()
    await close_all(*(listener.connection for listener in listeners), *(talker.connection for talker in talkers))
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_receivers_that_stop_reading(new_server: Callable[[str], ServerProcess]) -> None:
    """Under full load they cost their caps, slow no sender down, and end with every message once and in order."""
    from twisted.internet import reactor

    await receivers_stop_reading(
        new_server(UNLIMITED), 12 * KIB, lambda talkers: more_acks(reactor, talkers, 30 * MIB // (12 * KIB) // 4)
    )


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_receivers_that_stop_reading_for_a_minute(new_server: Callable[[str], ServerProcess]) -> None:
    """The same for a minute, with messages of an ordinary size."""
    from twisted.internet import reactor

    await receivers_stop_reading(new_server(UNLIMITED), 512, lambda _: deferLater(reactor, 60))


@pytest_twisted.ensureDeferred
async def test_stalled_is_closed_and_slow_is_not(new_server: Callable[[str], ServerProcess]) -> None:
    """Who takes no byte for limits.stalled_seconds is closed; who takes some KiB now and then is not.

    The slow ones have read fast before, so that the kernel has a megabyte for each: it takes a third of that before
    the server can write again, and that is no sign of a stall.
    """
    from twisted.internet import reactor

    server = new_server(UNLIMITED.replace("600", "2"))
    await server.start()
    tokens = await server.tokens(1, 5)
    stalled = [await listen(server, tokens[uid], transport, 4 * KIB) for uid, transport in enumerate(TRANSPORTS, 1)]
    slow = [await listen(server, tokens[uid], transport, 4 * KIB) for uid, transport in enumerate(TRANSPORTS, 3)]
    talkers = [Talker(5, receiver, 12 * KIB, 2) for receiver in range(1, 5)]
    for talker in talkers:
        await talker.connect(reactor, server, tokens[5])
        talker.talk()
    await more_acks(reactor, talkers, 200)
    for listener in stalled:
        listener.connection.pause()
    slowly = [SlowReading(reactor, listener.connection, 0.2) for listener in slow]
    await more_acks(reactor, talkers, 200)
    for talker in talkers:
        await talker.hush()

    async def stalled_are_closed() -> bool:
        return await metric(server, "imserver_closed_total", reason="stalled") == len(stalled)

    await until(reactor, stalled_are_closed, 10)
    await deferLater(reactor, 1)
    assert await stalled_are_closed()
    for listener in stalled:
        listener.connection.resume()
        await listener.connection.closed
    for listener, reading, talker in zip(slow, slowly, talkers[2:], strict=True):
        reading.stop()
        await listener.has(1 + len(talker.acked))
        listener.check([talker])
    await close_all(*(listener.connection for listener in slow), *(talker.connection for talker in talkers))
    assert await server.stop() == 0


async def sync_slowly(server: ServerProcess, entries: int, seconds: float) -> None:
    """A client over each transport, with so many entries of 32 KB to come, syncs: slowly for so long, then fast."""
    from twisted.internet import reactor

    await server.start()
    tokens = await server.tokens(1, 2)
    talker = Talker(2, 1, 32_700, 8)
    await talker.connect(reactor, server, tokens[2])
    talker.talk()
    await until(reactor, lambda: len(talker.acked) + 8 >= entries, 60)
    await talker.hush()
    # Two at once, and so two of the database's connections, read all of it, which fills their caches.
    fast = [await listen(server, tokens[1], transport) for transport in TRANSPORTS]
    for listener in fast:
        listener.sync()
    for listener in fast:
        await listener.has(1 + len(talker.acked), 60)

    memory = Memory(reactor, server)
    before = memory.most()
    slow = [await listen(server, tokens[1], transport) for transport in TRANSPORTS]
    for listener in slow:
        listener.sync()
    slowly = [SlowReading(reactor, listener.connection, 0.05) for listener in slow]
    await deferLater(reactor, seconds)
    for listener, reading in zip(slow, slowly, strict=True):
        assert 0 < len(listener.taken) < entries / 2
        reading.stop()
    for listener in slow:
        await listener.has(1 + len(talker.acked), 60)
        listener.check([talker])
    assert memory.most() - before < len(slow) * CAPS + ALLOWANCE
    memory.stop()
    await close_all(talker.connection, *(listener.connection for listener in (*fast, *slow)))
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_slow_sync(new_server: Callable[[str], ServerProcess]) -> None:
    """An answer to SYNC is made as the client reads it: a page of it stands in memory, not 20 MB."""
    await sync_slowly(new_server(UNLIMITED), 640, 1)


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_slow_sync_of_a_full_answer(new_server: Callable[[str], ServerProcess]) -> None:
    """The same with an answer of 3000 entries, 96 MB."""
    await sync_slowly(new_server(UNLIMITED), 3000, 10)


class Deaf:
    """Sends numbered messages and reads no answer until it is told to."""

    def __init__(self) -> None:
        self.connection: ClientConnection
        self.seqs: list[int] = []
        #: What was acknowledged.
        self.acks: list[int] = []

    async def send(self, server: ServerProcess, transport: str, uid: int, token: str, number: int) -> None:
        from twisted.internet import reactor

        self.connection = await connect_narrow(reactor, server.address(transport), self._received, 4 * KIB)
        assert (await self.connection.sign_in(token)).status == 0
        self.connection.pause()
        self.seqs = [self.connection.send(IM(uid, NOBODY, 0, n, b"are you there?")) for n in range(1, number + 1)]

    def _received(self, received: Received[Message]) -> None:
        if isinstance(received.message, Ack) and received.message.status == 0:
            self.acks.append(received.message.seq)


@pytest_twisted.ensureDeferred
async def test_senders_that_read_no_acks(new_server: Callable[[str], ServerProcess]) -> None:
    """They are not read any more, they cost their caps, others do not notice, and no ACK is lost in the end."""
    from twisted.internet import reactor

    server = new_server(UNLIMITED)
    await server.start()
    tokens = await server.tokens(1, 3)
    talker = Talker(3, NOBODY, 12 * KIB, 2)
    await talker.connect(reactor, server, tokens[3])
    talker.talk()
    await more_acks(reactor, [talker], WARM // (12 * KIB))
    before = talker.latencies()[-300:]
    memory = Memory(reactor, server)
    memory_before = memory.most()
    deaf = [Deaf(), Deaf()]
    for uid, (client, transport) in enumerate(zip(deaf, TRANSPORTS, strict=True), 1):
        await client.send(server, transport, uid, tokens[uid], 10_000)

    async def are_not_read() -> bool:
        return await metric(server, "imserver_read_pauses_total", reason="replies") == len(deaf)

    await until(reactor, are_not_read, 20)
    talker.latencies()
    await more_acks(reactor, [talker], 300)
    read = await metric(server, "imserver_frames_in_total", command="IM") - len(talker.acked)
    assert read < 0.9 * sum(len(client.seqs) for client in deaf)
    assert memory.most() - memory_before < len(deaf) * CAPS + ALLOWANCE
    assert percentile(talker.latencies(), 0.99) < 3 * percentile(before, 0.99) + 0.05

    await talker.hush()
    for client in deaf:
        client.connection.resume()
        await until(reactor, lambda: len(client.acks) == len(client.seqs), 30)  # noqa: B023 - called in this round
        assert client.acks == client.seqs
        assert client.connection.seq_errors == 0
    memory.stop()
    await close_all(talker.connection, *(client.connection for client in deaf))
    assert await server.stop() == 0
