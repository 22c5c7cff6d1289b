"""One connection to a server, over TCP or WebSocket alike, with nothing hidden. For tests, tools, and `Client`."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
)
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.client.errors import CannotConnect, ClientError, Closed, TookTooLong
from imserver.protocol.commands import NEWEST_VERSION, Platform
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import Frame, FrameDecoder, encode_frame
from imserver.protocol.messages import AuthStatus, AuthToken, Message, Ping, Pong, decode_from_server

#: Seconds that a wait takes at most unless its caller says otherwise.
TIMEOUT: Final = 5.0
#: Received messages that nobody took; with one more the connection is aborted. Four full answers to SYNC fit.
MAX_INBOX: Final = 12_500
#: Bytes that the server does not take; with more the connection is aborted.
MAX_UNSENT: Final = 16 * 1024 * 1024

M_co = TypeVar("M_co", bound=Message, covariant=True)
M = TypeVar("M", bound=Message)


class Received(NamedTuple, Generic[M_co]):
    """A frame from the server and what it says."""

    frame: Frame
    message: M_co


class Link(Protocol):
    """What a `ClientConnection` writes to: one of the two transports."""

    def write_frame(self, data: bytes) -> None:
        """Send one frame. Over WebSocket it is one binary message."""

    def pause(self) -> None:
        """Stop reading from the socket."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Close once all that was written has left."""

    def abort(self) -> None:
        """Close at once."""


class _Waiter(NamedTuple):
    kind: type[Message]
    fired: Deferred[Received[Any]]


