"""A server in memory for the tests of the client library and of imctl.

It speaks `imserver.protocol` on both transports and keeps what protocol.md says of peer messages, sync, rooms and
keep-alive, as plainly as can be. Its faults are attributes that a test sets. `Network` joins clients to it without a
socket, and moves bytes and time only when told to.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test.iosim import IOPump, connect, makeFakeClient, makeFakeServer

from imserver.protocol.commands import AckStatus, Flag
from imserver.protocol.frame import Frame, FrameDecoder, OutFrame
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    AuthStatus,
    AuthToken,
    EnterRoom,
    GroupIM,
    GroupSyncKey,
    LeaveRoom,
    Message,
    Metadata,
    Ping,
    Pong,
    RoomIM,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
    SyncGroupNotify,
    SyncKey,
    SyncNotify,
    decode_from_client,
    stored_frame,
)
from tests.fakes.frames import join_frames

T = TypeVar("T")

TCP_PORT = 23000
WEBSOCKET_PORT = 13891


class Heard(NamedTuple):
    """What a client said, and as whom."""

    uid: int
    message: Message


class FakeServer:
    """Its users are those of `tokens`; its clock stands still at `now`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000
        self.tokens: dict[bytes, int] = {}
        #: uid -> stored frames; the first has key 2.
        self.timelines: dict[int, list[OutFrame]] = defaultdict(list)
        self.saved_keys: dict[int, int] = {}
        #: Super group -> its members, and its stored frames; the first has key 2.
        self.super_groups: dict[int, tuple[set[int], list[OutFrame]]] = {}
        #: (uid, super group) -> key.
        self.saved_group_keys: dict[tuple[int, int], int] = {}
        self.connections: list[FakeConnection] = []
        self.heard: list[Heard] = []
        self._resends: dict[tuple[int, int, str], int] = {}
        # Faults
        self.ack_status = AckStatus.SUCCESS
        self.answer_messages = True
        #: What came while `answer_messages` was False, as `peer_message` takes it.
        self.unanswered: list[tuple[FakeConnection, int, IM]] = []
        self.answer_sign_ins = True
        self.answer_pings = True
        self.answer_syncs = True
        #: Tell of new entries, but push none.
        self.push = True
        #: The most entries in one answer to SYNC.
        self.page = 3000

    def said(self, kind: type[T]) -> list[T]:
        """What clients said, of one class, in order."""
        return [heard.message for heard in self.heard if isinstance(heard.message, kind)]

    def store(self, uid: int, command: int, body: bytes, origin: "FakeConnection | None" = None) -> int:
        """A new entry in a user's timeline; it is pushed to the user's connections but to `origin`. Gives its key."""
        timeline = self.timelines[uid]
        timeline.append(stored_frame(command, 0, body))
        key = len(timeline) + 1
        for connection in self.connections_of(uid):
            if connection is not origin:
                if self.push:
                    pushed = stored_frame(command, Flag.PUSH, body)
                    connection.send(Metadata(key, key - 1).frame(), pushed)
                connection.send(SyncNotify(key).frame())
        return key

    def store_in_group(self, group: int, command: int, body: bytes, origin: "FakeConnection | None" = None) -> int:
        """The same in the timeline of a super group."""
        members, timeline = self.super_groups[group]
        timeline.append(stored_frame(command, Flag.SUPER_GROUP, body))
        key = len(timeline) + 1
        for connection in self.connections:
            if connection.uid in members and connection is not origin:
                if self.push and command == GroupIM.command:
                    pushed = stored_frame(command, Flag.PUSH | Flag.SUPER_GROUP, body)
                    connection.send(Metadata(key, key - 1).frame(), pushed)
                connection.send(SyncGroupNotify(group, key).frame())
        return key

    def post_in_group(self, sender: int, group: int, text: str) -> int:
        """A message to a super group from somebody who is not connected. Gives its key there."""
        content = json.dumps({"text": text}).encode()
        return self.store_in_group(group, GroupIM.command, GroupIM(sender, group, self.now, 0, content).encode(2))

    def post(self, sender: int, receiver: int, text: str) -> int:
        """A message from somebody who is not connected. Gives its key in the receiver's timeline."""
        content = json.dumps({"text": text}).encode()
        return self.store(receiver, IM.command, IM(sender, receiver, self.now, 0, content).encode(2))

    def connections_of(self, uid: int) -> list["FakeConnection"]:
        return [connection for connection in self.connections if connection.uid == uid]

    def peer_message(self, connection: "FakeConnection", seq: int, message: IM) -> None:
        if self.ack_status:
            connection.send(Ack(seq, self.ack_status).frame())
            return
        if not self.answer_messages:
            self.unanswered.append((connection, seq, message))
            return
        content = message.content
        uuid = json.loads(content).get("uuid", "") if content.startswith(b"{") else ""
        resend = (message.sender, message.receiver, uuid)
        key = self._resends.get(resend, 0) if uuid else 0
        if not key:
            body = IM(message.sender, message.receiver, self.now, message.msgid, content).encode(2)
            if message.receiver != message.sender:
                self.store(message.receiver, message.command, body)
            key = self.store(message.sender, message.command, body, connection)
            self._resends[resend] = key
        connection.send(Metadata(key, key - 1).frame(), Ack(seq).frame())

    def room_message(self, connection: "FakeConnection", seq: int, message: RoomIM) -> None:
        if not self.answer_messages:
            return
        for other in self.connections:
            if other is not connection and other.room == message.receiver:
                other.send(message.frame())
        connection.send(Ack(seq).frame())

    def group_message(self, connection: "FakeConnection", seq: int, message: GroupIM) -> None:
        body = GroupIM(message.sender, message.receiver, self.now, message.msgid, message.content).encode(2)
        key = self.store_in_group(message.receiver, message.command, body, connection)
        connection.send(Metadata(key, key - 1).frame(), Ack(seq).frame(Flag.SUPER_GROUP))

    def sync_group(self, connection: "FakeConnection", group: int, key: int) -> None:
        if not self.answer_syncs:
            return
        members, timeline = self.super_groups.get(group, (set(), []))
        if connection.uid not in members:
            connection.send(SyncGroupBegin(group, key).frame(), SyncGroupEnd(group, key).frame())
            return
        end = len(timeline) + 1
        begin = key or self.saved_group_keys.get((connection.uid, group), 0)
        last = min(max(begin, 1) + self.page, end)
        connection.send(SyncGroupBegin(group, begin).frame())
        connection.send(*timeline[max(begin, 1) - 1 : last - 1], SyncGroupEnd(group, last).frame())
        if last < end:
            connection.send(SyncGroupNotify(group, last + 1).frame())

    def sync(self, connection: "FakeConnection", key: int) -> None:
        if not self.answer_syncs:
            return
        timeline = self.timelines[connection.uid]
        end = len(timeline) + 1
        begin = key or self.saved_keys.get(connection.uid, 1)
        connection.send(SyncBegin(begin).frame())
        last = min(max(begin, 1) + self.page, end)
        connection.send(*timeline[max(begin, 1) - 1 : last - 1], SyncEnd(last).frame())
        if last < end:
            connection.send(SyncNotify(last + 1).frame())


