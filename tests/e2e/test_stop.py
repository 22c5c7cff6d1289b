"""SIGTERM while everybody talks: nothing that was acknowledged is lost, and nobody holds the server up."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest_twisted
from twisted.internet.defer import Deferred

from imserver.client.websocket import WebSocketLink
from tests.e2e.load import KIB, TRANSPORTS, Listener, Talker, close_all, connect_narrow, metric, more_acks, until
from tests.e2e.process import ServerProcess
from tests.e2e.test_durable import numbers_from, timeline


async def listen(server: ServerProcess, token: str, transport: str) -> Listener:
    from twisted.internet import reactor

    listener = Listener()
    listener.connection = await connect_narrow(reactor, server.address(transport), listener.received)
    assert (await listener.connection.sign_in(token, device="listener")).status == 0
    return listener


async def talk(server: ServerProcess, tokens: dict[int, str], size: int) -> list[Talker]:
    """Clients of users 1 to 4 talk to those of users 5 to 8 as fast as they can."""
    from twisted.internet import reactor

    talkers = [Talker(uid, 4 + uid, size, 32) for uid in range(1, 5)]
    for talker in talkers:
        await talker.connect(reactor, server, tokens[talker.uid], TRANSPORTS[talker.uid % 2])
        talker.talk()
    await more_acks(reactor, talkers, 100)
    return talkers


@pytest_twisted.ensureDeferred
async def test_stop_under_load(new_server: Callable[[str], ServerProcess]) -> None:
    """What was stored was acknowledged, and the other way round; receivers miss and repeat nothing."""
    from twisted.internet import reactor

    server = new_server("[shutdown]\ndrain_seconds = 5\n")
    server.python_path = Path(__file__).parent / "slow_disk"
    await server.start()
    tokens = await server.tokens(1, 8)
    listeners = [await listen(server, tokens[uid], TRANSPORTS[uid % 2]) for uid in range(5, 9)]
    talkers = await talk(server, tokens, 200)
    began = time.monotonic()
    assert await server.stop() == 0
    assert time.monotonic() - began < 4, "all clients read: there was nothing to wait for"
    for connection in (*(talker.connection for talker in talkers), *(listener.connection for listener in listeners)):
        await connection.closed
        assert connection.close_code == (1001 if isinstance(connection._link, WebSocketLink) else None)
    assert "Traceback" not in server.log
    await server.start()
    for talker, listener in zip(talkers, listeners, strict=True):
        for uid in (talker.uid, talker.receiver):
            assert numbers_from(await timeline(reactor, server, tokens[uid], uid), talker.uid) == talker.acked
        assert listener.broken == []
        assert [number for _, number in listener.taken] == talker.acked[: len(listener.taken)]
        listener.connection = await connect_narrow(reactor, server.address("tcp"), listener.received)
        assert (await listener.connection.sign_in(tokens[talker.receiver], device="listener")).status == 0
        listener.sync()
        await listener.has(1 + len(talker.acked))
        listener.check([talker])
    await close_all(*(listener.connection for listener in listeners))
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_stop_with_clients_that_do_not_read(new_server: Callable[[str], ServerProcess]) -> None:
    """They have shutdown.drain_seconds and no more; the others are not kept waiting for them."""
    from twisted.internet import reactor

    server = new_server("[shutdown]\ndrain_seconds = 2\n")
    await server.start()
    tokens = await server.tokens(1, 8)
    deaf = [await listen(server, tokens[uid], TRANSPORTS[uid % 2]) for uid in range(5, 9)]
    for listener in deaf:
        listener.connection.pause()
    talkers = await talk(server, tokens, 12 * KIB)

    async def queues_are_full() -> bool:
        return await metric(server, "imserver_queue_drops_total", kind="stored") > 500

    await until(reactor, queues_are_full, 20)
    began = time.monotonic()
    stopped = Deferred.fromCoroutine(server.stop())
    for talker in talkers:
        await talker.connection.closed
    assert time.monotonic() - began < 1.5
    assert await stopped == 0
    assert 1.9 < time.monotonic() - began < 4
    assert "Traceback" not in server.log
    for listener in deaf:
        listener.connection.resume()
        await listener.connection.closed
    await server.start()
    for talker in talkers:
        assert numbers_from(await timeline(reactor, server, tokens[talker.receiver], talker.receiver), talker.uid) == (
            talker.acked
        )
    assert await server.stop() == 0