@implementer(IPushProducer)
class ClientConnection:
    """One connection; `connect` makes it.

    What the server sends goes, in this order of preference, to whoever waits for it with `expect`, to `received` where
    that is given, or into `inbox`, where it stays until `expect` takes it. A PONG that belongs to a `ping` goes nowhere
    else.
    """

    def __init__(self, clock: IReactorTime, received: Callable[[Received[Message]], None] | None = None) -> None:
        self._clock = clock
        self._link: Link | None = None
        self._received = received
        self._waiters: list[_Waiter] = []
        #: For each PING that is under way the Deferred of `ping`, or None where it was sent with `send`.
        self._pings: deque[Deferred[None] | None] = deque()
        self._closed_waiters: list[Deferred[str]] = []
        self._abort_call: IDelayedCall | None = None
        self._writing_paused = False
        self._unsent = 0
        self._seq = 0
        self._seq_received = 0
        self._aborted_because = ""
        #: What arrived and was not taken, oldest first.
        self.inbox: deque[Received[Message]] = deque()
        #: Goes into the header of what is sent; `sign_in` sets it.
        self.version = NEWEST_VERSION
        #: Frames whose seq was not the one before + 1 (the first: 1).
        self.seq_errors = 0
        self.frames_in = 0
        self.frames_out = 0
        #: Why the connection is closed; None while it is not.
        self.why_closed: str | None = None
        #: The code with which the server closed the WebSocket; None over TCP, and where it sent none.
        self.close_code: int | None = None
        #: Fires (with None) when frames can be sent, fails with `CannotConnect`. `connect` waits for it.
        self.opened: Deferred[None] = Deferred()

    # What is sent

    def send(self, message: Message, flag: int = 0) -> int:
        """Send a message. Gives its seq, which the server's ACK carries. Raises `Closed`."""
        if isinstance(message, Ping):
            self._pings.append(None)
        return self._send(message, flag)

    def _send(self, message: Message, flag: int = 0) -> int:
        self._seq += 1
        version = self.version
        self.send_bytes(encode_frame(self._seq, message.command, version, flag, message.encode(version)))
        return self._seq

    def send_bytes(self, raw: bytes) -> None:
        """Send bytes as they are, for those who want to send wrong ones: over WebSocket they are one binary message.

        Raises `Closed`.
        """
        link = self._open_link()
        self.frames_out += 1
        if self._writing_paused:
            self._unsent += len(raw)
            if self._unsent > MAX_UNSENT:
                self.abort(f"the server does not take what is sent: {MAX_UNSENT} bytes wait")
                return
        link.write_frame(raw)

    def sign_in(
        self,
        token: str | bytes,
        platform: int = Platform.WINDOWS,
        device: str = "",
        version: int = NEWEST_VERSION,
        timeout: float = TIMEOUT,
    ) -> Deferred[AuthStatus]:
        """Send AUTH_TOKEN; from here on the connection speaks this version.

        Fires with the AUTH_STATUS, also with a refusing one. Fails as `expect` does.
        """
        raw = token.encode() if isinstance(token, str) else token
        if len(raw) > 255 or len(device.encode()) > 255:
            raise ClientError("a token and a device id have at most 255 bytes each")
        self.version = version
        self.send(AuthToken(platform, raw, device.encode()))
        return self.expect(AuthStatus, timeout).addCallback(lambda received: received.message)

    def ping(self, timeout: float = TIMEOUT) -> Deferred[None]:
        """Send PING. Fires at the PONG that belongs to it: all that the server did for earlier commands has arrived.

        Fails with `TookTooLong` or `Closed`.
        """
        fired: Deferred[None] = Deferred()
        self._send(Ping())
        self._pings.append(fired)
        return self._deadline(fired, timeout, "no PONG")

    # What arrives

    def expect(self, kind: type[M], timeout: float = TIMEOUT) -> Deferred[Received[M]]:
        """The oldest message of this class (`Message`: of any) that was not taken, or the next to come.

        The others stay in the inbox. Fails with `TookTooLong` after so many seconds, or with `Closed`.
        """
        for index, received in enumerate(self.inbox):
            if isinstance(received.message, kind):
                del self.inbox[index]
                taken: Deferred[Received[M]] = Deferred()
                taken.callback(cast("Received[M]", received))
                return taken
        fired: Deferred[Received[M]] = Deferred()
        if self.why_closed is not None:
            fired.errback(Closed(self.why_closed))
            return fired
        waiter = _Waiter(kind, fired)
        self._waiters.append(waiter)

        def forget(failure: Failure) -> Failure:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            return failure

        fired.addErrback(forget)
        return self._deadline(fired, timeout, f"no {kind.__name__}")

    def frame_received(self, frame: Frame) -> None:
        """The link got a frame."""
        self.frames_in += 1
        if frame.seq != (self._seq_received + 1) & 0x7FFFFFFF:
            self.seq_errors += 1
        self._seq_received = frame.seq
        try:
            message = decode_from_server(frame.command, frame.version, frame.body)
        except ProtocolError as error:
            self.violated(error)
            return
        if isinstance(message, Pong) and self._pings:
            ping = self._pings.popleft()
            if ping is not None:
                if not ping.called:
                    ping.callback(None)
                return
        received = Received(frame, message)
        for waiter in self._waiters:
            if isinstance(message, waiter.kind):
                self._waiters.remove(waiter)
                waiter.fired.callback(received)
                return
        if self._received is not None:
            self._received(received)
        elif len(self.inbox) < MAX_INBOX:
            self.inbox.append(received)
        else:
            self.abort(f"nobody took the {MAX_INBOX} messages that arrived")

    def violated(self, error: ProtocolError) -> None:
        """The server sent what the protocol does not allow."""
        self.abort(f"the server broke the protocol: {error.text}")

    def pause(self) -> None:
        """Stop reading from the socket, as a slow client does. What was read already is still delivered."""
        self._open_link().pause()

    def resume(self) -> None:
        self._open_link().resume()

    # The end

    @property
    def closed(self) -> Deferred[str]:
        """Each time a new Deferred that fires with why the connection was closed, once it is. It never fails."""
        fired: Deferred[str] = Deferred()
        if self.why_closed is None:
            self._closed_waiters.append(fired)
        else:
            fired.callback(self.why_closed)
        return fired

    @property
    def is_open(self) -> bool:
        """Can messages be sent?"""
        return (
            self._link is not None
            and self.why_closed is None
            and self._abort_call is None
            and not self._aborted_because
        )

    def close(self, timeout: float = TIMEOUT) -> None:
        """Close after what was sent has left, or after so many seconds. Nothing happens where it is closed."""
        if self._link is None or self.why_closed is not None or self._abort_call is not None:
            return
        self._aborted_because = "closed here"
        self.link_closing(timeout)
        self._link.close()

    def abort(self, why: str = "aborted here") -> None:
        """Close at once. Nothing happens where it is closed."""
        if self._link is None or self.why_closed is not None:
            return
        self._aborted_because = self._aborted_because or why
        self._link.abort()

    def link_made(self, link: Link) -> None:
        """The link's transport is there, though it may still be shaking hands."""
        self._link = link

    def link_closing(self, timeout: float = TIMEOUT) -> None:
        """The link is about to close: nothing more can be sent, and in so many seconds it must be gone."""
        if self._abort_call is None and self._link is not None:
            self._abort_call = self._clock.callLater(timeout, self._link.abort)

    def link_lost(self, why: str) -> None:
        """The link is gone."""
        self.why_closed = why = self._aborted_because or why
        if self._abort_call is not None and self._abort_call.active():
            self._abort_call.cancel()
        if not self.opened.called:
            self.opened.errback(CannotConnect(why))
        waiters, self._waiters = self._waiters, []
        pings, self._pings = self._pings, deque()
        for fired in (*(waiter.fired for waiter in waiters), *pings):
            if fired is not None and not fired.called:
                fired.errback(Closed(why))
        closed_waiters, self._closed_waiters = self._closed_waiters, []
        for closed in closed_waiters:
            closed.callback(why)

    def _open_link(self) -> Link:
        if self._link is None or not self.is_open:
            raise Closed(self.why_closed or self._aborted_because or "the server is closing the connection")
        return self._link

    def _deadline(self, fired: Deferred[Any], timeout: float, what: str) -> Deferred[Any]:
        def too_late(value: object, seconds: float) -> object:
            if isinstance(value, Failure) and value.check(CancelledError):
                here = ", ".join(received.message.command.name for received in list(self.inbox)[:20]) or "nothing"
                raise TookTooLong(f"{what} within {seconds} s; in the inbox: {here}")
            return value

        return fired.addTimeout(timeout, self._clock, too_late)

    # The transport tells when it takes no more

    def pauseProducing(self) -> None:
        self._writing_paused = True

    def resumeProducing(self) -> None:
        self._writing_paused = False
        self._unsent = 0

    def stopProducing(self) -> None:
        """The transport is gone; `link_lost` follows."""


