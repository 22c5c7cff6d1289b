"""One connection, over both transports, against the server in memory."""

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from imserver.client import (
    CannotConnect,
    ClientConnection,
    ClientError,
    Closed,
    Received,
    TookTooLong,
    connect,
)
from imserver.client.connection import MAX_INBOX, MAX_UNSENT, StreamLink
from imserver.protocol.commands import Command, Platform
from imserver.protocol.frame import encode_frame
from imserver.protocol.messages import IM, RT, Ack, AuthStatus, AuthToken, Message, Metadata, Ping, Pong, SyncNotify
from tests.fakes.server import WEBSOCKET_PORT, Network, now

TCP = "tcp:127.0.0.1:23000"
WEBSOCKET = "ws://127.0.0.1:13891/ws"


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    network.server.tokens = {b"one": 1, b"two": 2}
    yield network
    network.flush()
    assert network.reactor.getDelayedCalls() == []


@pytest.fixture(params=[TCP, WEBSOCKET], ids=["tcp", "websocket"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def signed_in(network: Network, address: str, uid: int = 1) -> ClientConnection:
    connection = network.now(connect(network.reactor, address))
    assert network.now(connection.sign_in({1: "one", 2: "two"}[uid], Platform.ANDROID, "phone")) == AuthStatus(0)
    return connection


class TestBothTransports:
    """What has to be alike over TCP and WebSocket."""

    def test_sign_in(self, network: Network, address: str) -> None:
        """AUTH_TOKEN carries platform, token and device in the version asked for; AUTH_STATUS comes back."""
        connection = network.now(connect(network.reactor, address))
        status = network.now(connection.sign_in("one", Platform.WEB, "tab", version=1))
        assert status == AuthStatus(0)
        assert network.server.said(AuthToken) == [AuthToken(Platform.WEB, b"one", b"tab")]
        [theirs] = network.server.connections
        assert theirs.version == 1
        connection.abort()

    def test_refused_sign_in(self, network: Network, address: str) -> None:
        """A refusal is an answer, not a failure."""
        connection = network.now(connect(network.reactor, address))
        assert network.now(connection.sign_in("nobody's")) == AuthStatus(1)
        connection.abort()

    def test_message_and_ack(self, network: Network, address: str) -> None:
        """`send` gives the seq that the ACK names; what arrives can be awaited by its class, in any order."""
        sender = signed_in(network, address)
        receiver = signed_in(network, address, 2)
        seq = sender.send(IM(1, 2, 0, 5, b"hello"))
        assert network.now(sender.expect(Ack)).message == Ack(seq)
        assert network.now(sender.expect(Metadata)).message == Metadata(2, 1)
        pushed = network.now(receiver.expect(IM))
        assert pushed.message == IM(1, 2, network.server.now, 5, b"hello")
        assert pushed.frame.flag == 0x10
        assert [received.message for received in receiver.inbox] == [Metadata(2, 1), SyncNotify(2)]
        assert sender.seq_errors == receiver.seq_errors == 0
        sender.abort()
        receiver.abort()

    def test_ping_is_a_barrier(self, network: Network, address: str) -> None:
        """When `ping` fires, the answers to all earlier commands have arrived."""
        connection = signed_in(network, address)
        for number in range(10):
            connection.send(IM(1, 2, 0, number, b""))
        pinged = connection.ping()
        assert not pinged.called
        network.now(pinged)
        assert [type(received.message) for received in connection.inbox] == [Metadata, Ack] * 10
        connection.abort()

    def test_close(self, network: Network, address: str) -> None:
        """`close` lets what was sent leave, and `closed` says that it was us."""
        connection = signed_in(network, address)
        connection.send(RT(1, 1, b"last words"))
        connection.close()
        with pytest.raises(Closed, match="closed here"):
            connection.send(Ping())
        assert network.now(connection.closed) == "closed here"
        assert network.server.said(RT) == [RT(1, 1, b"last words")]
        assert network.server.connections == []
        assert now(connection.closed) == "closed here"
        assert network.reactor.getDelayedCalls() == []

    def test_abort(self, network: Network, address: str) -> None:
        """`abort` ends the connection, and whoever waits learns why."""
        connection = signed_in(network, address)
        waiting = connection.expect(IM)
        network.server.answer_pings = False
        pinged = connection.ping()
        connection.abort("enough")
        network.flush()
        fails: list[Deferred[Any]] = [waiting, pinged, connection.expect(IM)]
        for fired in fails:
            with pytest.raises(Closed, match="enough"):
                now(fired)
        assert now(connection.closed) == "enough"
        assert network.reactor.getDelayedCalls() == []

    def test_server_closes(self, network: Network, address: str) -> None:
        """A server that goes away fails what is waited for."""
        connection = signed_in(network, address)
        waiting = connection.expect(IM)
        network.server.connections[0].drop()
        with pytest.raises(Closed):
            network.now(waiting)
        assert connection.why_closed
        assert not connection.is_open

    def test_wait_has_a_deadline(self, network: Network, address: str) -> None:
        """`expect` gives up in time and says what has arrived instead; what comes later goes into the inbox."""
        connection = signed_in(network, address)
        network.server.connections[0].send(Ack(7).frame())
        waiting = connection.expect(IM, timeout=3)
        network.advance(2.9)
        assert not waiting.called
        network.advance(0.2)
        with pytest.raises(TookTooLong, match=r"no IM within 3 s; in the inbox: ACK"):
            now(waiting)
        network.server.post(2, 1, "late")
        network.flush()
        assert [type(received.message) for received in connection.inbox] == [Ack, Metadata, IM, SyncNotify]
        connection.abort()

    def test_ping_has_a_deadline(self, network: Network, address: str) -> None:
        """A PONG that comes too late is still the one of its own PING."""
        connection = signed_in(network, address)
        network.server.answer_pings = False
        late = connection.ping(timeout=3)
        network.advance(3)
        with pytest.raises(TookTooLong, match="no PONG"):
            now(late)
        network.server.answer_pings = True
        second = connection.ping(timeout=3)
        network.flush()
        assert not second.called, "that was the PONG of the first"
        network.server.connections[0].send(Pong().frame())
        network.now(second)
        connection.abort()

    def test_ping_sent_by_hand(self, network: Network, address: str) -> None:
        """The PONG of a PING that was sent with `send` goes into the inbox, and is not mistaken for another's."""
        connection = signed_in(network, address)
        connection.send(Ping())
        network.now(connection.ping())
        assert [received.message for received in connection.inbox] == [Pong()]
        connection.abort()

    def test_seq_errors_are_counted(self, network: Network, address: str) -> None:
        """A server that leaves out a number is found out."""
        connection = signed_in(network, address)
        network.server.connections[0].seq += 1
        network.server.connections[0].send(Ack(1).frame(), Ack(2).frame())
        network.flush()
        assert connection.seq_errors == 1
        connection.abort()

    def test_command_that_servers_do_not_send(self, network: Network, address: str) -> None:
        """A server that breaks the protocol is cut off."""
        connection = signed_in(network, address)
        network.server.connections[0].write(encode_frame(2, Command.SYNC, 2, 0, bytes(8)))
        assert "servers do not send command 26" in network.now(connection.closed)

    def test_callback_instead_of_inbox(self, network: Network, address: str) -> None:
        """With `received` set, it gets what nobody waits for."""
        got: list[Received[Message]] = []
        connection = network.now(connect(network.reactor, address, received=got.append))
        network.now(connection.sign_in("one"))
        network.server.post(2, 1, "hello")
        network.flush()
        assert [type(received.message) for received in got] == [Metadata, IM, SyncNotify]
        assert not connection.inbox
        connection.abort()


class SilentServer(Protocol):
    """Takes connections and never says a word."""

    said = b""
    lost = False

    def dataReceived(self, data: bytes) -> None:
        self.said += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class TestConnecting:
    def test_refused(self, network: Network, address: str) -> None:
        """Nobody listens: one line with the address."""
        network.refusing = True
        with pytest.raises(CannotConnect, match=f"cannot connect to {address}: .*refused"):
            network.now(connect(network.reactor, address))
        assert network.reactor.getDelayedCalls() == []

    def test_no_answer(self, network: Network, address: str) -> None:
        """Without an answer it ends at its deadline."""
        connecting = connect(network.reactor, address, timeout=2)
        network.reactor.advance(2)
        with pytest.raises(CannotConnect, match="no answer within 2 s"):
            now(connecting)
        assert network.reactor.getDelayedCalls() == []

    def test_no_handshake(self, network: Network) -> None:
        """A server that takes the TCP connection, but shakes no WebSocket hand, is given up and cut off."""
        silent = SilentServer()
        network.listening[WEBSOCKET_PORT] = Factory.forProtocol(lambda: silent)
        connecting = connect(network.reactor, WEBSOCKET, timeout=2)
        network.advance(1.9)
        assert silent.said.startswith(b"GET /ws HTTP/1.1\r\n")
        assert not silent.lost
        network.advance(0.2)
        with pytest.raises(CannotConnect, match="no answer within 2 s"):
            now(connecting)
        assert silent.lost

    def test_cancelled(self, network: Network, address: str) -> None:
        """A connection that is no longer wanted can be cancelled, and leaves nothing behind."""
        connecting = connect(network.reactor, address)
        connecting.cancel()
        with pytest.raises(CancelledError):
            now(connecting)
        network.flush()
        assert network.reactor.getDelayedCalls() == []

    def test_no_address(self, network: Network) -> None:
        """What is no address fails like what cannot be reached."""
        with pytest.raises(CannotConnect, match="write tcp:HOST:PORT"):
            now(connect(network.reactor, "localhost"))

    def test_token_too_long(self, network: Network) -> None:
        """A token that does not fit its length byte is the caller's mistake."""
        connection = network.now(connect(network.reactor, TCP))
        with pytest.raises(ClientError, match="at most 255 bytes"):
            connection.sign_in("x" * 256)
        connection.abort()


def stream(transport: StringTransport) -> tuple[Clock, ClientConnection, StreamLink]:
    clock = Clock()
    connection = ClientConnection(clock)
    link = StreamLink(connection)
    link.makeConnection(transport)  # type: ignore[no-untyped-call]  # Twisted's
    return clock, connection, link


class TestBounds:
    """What one peer can make a client hold."""

    def test_interfaces(self) -> None:
        """The connection is what a transport asks to pause."""
        assert verifyObject(IPushProducer, ClientConnection(Clock()))

    def test_bytes_cut_anywhere(self) -> None:
        """Frames come out whole, however the stream was cut."""
        _, connection, link = stream(StringTransport())
        data = b"".join(encode_frame(seq, Command.RT, 2, 0, bytes(16) + b"hello") for seq in (1, 2, 3))
        for byte in data:
            link.dataReceived(bytes((byte,)))
        assert [received.message for received in connection.inbox] == [RT(0, 0, b"hello")] * 3
        assert connection.seq_errors == 0

    @pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x80\x00"])
    def test_frame_too_long(self, length: bytes) -> None:
        """A header that announces too much ends the connection before any of it has come."""
        transport = StringTransport()
        _, connection, link = stream(transport)
        link.dataReceived(length + bytes(8))
        assert transport.disconnecting
        assert not connection.is_open

    def test_full_inbox(self) -> None:
        """An inbox that nobody empties does not grow for ever."""
        transport = StringTransport()
        _, connection, link = stream(transport)
        ack = Ack(1).encode(2)
        for seq in range(1, MAX_INBOX + 2):
            link.dataReceived(encode_frame(seq, Command.ACK, 2, 0, ack))
        assert len(connection.inbox) == MAX_INBOX
        link.connectionLost(Failure(ConnectionError()))
        assert now(connection.closed) == f"nobody took the {MAX_INBOX} messages that arrived"

    def test_server_that_takes_nothing(self) -> None:
        """What the server does not take is not gathered without end; what it takes again counts no more."""
        transport = StringTransport()
        _, connection, link = stream(transport)
        piece = bytes(MAX_UNSENT // 4)
        assert isinstance(transport.producer, ClientConnection)
        transport.producer.pauseProducing()
        for _ in range(4):
            connection.send_bytes(piece)
        transport.producer.resumeProducing()
        transport.producer.pauseProducing()
        for _ in range(4):
            connection.send_bytes(piece)
        assert connection.is_open
        connection.send_bytes(b"x")
        assert transport.disconnecting
        link.connectionLost(Failure(ConnectionError()))
        assert "does not take" in now(connection.closed)

    def test_pause(self) -> None:
        """A paused connection does not read from its socket."""
        transport = StringTransport()
        _, connection, _ = stream(transport)
        connection.pause()
        assert transport.producerState == "paused"
        connection.resume()
        assert transport.producerState == "producing"

    def test_close_has_a_deadline(self) -> None:
        """A connection whose last bytes do not leave is cut off."""
        transport = StringTransportWithDisconnection()
        clock, connection, _ = stream(transport)
        aborted: list[float] = []
        transport.abortConnection = lambda: aborted.append(clock.seconds())  # type: ignore[method-assign]
        transport.loseConnection = lambda: None  # type: ignore[method-assign]
        connection.close(timeout=4)
        clock.advance(3.9)
        assert aborted == []
        clock.advance(0.1)
        assert aborted == [pytest.approx(4)]


def test_nothing_before_the_connection_is_made() -> None:
    """A connection that is not made yet cannot send, and closing it is no error."""
    connection = ClientConnection(Clock())
    with pytest.raises(Closed):
        connection.send(Ping())
    connection.close()
    connection.abort()
    closed: Deferred[str] = connection.closed
    assert not closed.called
