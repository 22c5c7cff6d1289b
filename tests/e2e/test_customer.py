"""Customer service through a real `twistd imserver`: two apps, both transports, stored or only passed on."""

from collections.abc import Callable

import pytest
import pytest_twisted

from imserver.client.connection import ClientConnection
from imserver.protocol.commands import Flag
from imserver.protocol.messages import (
    Ack,
    Customer,
    CustomerSupport,
    CustomerV2,
    Message,
    Metadata,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncNotify,
)
from tests.e2e.load import close_all
from tests.e2e.process import ServerProcess

APP, KEFU = 7, 17
ALICE, SELLER = 1, 2


async def taken(connection: ClientConnection) -> list[Message]:
    """All that the server has sent because of what was sent to it so far."""
    await connection.ping()
    received = [each.message for each in connection.inbox]
    connection.inbox.clear()
    assert connection.seq_errors == 0
    return received


def heard(message: Message | None) -> tuple[type[Message], bytes]:
    assert isinstance(message, Customer | CustomerSupport | CustomerV2)
    assert message.timestamp > 1_700_000_000
    return type(message), message.content


@pytest.mark.parametrize("transports", [("tcp", "websocket"), ("websocket", "tcp")])
@pytest_twisted.ensureDeferred
async def test_customer_service(new_server: Callable[[str], ServerProcess], transports: tuple[str, str]) -> None:
    """A customer asks, a seller of the customer-service app answers; both find it in their timelines after a restart,
    each in their own app; what is not to be stored reaches those who are there, and no timeline."""
    server = new_server(f"[customer]\nkefu_appid = {KEFU}\n")
    await server.start()
    await server.operate("POST", "/admin/apps", appid=KEFU, name="service")
    customer_token = (await server.tokens(ALICE, ALICE))[ALICE]
    seller_token = (await server.tokens(SELLER, SELLER, KEFU))[SELLER]
    alice = await server.client(customer_token, transports[0], "a")
    seller = await server.client(seller_token, transports[1], "s")
    namesake = await server.client((await server.tokens(SELLER, SELLER))[SELLER], "tcp", "n")

    said: list[tuple[ClientConnection, Message]] = [
        (alice, CustomerV2(APP, ALICE, KEFU, SELLER, 0, b"ask, v2")),
        (seller, CustomerV2(KEFU, SELLER, APP, ALICE, 0, b"answer, v2")),
        (alice, Customer(APP, ALICE, 5, SELLER, 0, b"ask")),
        (seller, CustomerSupport(APP, ALICE, 5, SELLER, 0, b"answer")),
    ]
    for key, (speaker, message) in enumerate(said, 2):
        listener = seller if speaker is alice else alice
        seq = speaker.send(message)
        assert await taken(speaker) == [Metadata(key, key - 1), Ack(seq)]
        metadata, pushed, notify = await taken(listener)
        assert (metadata, notify) == (Metadata(key, key - 1), SyncNotify(key))
        assert heard(pushed) == heard_as(message)
    seq = alice.send(Customer(APP, ALICE, 5, SELLER, 0, b"typing"), Flag.UNPERSISTENT)
    assert await taken(alice) == [Ack(seq)]
    [typing] = await taken(seller)
    assert heard(typing) == (Customer, b"typing")
    alice.send(CustomerV2(APP, SELLER, KEFU, SELLER, 0, b"in another's name"))
    alice.send(CustomerSupport(APP, ALICE, 5, SELLER, 0, b"as a seller"))
    assert await taken(alice) == await taken(seller) == await taken(namesake) == []

    await server.kill()
    await server.start()
    for token, transport in ((customer_token, transports[1]), (seller_token, transports[0])):
        again = await server.client(token, transport, "later")
        again.send(Sync(0))
        begin, *entries, end = await taken(again)
        assert (begin, end) == (SyncBegin(0), SyncEnd(5))
        assert [heard(entry) for entry in entries] == [heard_as(message) for _, message in said]
        await close_all(again)
    assert await server.stop() == 0


def heard_as(message: Message) -> tuple[type[Message], bytes]:
    assert isinstance(message, Customer | CustomerV2)
    return type(message), message.content


@pytest_twisted.ensureDeferred
async def test_no_customer_service(server: ServerProcess) -> None:
    """Without an app for it, as by default, there is no way from one app into another."""
    await server.operate("POST", "/admin/apps", appid=KEFU, name="another")
    alice = await server.client((await server.tokens(ALICE, ALICE))[ALICE], device="a")
    seller = await server.client((await server.tokens(SELLER, SELLER, KEFU))[SELLER], device="s")
    alice.send(CustomerV2(APP, ALICE, KEFU, SELLER, 0, b"hello"))
    alice.send(Customer(APP, ALICE, 5, SELLER, 0, b"hello"))
    assert await taken(alice) == await taken(seller) == []
    await close_all(alice, seller)
