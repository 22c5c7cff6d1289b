"""Clients that talk at full speed, clients that listen as real ones do, or badly, and what the server costs."""

import math
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from imserver.client.address import parse_address
from imserver.client.connection import ClientConnection, Received, StreamLink
from imserver.client.endpoints import connect
from imserver.client.websocket import WebSocketLinkFactory
from imserver.protocol.commands import Flag
from imserver.protocol.messages import (
    IM,
    Ack,
    GroupIM,
    Message,
    Metadata,
    Sync,
    SyncEnd,
    SyncGroup,
    SyncGroupEnd,
    SyncGroupNotify,
    SyncNotify,
)
from tests.e2e.process import ServerProcess

KIB = 1024
MIB = 1024 * 1024
TRANSPORTS = ("tcp", "websocket")
#: A user who is never there.
NOBODY = 999
#: Seconds between two looks at what the server is to come to.
_LOOK_AGAIN = 0.05


class Talker:
    """Keeps a window of numbered messages on the way, and remembers what was acknowledged, and after how long."""

    def __init__(self, uid: int, receiver: int, size: int, window: int) -> None:
        self.uid = uid
        self.receiver = receiver
        self.acked: list[int] = []
        self.connection: ClientConnection
        self._size = size
        self._window = window
        self._sent = 0
        self._talking = False
        self._under_way: dict[int, tuple[int, float]] = {}
        self._latencies: list[float] = []
        self._idle: Deferred[None] | None = None

    async def connect(self, reactor: Any, server: ServerProcess, token: str, transport: str = "tcp") -> None:
        self._under_way.clear()
        self.connection = await connect(reactor, server.address(transport), received=self._received)
        assert (await self.connection.sign_in(token, device=f"talker-{self.uid}")).status == 0

    def talk(self) -> None:
        self._talking = True
        self._fill_window()

    async def hush(self) -> None:
        """Send nothing more, and wait for the ACKs of what is on its way."""
        self._talking = False
        if self._under_way:
            self._idle = Deferred()
            await self._idle.addTimeout(30, self.connection._clock)

    def latencies(self) -> list[float]:
        """Seconds from each message to its ACK, since this was asked last."""
        taken, self._latencies = self._latencies, []
        return taken

    def _fill_window(self) -> None:
        while self._talking and len(self._under_way) < self._window and self.connection.is_open:
            self._sent += 1
            content = b'{"text":"%d:%d:' % (self.uid, self._sent)
            content += b"." * (self._size - len(content) - 2) + b'"}'
            seq = self.connection.send(self.message(self._sent, content))
            self._under_way[seq] = (self._sent, time.monotonic())

    def message(self, number: int, content: bytes) -> Message:
        return IM(self.uid, self.receiver, 0, number, content)

    def _received(self, received: Received[Message]) -> None:
        message = received.message
        if isinstance(message, Ack) and message.status == 0:
            number, sent = self._under_way.pop(message.seq)
            self.acked.append(number)
            self._latencies.append(time.monotonic() - sent)
            if not self._under_way and self._idle is not None:
                self._idle.callback(None)
                self._idle = None
            self._fill_window()


class GroupTalker(Talker):
    """The same; the receiver is a group."""

    def message(self, number: int, content: bytes) -> Message:
        return GroupIM(self.uid, self.receiver, 0, number, content)


async def more_acks(reactor: Any, talkers: Sequence[Talker], number: int, seconds: float = 60) -> None:
    """Wait until each of them got so many more ACKs."""
    targets = [(talker, len(talker.acked) + number) for talker in talkers]
    await until(reactor, lambda: all(len(talker.acked) >= target for talker, target in targets), seconds)


def number_of(content: bytes) -> tuple[int, int]:
    """Who sent the message, and which of theirs it is."""
    _, uid, number = content.split(b":", 3)[:3]
    return int(uid.strip(b'"')), int(number)


