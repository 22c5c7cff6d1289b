"""Groups of thousands through a real `twistd imserver`: who is there, who is away, and a server that is killed."""

import random
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from imserver.client import Client, State
from imserver.client.connection import ClientConnection, Received
from imserver.client.endpoints import connect
from imserver.protocol.commands import AckStatus, Command, Flag, Platform
from imserver.protocol.messages import (
    Ack,
    GroupIM,
    GroupNotification,
    GroupSyncKey,
    Message,
    Metadata,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
    SyncGroupNotify,
)
from tests.e2e.load import (
    KIB,
    MIB,
    TRANSPORTS,
    GroupListener,
    GroupTalker,
    Listener,
    Memory,
    close_all,
    more_acks,
    number_of,
)
from tests.e2e.process import ServerProcess

APP = 7


async def make_group(server: ServerProcess, members: int, is_super: bool = False) -> int:
    """A group of the users from 1 on, told to nobody who is there already."""
    made = await server.operate(
        "POST", "/admin/groups", appid=APP, master=1, name="all", members=[[1, members]], super=is_super
    )
    return int(made["group_id"])


async def listen(reactor: Any, server: ServerProcess, token: str, transport: str) -> Listener:
    """A device that is there, and has all so far."""
    listener = Listener()
    listener.connection = await connect(reactor, server.address(transport), received=listener.received)
    assert (await listener.connection.sign_in(token, device="listener")).status == 0
    listener.sync()
    await listener.has(2)  # that the group was made
    return listener


async def synced(connection: ClientConnection, listener: Listener) -> None:
    """All of one's timeline, by as many SYNCs as it takes."""
    while True:
        before = listener.key
        listener.sync()
        await connection.ping(timeout=30)
        if listener.key == before:
            return


class Database:
    """A look at a server's file, past the server."""

    def __init__(self, server: ServerProcess) -> None:
        self._path = server.data / "imserver.db"

    def group_messages(self) -> dict[int, list[tuple[int, bytes]]]:
        """The GROUP_IMs in each user's timeline, in order: id and content. Keys have no gaps."""
        timelines: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        ends: defaultdict[int, int] = defaultdict(lambda: 1)
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)) as database:
            rows = database.execute(
                "SELECT owner, sync_key, message, command, substr(body, 25) FROM entry"
                " JOIN message ON message.id = entry.message WHERE kind = 0 ORDER BY owner, sync_key"
            )
            for owner, key, message, command, content in rows:
                ends[owner] += 1
                assert key == ends[owner], f"user {owner}: a gap before {key}"
                if command == Command.GROUP_IM:
                    timelines[owner].append((message, content))
        return timelines