class StreamLink(TwistedProtocol):
    """Frames one after the other on a stream."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._decoder = FrameDecoder()

    def connectionMade(self) -> None:
        self._connection.link_made(self)
        self._transport.registerProducer(self._connection, True)
        self._connection.opened.callback(None)

    @property
    def _transport(self) -> Any:
        # Twisted's annotation says ITransport; every stream transport has the rest too.
        return self.transport

    def dataReceived(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                self._connection.frame_received(frame)
        except ProtocolError as error:
            self._connection.violated(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connection.link_lost(say_why(reason))

    def write_frame(self, data: bytes) -> None:
        self._transport.write(data)

    def pause(self) -> None:
        self._transport.pauseProducing()

    def resume(self) -> None:
        self._transport.resumeProducing()

    def close(self) -> None:
        # A transport with a producer waits for it to finish first.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def abort(self) -> None:
        self._transport.abortConnection()


@implementer(IHandshakeListener)
class SecureStreamLink(StreamLink):
    """The same on TLS: open only when the server has proved its name."""

    def connectionMade(self) -> None:
        self._connection.link_made(self)
        self._transport.registerProducer(self._connection, True)

    def handshakeCompleted(self) -> None:
        self._connection.opened.callback(None)


def say_why(reason: Failure) -> str:
    """Why a connection was lost, in a few words."""
    error = reason.value
    if isinstance(error, ConnectionDone):
        return "closed by the server"
    if isinstance(error, ConnectionAborted):
        return "aborted here"
    if type(error).__module__.startswith("service_identity"):
        return "the server's certificate is not for this host"
    if isinstance(error, SSL.Error):
        return f"TLS: {error.args[0][0][2] if error.args and error.args[0] else 'the connection was cut'}"
    return str(error) or type(error).__name__