class Listener:
    """Takes pushes that follow what it has and syncs for others, as protocol.md says (Timelines and sync keys)."""

    notify: type[SyncNotify] | type[SyncGroupNotify] = SyncNotify
    end: type[SyncEnd] | type[SyncGroupEnd] = SyncEnd

    def __init__(self) -> None:
        self.connection: ClientConnection
        #: Who sent each message and which of theirs it is, in the order of the timeline.
        self.taken: list[tuple[int, int]] = []
        self.key = 1
        #: Of what the protocol promises, what did not come true.
        self.broken: list[str] = []
        self._metadata: Received[Metadata] | None = None
        self._told = 1
        self._syncing = False
        self._waiting: tuple[int, Deferred[None]] | None = None

    def received(self, received: Received[Message]) -> None:
        message, metadata = received.message, self._metadata
        self._metadata = None
        if isinstance(message, Metadata):
            self._metadata = Received(received.frame, message)
        elif isinstance(message, IM | GroupIM):
            self._message(message, received.frame.seq, bool(received.frame.flag & Flag.PUSH), metadata)
            metadata = None
        elif isinstance(message, self.notify):
            self._told = max(self._told, message.key)
        elif isinstance(message, self.end):
            self.key = message.key
            self._syncing = False
        if metadata is not None:
            self.broken.append(f"METADATA({metadata.message.key}) and then {message.command.name}")
        if self._told > self.key and not self._syncing:
            self.sync()
        if self._waiting is not None and not self._syncing and self.key >= self._waiting[0]:
            waiting, self._waiting = self._waiting[1], None
            waiting.callback(None)

    def _message(self, message: IM | GroupIM, seq: int, pushed: bool, metadata: Received[Metadata] | None) -> None:
        if pushed != (metadata is not None) or (metadata is not None and metadata.frame.seq + 1 != seq):
            self.broken.append(f"frame {seq}: a message without its METADATA, or METADATA without its message")
        if not pushed:
            self.taken.append(number_of(message.content))
        elif metadata is not None and metadata.message.previous == self.key and not self._syncing:
            self.taken.append(number_of(message.content))
            self.key = metadata.message.key

    def sync(self) -> None:
        self._syncing = True
        self.connection.send(self.question())

    def question(self) -> Message:
        return Sync(self.key)

    async def has(self, key: int, seconds: float = 30) -> None:
        """Wait until the listener has everything up to `key`."""
        if self.key < key or self._syncing:
            self._waiting = (key, Deferred())
            await self._waiting[1].addTimeout(seconds, self.connection._clock)

    def check(self, talkers: list[Talker]) -> None:
        """Everything that was acknowledged is here once, in order, and the frames came as the protocol says."""
        assert self.broken == []
        assert self.connection.seq_errors == 0
        for talker in talkers:
            assert [number for uid, number in self.taken if uid == talker.uid] == talker.acked
        assert len(self.taken) == sum(len(talker.acked) for talker in talkers)


class GroupListener(Listener):
    """The same, to a super group."""

    notify = SyncGroupNotify
    end = SyncGroupEnd

    def __init__(self, group: int) -> None:
        super().__init__()
        self._group = group

    def question(self) -> Message:
        return SyncGroup(self._group, self.key)


async def _connect_through(
    prepared: socket.socket, reactor: Any, address: str, received: Callable[[Received[Message]], None] | None
) -> ClientConnection:
    """Connect with a socket that was prepared for it."""
    where = parse_address(address)
    connection = ClientConnection(reactor, received)
    factory: Any
    if where.websocket:
        factory = WebSocketLinkFactory(reactor, where, connection, None)
    else:
        factory = Factory.forProtocol(lambda: StreamLink(connection))
        factory.noisy = False
    with prepared:
        prepared.connect((where.host, where.port))
        prepared.setblocking(False)
        reactor.adoptStreamConnection(prepared.fileno(), socket.AF_INET, factory)
    await connection.opened.addTimeout(10, reactor)
    return connection


async def connect_narrow(
    reactor: Any, address: str, received: Callable[[Received[Message]], None] | None = None, room: int = 16 * KIB
) -> ClientConnection:
    """Connect as over a real network: segments of Ethernet's size, and room for few bytes that are not read yet.

    On loopback as it is, the kernel alone takes 3 MB for a client that reads nothing, and hides what the server does.
    """
    narrow = socket.socket()
    narrow.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    return await _connect_through(narrow, reactor, address, received)