async def everybody_hears(
    new_server: Callable[[str], ServerProcess], members: int, online: int, senders: int, each: int
) -> None:
    from twisted.internet import reactor

    server = new_server("")
    await server.start()
    tokens = await server.tokens(1, members)
    group = await make_group(server, members)
    there = range(1, members + 1, members // online)
    listeners = [await listen(reactor, server, tokens[uid], TRANSPORTS[uid % 2]) for uid in there]
    # Some of those who speak listen on another device, some are nowhere else.
    talkers = [GroupTalker(uid, group, 200, 8) for uid in range(2, 2 + 3 * senders, 3)]
    for number, talker in enumerate(talkers):
        await talker.connect(reactor, server, tokens[talker.uid], TRANSPORTS[number % 2])
    for talker in talkers:
        talker.talk()
    await more_acks(reactor, talkers, each, 300)
    for talker in talkers:
        await talker.hush()
    total = sum(len(talker.acked) for talker in talkers)
    for listener in listeners:
        await listener.has(2 + total, 120)
        listener.check([*talkers])
        assert listener.taken == listeners[0].taken
    for uid in random.Random(members).sample(sorted(set(tokens) - set(there)), min(20, members - online)):
        away = Listener()
        away.connection = await connect(reactor, server.address(TRANSPORTS[uid % 2]), received=away.received)
        assert (await away.connection.sign_in(tokens[uid], device="later")).status == 0
        await synced(away.connection, away)
        assert (away.taken, away.broken, away.key) == (listeners[0].taken, [], 2 + total)
        await close_all(away.connection)
    await close_all(*[listener.connection for listener in listeners], *[talker.connection for talker in talkers])
    timelines = Database(server).group_messages()
    assert timelines.keys() == tokens.keys()
    assert len(timelines[1]) == total
    assert all(timeline == timelines[1] for timeline in timelines.values())
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_a_group_of_hundreds(new_server: Callable[[str], ServerProcess]) -> None:
    """Several send at once, over both transports: whoever is there, and whoever comes later, has every message once,
    and all have them in the same order."""
    await everybody_hears(new_server, members=300, online=40, senders=5, each=12)


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_a_group_of_three_thousand(new_server: Callable[[str], ServerProcess]) -> None:
    """The same with ten who send, and three hundred who are there."""
    await everybody_hears(new_server, members=3000, online=300, senders=10, each=30)


async def kill_rounds(new_server: Callable[[str], ServerProcess], members: int, rounds: int, seed: int) -> None:
    from twisted.internet import reactor

    chance = random.Random(seed)
    server = new_server("")
    server.python_path = Path(__file__).parent / "slow_disk"
    await server.start()
    tokens = await server.tokens(1, members)
    group = await make_group(server, members)
    talkers = [GroupTalker(uid, group, 200, 8) for uid in range(1, 7)]
    for _ in range(rounds):
        before = sum(len(talker.acked) for talker in talkers)
        for talker in talkers:
            await talker.connect(reactor, server, tokens[talker.uid], chance.choice(TRANSPORTS))
            talker.talk()
        await deferLater(reactor, chance.uniform(0.2, 1.0))
        await server.kill()
        for talker in talkers:
            await talker.connection.closed
        assert sum(len(talker.acked) for talker in talkers) > before, "nothing was acknowledged in this round"
        await server.start()
        timelines = Database(server).group_messages()
        assert timelines.keys() == tokens.keys(), f"seed {seed}"
        for uid, timeline in timelines.items():
            assert timeline == timelines[1], f"seed {seed}: user {uid} has not the same messages as user 1"
        stored = [number_of(content) for _, content in timelines[1]]
        assert len(stored) == len(set(stored)), f"seed {seed}"
        for talker in talkers:
            missing = {(talker.uid, number) for number in talker.acked}.difference(stored)
            assert not missing, f"seed {seed}: acknowledged, and not stored: {missing}"
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_a_kill(new_server: Callable[[str], ServerProcess]) -> None:
    """After a SIGKILL a group message stands in all members' timelines or in none, and in all if it was
    acknowledged."""
    await kill_rounds(new_server, 200, 1, random.randrange(1 << 32))


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_ten_kills(new_server: Callable[[str], ServerProcess]) -> None:
    """The same, ten times on the same data, in a larger group."""
    await kill_rounds(new_server, 600, 10, random.randrange(1 << 32))


# Super groups.


async def group_synced(connection: ClientConnection, group: int, key: int) -> tuple[list[Received[Message]], int, bool]:
    """What one SYNC_GROUP brings, the key of its END, and whether there is more."""
    connection.send(SyncGroup(group, key))
    await connection.ping(timeout=30)
    begin, *entries = connection.inbox
    connection.inbox.clear()
    assert begin.message == SyncGroupBegin(group, key)
    more = isinstance(entries[-1].message, SyncGroupNotify)
    if more:
        notify = entries.pop().message
    end = entries.pop().message
    assert isinstance(end, SyncGroupEnd)
    assert not more or notify == SyncGroupNotify(group, end.key + 1)
    return entries, end.key, more


async def all_of_group(connection: ClientConnection, group: int, key: int) -> tuple[list[Received[Message]], list[int]]:
    """All that there is for this user after a key, and how many entries each answer had."""
    entries: list[Received[Message]] = []
    pages: list[int] = []
    more = True
    while more:
        page, key, more = await group_synced(connection, group, key)
        entries += page
        pages.append(len(page))
    return entries, pages


def said(entries: Sequence[Received[Message]]) -> list[tuple[int, int]]:
    return [number_of(entry.message.content) for entry in entries if isinstance(entry.message, GroupIM)]


async def who_was_away(
    new_server: Callable[[str], ServerProcess], members: int, before: int, after: int, size: int
) -> None:
    from twisted.internet import reactor

    server = new_server("")
    await server.start()
    memory = Memory(reactor, server)
    tokens = await server.tokens(1, members + 1)
    group = await make_group(server, members, is_super=True)
    there = GroupListener(group)
    there.connection = await connect(reactor, server.address("websocket"), received=there.received)
    assert (await there.connection.sign_in(tokens[members // 2], device="there")).status == 0
    talkers = [GroupTalker(uid, group, size, 16) for uid in range(1, 5)]
    for talker in talkers:
        await talker.connect(reactor, server, tokens[talker.uid])

    async def talk(number: int) -> None:
        for talker in talkers:
            talker.talk()
        await more_acks(reactor, talkers, number // len(talkers), 600)
        for talker in talkers:
            await talker.hush()

    await talk(before)
    said_before = sum(len(talker.acked) for talker in talkers)
    newcomer = members + 1
    await server.operate("POST", f"/admin/groups/{APP}/{group}/add", members=[[newcomer, newcomer]])
    await talk(after)
    said_after = sum(len(talker.acked) for talker in talkers) - said_before
    # Besides what was said there stands that the group was made, and that somebody joined.
    await there.has(1 + 2 + said_before + said_after, 60)
    there.check([*talkers])
    pushed = list(there.taken)
    # Two at once, and so two of the database's connections, read all of it, which fills their caches.
    warming = [await server.client(tokens[members], transport, "warming") for transport in TRANSPORTS]
    await gatherResults([Deferred.fromCoroutine(all_of_group(each, group, 0)) for each in warming])
    await close_all(*warming)
    settled = memory.now()
    memory.most()
    for uid, key, transport in (
        (newcomer, 0, "tcp"),
        (newcomer, 1, "websocket"),
        (newcomer, said_before // 2, "tcp"),
        (members, 0, "tcp"),
    ):
        away = await server.client(tokens[uid], transport, "away")
        entries, pages = await all_of_group(away, group, key)
        if uid == newcomer:
            # Their joining is the first that they get, and nothing from before it.
            assert isinstance(entries[0].message, GroupNotification)
            assert said(entries) == pushed[said_before:]
        else:
            assert said(entries) == pushed
        assert pages[:-1] == [3000] * (len(entries) // 3000)
        assert {entry.frame.flag for entry in entries} == {Flag.SUPER_GROUP}
        await close_all(away)
    # An answer of 3000 entries is more than that.
    assert memory.most() - settled < 8 * MIB
    memory.stop()
    await close_all(there.connection, *(talker.connection for talker in talkers))
    assert await server.stop() == 0


@pytest_twisted.ensureDeferred
async def test_away_from_a_super_group(new_server: Callable[[str], ServerProcess]) -> None:
    """Who was away gets all since they joined, page by page, whatever key they come with, and nothing from before; the
    server holds a page at a time."""
    await who_was_away(new_server, members=500, before=400, after=3300, size=6 * KIB)


@pytest.mark.soak
@pytest_twisted.ensureDeferred
async def test_away_from_ten_thousand(new_server: Callable[[str], ServerProcess]) -> None:
    """The same, of ten thousand members and fifty thousand messages."""
    await who_was_away(new_server, members=10_000, before=5_000, after=50_000, size=3 * KIB)


@pytest_twisted.ensureDeferred
async def test_super_group_after_a_restart(new_server: Callable[[str], ServerProcess]) -> None:
    """A group that the server has not heard of since its start: it answers SYNC_GROUP, knows the keys that were saved,
    the resends, and who is muted."""
    server = new_server("")
    await server.start()
    tokens = await server.tokens(1, 3)
    group = await make_group(server, 3, is_super=True)
    alice = await server.client(tokens[1], device="a")
    first = alice.send(GroupIM(1, group, 0, 0, b'{"text":"first","uuid":"1"}'))
    alice.send(GroupIM(1, group, 0, 0, b'{"text":"second","uuid":"2"}'))
    assert (await alice.expect(Ack)).message == Ack(first)
    await alice.ping()
    bob = await server.client(tokens[2], device="b")
    entries, end, _ = await group_synced(bob, group, 0)
    assert [type(entry.message) for entry in entries] == [GroupNotification, GroupIM, GroupIM]
    bob.send(GroupSyncKey(group, end - 1))
    await bob.ping()
    await server.operate("POST", f"/admin/groups/{APP}/{group}/mute", uid=3, on=True)
    await server.kill()
    await server.start()
    bob = await server.client(tokens[2], "websocket", "b")
    bob.send(SyncGroup(group, 0))
    await bob.ping()
    begin, entry, after = [each.message for each in bob.inbox]
    assert (begin, after) == (SyncGroupBegin(group, end - 1), SyncGroupEnd(group, end))
    assert isinstance(entry, GroupIM)
    assert entry.content == b'{"text":"second","uuid":"2"}'
    alice = await server.client(tokens[1], device="a")
    again = alice.send(GroupIM(1, group, 0, 0, b'{"text":"first","uuid":"1"}'))
    await alice.ping()
    metadata, ack = alice.inbox
    assert (metadata.message, ack.message, ack.frame.flag) == (Metadata(end - 1, end - 2), Ack(again), Flag.SUPER_GROUP)
    carol = await server.client(tokens[3], platform=Platform.WEB)
    refused = carol.send(GroupIM(3, group, 0, 0, b"let me speak"))
    assert (await carol.expect(Ack)).message == Ack(refused, AckStatus.MUTED)
    await close_all(alice, bob, carol)
    assert await server.stop() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest_twisted.ensureDeferred
async def test_a_client_in_a_super_group(server: ServerProcess, transport: str) -> None:
    """The client library hears of a group that its user joins, follows it over a restart of its own, and gets each
    message once."""
    from twisted.internet import reactor

    tokens = await server.tokens(1, 3)
    group = await make_group(server, 2, is_super=True)
    alice = await server.client(tokens[1], device="a")

    def say(number: int) -> None:
        alice.send(GroupIM(1, group, 0, 0, b'{"text":"%d"}' % number))

    got: list[tuple[bytes, int]] = []
    waiting: list[Deferred[None]] = []

    def received(message: Message, flag: int, key: int) -> None:
        if isinstance(message, GroupIM):
            assert flag & Flag.SUPER_GROUP
            got.append((message.content, key))
            if waiting:
                waiting.pop().callback(None)

    async def run(number: int, until_then: Callable[[], Any]) -> None:
        """A client that lives until it has so many messages."""
        client = Client(reactor, server.address(transport), 3, tokens[3], received=received, device="c")
        ended = client.run()
        while client.state is not State.SIGNED_IN:
            await deferLater(reactor, 0.01)
        await until_then()
        while len(got) < number:
            waiting.append(Deferred())
            await waiting[0].addTimeout(10, reactor)
        await client.stop()
        await ended

    async def join_and_hear() -> None:
        say(1)
        await alice.ping()
        await server.operate("POST", f"/admin/groups/{APP}/{group}/add", members=[[3, 3]])
        for number in (2, 3, 4):
            say(number)

    await run(3, join_and_hear)
    say(5)
    await alice.ping()

    async def hear() -> None:
        say(6)

    await run(5, hear)
    # 2 is that the group was made, 3 the first message, 4 that user 3 joined.
    assert got == [(b'{"text":"%d"}' % number, number + 3) for number in (2, 3, 4, 5, 6)]
    await close_all(alice)