class FakeConnection:
    """One client of a `FakeServer`; `write` sends a frame, `drop` cuts the connection."""

    def __init__(self, server: FakeServer, write: Callable[[bytes], None], drop: Callable[[], None]) -> None:
        self.server = server
        self.write = write
        self.drop = drop
        self.seq = 0
        self.version = 0
        self.uid = 0
        self.room = 0
        self.frames: list[Frame] = []

    def send(self, *frames: OutFrame) -> None:
        for frame in frames:
            data, self.seq = join_frames((frame,), self.seq, self.version)
            self.write(data)

    def frame_came(self, frame: Frame) -> None:
        server = self.server
        message = decode_from_client(frame.command, frame.version, frame.body)
        self.frames.append(frame)
        server.heard.append(Heard(self.uid, message))
        match message:
            case AuthToken() if server.answer_sign_ins:
                self.version = frame.version
                self.uid = server.tokens.get(message.token, 0)
                self.send(AuthStatus(0 if self.uid else 1).frame())
                if self.uid:
                    server.connections.append(self)
            case Ping() if server.answer_pings:
                self.send(Pong().frame())
            case _ if self.uid:
                self._command(frame.seq, message)

    def _command(self, seq: int, message: Message) -> None:
        server = self.server
        match message:
            case GroupIM() if message.receiver in server.super_groups:
                server.group_message(self, seq, message)
            case IM() | GroupIM():
                assert message.sender == self.uid
                server.peer_message(self, seq, IM(*(getattr(message, field) for field in IM.__struct_fields__)))
            case RT():
                for connection in server.connections_of(message.receiver):
                    connection.send(message.frame())
            case EnterRoom():
                self.room = message.room
            case LeaveRoom() if message.room == self.room:
                self.room = 0
            case RoomIM():
                server.room_message(self, seq, message)
            case Sync():
                server.sync(self, message.key)
            case SyncGroup():
                server.sync_group(self, message.group, message.key)
            case GroupSyncKey():
                place = (self.uid, message.group)
                server.saved_group_keys[place] = max(server.saved_group_keys.get(place, 0), message.key)
            case SyncKey():
                server.saved_keys[self.uid] = max(server.saved_keys.get(self.uid, 0), message.key)

    def lost(self) -> None:
        if self in self.server.connections:
            self.server.connections.remove(self)


