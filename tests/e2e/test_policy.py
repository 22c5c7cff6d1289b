"""Friends, blacklists, forbidden users and words, while the server runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.task import deferLater

from imserver.client.connection import ClientConnection
from imserver.protocol.commands import AckStatus
from imserver.protocol.messages import IM, Ack, GroupIM
from tests.contract.sql_storage import running_reactor
from tests.e2e.process import ServerProcess


async def status_of(client: ClientConnection, message: IM | GroupIM) -> int:
    client.send(message)
    return (await client.expect(Ack)).message.status


@pytest_twisted.ensureDeferred
async def test_friends_and_blacklists(new_server: Callable[[str], ServerProcess]) -> None:
    """What an operator changes is in force for the next message."""
    server = new_server("[policy]\nfriends = true\nblacklist = true\n")
    await server.start()
    tokens = await server.tokens(1, 2)
    alice = await server.client(tokens[1])
    hello = IM(1, 2, 0, 0, b"hello")

    async def change(what: str, **body: Any) -> None:
        await server.operate("POST", f"/admin/users/7/{what}", **body)

    assert await status_of(alice, hello) == AckStatus.NOT_MY_FRIEND
    await change("1/friends", uid=2, on=True)
    assert await status_of(alice, hello) == AckStatus.SUCCESS
    await change("2/blocked", uid=1, on=True)
    assert await status_of(alice, hello) == AckStatus.IN_YOUR_BLACKLIST
    await change("2/blocked", uid=1, on=False)
    await change("1/settings", forbidden=True)
    assert await status_of(alice, hello) == AckStatus.MUTED
    await change("1/settings", forbidden=False)
    assert await status_of(alice, hello) == AckStatus.SUCCESS
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_words_that_change(new_server: Callable[[str], ServerProcess], tmp_path: Path) -> None:
    """The file of words is read again when it changes; a bad one leaves those before in force, and is counted."""
    words = tmp_path / "words.txt"
    words.write_text("damn\n")
    server = new_server(f'[policy]\nword_file = "{words}"\n')
    await server.start()
    tokens = await server.tokens(1, 2)
    alice, bob = await server.client(tokens[1]), await server.client(tokens[2])

    async def heard(content: bytes) -> bytes:
        assert await status_of(alice, IM(1, 2, 0, 0, content)) == AckStatus.SUCCESS
        return (await bob.expect(IM)).message.content

    assert await heard(b'{"text": "damn it", "n": 1}') == b'{"text": "**** it", "n": 1}'
    (tmp_path / "new").write_text("it\n")
    (tmp_path / "new").replace(words)
    for _ in range(300):
        if await heard(b'{"text": "damn it", "n": 1}') == b'{"text": "damn **", "n": 1}':
            break
        await deferLater(running_reactor(), 0.1)
    else:
        raise AssertionError("the words were not read again")
    (tmp_path / "new").write_bytes(b"\xff\n")
    (tmp_path / "new").replace(words)
    for _ in range(300):
        if "imserver_word_files_refused_total 1.0" in (await server.get("/metrics"))[1]:
            break
        await deferLater(running_reactor(), 0.1)
    else:
        raise AssertionError("a file that is no text was not noticed")
    assert await heard(b'{"text": "damn it", "n": 1}') == b'{"text": "damn **", "n": 1}'
    assert await server.stop() == 0