async def connect_from(reactor: Any, host: str, address: str) -> ClientConnection:
    """Connect from another address, of 127.0.0.0/8."""
    elsewhere = socket.socket()
    elsewhere.bind((host, 0))
    return await _connect_through(elsewhere, reactor, address, None)


class Raw(Protocol):
    """Bytes to and from a server, as they are."""

    transport: Any

    def __init__(self) -> None:
        self.got = b""
        #: Fires when the connection is gone, whoever ended it.
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def is_closed(self, reactor: Any, seconds: float = 5) -> bytes:
        """Wait until the server has closed the connection. Gives all that it has sent."""
        await self.gone.addTimeout(seconds, reactor)
        return self.got


async def connect_raw(reactor: Any, address: str) -> Raw:
    where = parse_address(address)
    endpoint = TCP4ClientEndpoint(reactor, where.host, where.port, timeout=10)
    raw: Raw = await connectProtocol(endpoint, Raw())
    return raw


class SlowReading:
    """Lets a connection read once in so many seconds: a few KiB, where it is a narrow one."""

    def __init__(self, reactor: Any, connection: ClientConnection, seconds: float) -> None:
        self._connection = connection
        link: Any = connection._link
        self._link = link
        self._read: Callable[[bytes], None] = link.dataReceived
        link.dataReceived = self._read_once
        connection.pause()
        self._resume = LoopingCall(connection.resume)
        self._resume.clock = reactor
        self._resume.start(seconds)

    def _read_once(self, data: bytes) -> None:
        self._read(data)
        self._connection.pause()

    def stop(self) -> None:
        """Let it read as it likes."""
        self._resume.stop()
        self._link.dataReceived = self._read
        self._connection.resume()


class Witness:
    """Somebody else: pings all the time, and notes how long each PONG takes. More than `patience` s is a failure."""

    def __init__(self, reactor: Any, connection: ClientConnection, patience: float) -> None:
        self.connection = connection
        self._patience = patience
        self._latencies: list[float] = []
        self._pinging = LoopingCall(self._ping)
        self._pinging.clock = reactor
        self._stopped = self._pinging.start(0.02)

    def _ping(self) -> Deferred[None]:
        began = time.monotonic()
        return self.connection.ping(self._patience).addCallback(
            lambda _: self._latencies.append(time.monotonic() - began)
        )

    def latencies(self) -> list[float]:
        """Seconds that PONGs took since this was asked last."""
        taken, self._latencies = self._latencies, []
        return taken

    async def stop(self) -> None:
        """Fails if a PONG took too long."""
        if self._pinging.running:
            self._pinging.stop()
        await self._stopped


class Memory:
    """Looks at a server's resident memory, often."""

    def __init__(self, reactor: Any, server: ServerProcess) -> None:
        self._server = server
        self._most = 0
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor
        self._watch.start(_LOOK_AGAIN)

    def _look(self) -> None:
        self._most = max(self._most, self.now())

    def now(self) -> int:
        """Bytes; 0 of a process that has ended."""
        with open(f"/proc/{self._server.pid}/status") as status:
            return next((int(line.split()[1]) * KIB for line in status if line.startswith("VmRSS:")), 0)

    def most(self) -> int:
        """Bytes at most since this was asked last."""
        self._look()
        most, self._most = self._most, 0
        return most

    def stop(self) -> None:
        self._watch.stop()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


async def metric(server: ServerProcess, name: str, **labels: str) -> float:
    """A figure of /metrics; 0 where there is none yet."""
    code, text = await server.get("/metrics")
    assert code == 200
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


async def until(reactor: Any, look: Callable[[], bool | Awaitable[bool]], seconds: float) -> None:
    """Wait until `look` says that it is so."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen if isinstance(seen, bool) else await seen:
            return
        assert time.monotonic() < end, f"not so within {seconds} s"
        await deferLater(reactor, _LOOK_AGAIN)


async def close_all(*connections: ClientConnection) -> None:
    for connection in connections:
        connection.close()
        await connection.closed