class FakeTCPProtocol(TwistedProtocol):
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._decoder = FrameDecoder()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.connection = FakeConnection(self._server, transport.write, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        self._decoder.feed(data)
        while (frame := self._decoder.next_frame()) is not None:
            self.connection.frame_came(frame)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connection.lost()


class FakeWebSocketProtocol(WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn has no annotations
    def __init__(self, server: FakeServer) -> None:
        super().__init__()
        self.im_server = server
        self.im_connection: FakeConnection | None = None

    def onOpen(self) -> None:
        self.im_connection = FakeConnection(self.im_server, self.im_write, self.transport.abortConnection)

    def im_write(self, data: bytes) -> None:
        self.sendMessage(data, isBinary=True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert isBinary
        assert self.im_connection is not None
        decoder = FrameDecoder()
        decoder.feed(payload)
        frame = decoder.next_frame()
        assert frame is not None
        assert not len(decoder), "one frame a message"
        self.im_connection.frame_came(frame)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.im_connection is not None:
            self.im_connection.lost()


def tcp_factory(server: FakeServer) -> Factory[FakeTCPProtocol]:
    factory = Factory.forProtocol(lambda: FakeTCPProtocol(server))
    factory.noisy = False
    return factory


def websocket_factory(server: FakeServer, reactor: IReactorTime) -> WebSocketServerFactory:
    factory = WebSocketServerFactory(reactor=reactor)
    # Without timers of its own, which would run on the global reactor.
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
    factory.noisy = False
    factory.protocol = lambda: FakeWebSocketProtocol(server)
    return factory


class Reactor(MemoryReactorClock):
    """One that can be told of a signal."""

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        self.triggers["before"]["shutdown"].remove(triggerID)

    def addSystemEventTrigger(self, phase: str, eventType: str, callable: Any, *args: Any, **kw: Any) -> Any:
        assert (phase, eventType) == ("before", "shutdown")
        super().addSystemEventTrigger(phase, eventType, callable, *args, **kw)
        return self.triggers["before"]["shutdown"][-1]

    def signal(self) -> None:
        """As if somebody had pressed Ctrl-C."""
        for call, args, kw in self.triggers["before"]["shutdown"]:
            call(*args, **kw)


class Network:
    """Clients that use `reactor` reach `server` at 127.0.0.1, on the usual ports of both transports."""

    def __init__(self) -> None:
        self.reactor = Reactor()  # type: ignore[no-untyped-call]  # Twisted's
        self.server = FakeServer()
        self.refusing = False
        #: Port -> factory.
        self.listening: dict[int, Any] = {
            TCP_PORT: tcp_factory(self.server),
            WEBSOCKET_PORT: websocket_factory(self.server, self.reactor),
        }
        self._pumps: list[IOPump] = []

    def flush(self) -> None:
        """Complete connections and move bytes until nothing moves any more. Time stands still."""
        moved = True
        while moved:
            self.reactor.advance(0)
            moved = self._complete_connections()
            for pump in list(self._pumps):
                moved = pump.flush() or moved
                if pump.clientIO.disconnected and pump.serverIO.disconnected:
                    self._pumps.remove(pump)

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, in steps, with bytes moving in between."""
        self.flush()
        end = self.reactor.seconds() + seconds
        while self.reactor.seconds() < end:
            self.reactor.advance(min(step, end - self.reactor.seconds()))
            self.flush()

    def _complete_connections(self) -> bool:
        waiting = list(zip(self.reactor.tcpClients, self.reactor.connectors, strict=True))
        self.reactor.tcpClients.clear()
        self.reactor.connectors.clear()
        for (_host, port, factory, _timeout, _bind), connector in waiting:
            if connector.stoppedConnecting:
                continue
            if self.refusing or port not in self.listening:
                factory.clientConnectionFailed(connector, Failure(ConnectError(string="refused")))
                continue
            client, server = factory.buildProtocol(None), self.listening[port].buildProtocol(None)
            self._pumps.append(
                connect(server, makeFakeServer(server), client, makeFakeClient(client), greet=False, clock=self.reactor)
            )
        return bool(waiting)

    def now(self, fired: Deferred[T]) -> T:
        """What the Deferred fires with, now. Raises what it fails with."""
        self.flush()
        return now(fired)


def now(fired: Deferred[T]) -> T:
    """What the Deferred has fired with. Raises what it has failed with."""
    results: list[T] = []
    failures: list[Failure] = []
    fired.addCallbacks(results.append, failures.append)
    for failure in failures:
        raise cast("Exception", failure.value)
    assert results, "it has not fired yet"
    return results[0]
