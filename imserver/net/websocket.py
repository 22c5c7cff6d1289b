"""Frames over WebSocket, one a binary message: a thin adapter between Autobahn and a `Connection`.

Autobahn does the opening handshake, reads messages and answers control frames. What leaves is written here: the frames
of a flush, each its own WebSocket message, in one write.
"""

from collections import deque
from fnmatch import fnmatchcase
from struct import Struct
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from imserver.net.connection import Connection, Listeners
from imserver.net.limits import TurnedAway
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import HEADER, HEADER_SIZE, MAX_BODY, Envelope

#: Bytes of a request line and its headers, at most.
_MOST_HANDSHAKE: Final = 8192
_GOING_AWAY: Final = 1001
_PROTOCOL_ERROR: Final = 1002
_UNSUPPORTED_DATA: Final = 1003
_INTERNAL_ERROR: Final = 1011
_NORMAL: Final = 1000
#: What a client is told when the server closes for this reason.
_CLOSE_CODES: Final = {
    "protocol": _PROTOCOL_ERROR,
    "text": _UNSUPPORTED_DATA,
    "stopping": _GOING_AWAY,
    "internal_error": _INTERNAL_ERROR,
}

_LONG = Struct("!BBH")


def message_head(size: int) -> bytes:
    """What stands before a binary message of so many bytes, unmasked, as servers send them (RFC 6455, 5.2)."""
    if size < 126:
        return bytes((0x82, size))
    return _LONG.pack(0x82, 126, size)


def origin_is_allowed(origin: str, host: str, patterns: tuple[str, ...]) -> bool:
    """May a page of this origin open a connection?

    Args:
        origin: the Origin header; "" where there is none: no browser, so no page to be guarded against.
        host: the Host header.
        patterns: "*", or origins such as ``https://*.example.com``. None: only pages of the same host, on any port.
    """
    if not origin:
        return True
    if not patterns:
        name = _host_name(origin)
        return name is not None and name == _host_name(f"//{host}")
    origin = origin.lower()
    # Also as it stands: to `fnmatchcase` the brackets of an IPv6 address are a choice of letters.
    return any(origin == pattern or fnmatchcase(origin, pattern) for pattern in map(str.lower, patterns))


def _host_name(url: str) -> str | None:
    """Without its port; None where there is none, or nothing that could be one."""
    try:
        return urlsplit(url).hostname or None
    except ValueError:
        return None


class WebSocketConnection(Connection):
    __slots__ = ("_socket",)

    transport_name = "websocket"

    def __init__(self, socket: "Socket", address: str, listeners: Listeners) -> None:
        super().__init__(socket.transport, address, listeners)
        self._socket = socket
        self.deadline = listeners.clock.seconds() + listeners.limits.websocket_handshake_seconds

    def opened(self) -> None:
        """The handshake is done: from here on the client has its time to sign in."""
        self.deadline = self._listeners.clock.seconds() + self._limits.sign_in_seconds

    @property
    def envelope(self) -> Envelope:
        return message_head

    @property
    def takes_bytes(self) -> bool:
        return not self._write_paused

    def overdue(self, now: float) -> None:
        if self._socket.state == WebSocketProtocol.STATE_CONNECTING and not self.closed:
            self.close("handshake_timeout")
        else:
            super().overdue(now)

    def lose_transport(self, reason: str) -> None:
        if self._socket.state == WebSocketProtocol.STATE_OPEN:
            # The client is to answer with its own. If it does not, the connection is cut off when it is overdue.
            self._socket.sendCloseFrame(_CLOSE_CODES.get(reason, _NORMAL), reason.encode()[:123])
        else:
            self._socket.state = WebSocketProtocol.STATE_CLOSED
            super().lose_transport(reason)

    def connection_lost(self) -> None:
        super().connection_lost()
        del self._socket  # each knows the other; without this they would wait for the garbage collector


class _NobodyWaits:
    """Stands where Autobahn has a Deferred for those who wait for the opening or the end."""

    def callback(self, _result: object) -> None:
        """Nobody to tell."""


class Socket(WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn has no annotations
    """Hands each binary message to its connection.

    An instance of Autobahn's class keeps about 80 attributes, most of which never differ. Here those are attributes of
    the class, and what only the handshake needs is let go when it is done: an idle connection is a third the size.
    """

    connection: WebSocketConnection
    listeners: ClassVar[Listeners]
    path: ClassVar[str]
    origins: ClassVar[tuple[str, ...]]
    trust_forwarded_for: ClassVar[bool]

    # Autobahn copies these from the factory into every instance; `WebSocketFactory` makes them the class's.
    CONFIG_ATTRS: ClassVar[list[str]] = []

    # What an open connection has in common with every other.
    _perMessageCompress = None
    trackedTimings = None
    trafficStats = TrafficStats()
    utf8validator = None
    send_state = WebSocketProtocol.SEND_STATE_GROUND
    send_queue: ClassVar[deque[Any]] = deque(maxlen=0)
    triggered = False
    wasMaxFramePayloadSizeExceeded = False
    wasMaxMessagePayloadSizeExceeded = False
    closedByMe = False
    failedByMe = False
    droppedByMe = False
    wasClean = False
    wasNotCleanReason = None
    wasServerConnectionDropTimeout = False
    wasOpenHandshakeTimeout = False
    wasCloseHandshakeTimeout = False
    wasServingFlashSocketPolicyFile = False
    localCloseCode = None
    localCloseReason = None
    remoteCloseCode = None
    remoteCloseReason = None
    openHandshakeTimeoutCall = None
    closeHandshakeTimeoutCall = None
    autoPingTimeoutCall = None
    autoPingPending = None
    autoPingPendingCall = None
    autoPingPendingSeq = 0
    autoPingPendingSent = None
    inside_message = False
    current_frame: Any = None
    websocket_version = 13
    is_open = is_closed = _NobodyWaits()
    _KEPT: ClassVar = ("transport", "factory", "connection", "state", "data", "connected", "peer")

    def __init__(self, address: str) -> None:
        # Autobahn's own makes Deferreds and details of the transport that nobody asks for.
        self.peer = address

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):  # not a unix socket
            self.transport.setTcpNoDelay(True)
        # The server's own versions of these two add a count and lines of coloured text that nobody reads.
        WebSocketProtocol._connectionMade(self)
        self.connection = WebSocketConnection(self, self.peer, self.listeners)
        self.transport.registerProducer(self.connection, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        WebSocketProtocol._connectionLost(self, reason)
        self.connection.connection_lost()

    def dataReceived(self, data: bytes) -> None:
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return  # nothing more is understood; Autobahn would keep it
        self.connection.heard(len(data))
        if self.state == WebSocketProtocol.STATE_CONNECTING and len(self.data) + len(data) > _MOST_HANDSHAKE:
            self.failHandshake("Request Header Fields Too Large", 431)
            return
        self._dataReceived(data)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        self.transport.write(data)

    # The handshake.

    def onConnect(self, request: ConnectionRequest) -> None:
        if request.path != self.path:
            raise ConnectionDeny(404, "Not Found")
        if not origin_is_allowed(request.origin, request.headers.get("host", ""), self.origins):
            self.listeners.metrics.refused.inc("origin")
            raise ConnectionDeny(403, "Origin Not Allowed")
        if self.trust_forwarded_for:
            forwarded = request.headers.get("x-forwarded-for", "").rsplit(",", 1)[-1].strip()
            if forwarded and not self.connection.forwarded_for(forwarded):
                raise ConnectionDeny(503, "Too Many Connections")

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: list[Any] | None = None) -> None:
        # What is wrong was the client's doing: it gets to read it, and the log is not filled by strangers.
        self.sendHttpErrorResponse(code, reason, [*(responseHeaders or ()), ("Connection", "close")])
        self.connection.close("handshake")

    def _onOpen(self) -> None:
        self.connection.opened()
        self.__dict__ = {name: value for name, value in vars(self).items() if name in self._KEPT}

    # Messages.

    def onMessageBegin(self, isBinary: bool) -> None:
        if not isBinary:
            self._refuse("text", ProtocolError("text", "a text message; frames come in binary ones"))
        self._payload = bytearray()
        self.message_data_total_length = 0

    def onMessageFrameBegin(self, length: int) -> None:
        self.message_data_total_length += length
        if self.current_frame.opcode == 0:
            self.connection.charge()
        if self.message_data_total_length > HEADER_SIZE + MAX_BODY:
            self._refuse("protocol", ProtocolError("length", "a message longer than any frame"))

    def onMessageFrameData(self, payload: bytes) -> None:
        # In one piece, however many the client cut it into: a list of crumbs would cost fifty times their size.
        if not self.connection.closed:
            self._payload += payload

    def onMessageFrameEnd(self) -> None:
        """Its bytes are taken already."""

    def onMessageEnd(self) -> None:
        payload = bytes(self._payload)
        del self._payload
        if self.connection.closed:
            return
        if len(payload) < HEADER_SIZE or HEADER.unpack_from(payload)[0] != len(payload) - HEADER_SIZE:
            self._refuse("protocol", ProtocolError("message", "a message that is not exactly one frame"))
        else:
            self.connection.frames_received(payload)

    def _refuse(self, reason: str, error: ProtocolError) -> None:
        if not self.connection.closed:
            self.connection.protocol_error(error, reason)

    def onPong(self, payload: bytes) -> None:
        self.connection.charge()

    def onPing(self, payload: bytes) -> None:
        self.connection.charge()
        # A client that pings and does not read must not make the server's buffers grow.
        if self.connection.takes_bytes:
            self.sendPong(payload)

    def _fail_connection(self, code: int = _GOING_AWAY, reason: str = "going away") -> None:
        self._refuse("protocol", ProtocolError("websocket", reason))
        self.state = WebSocketProtocol.STATE_CLOSED  # where the next frame begins is anybody's guess

    def dropConnection(self, abort: bool = False) -> None:
        """Both sides have said good-bye."""
        self.state = WebSocketProtocol.STATE_CLOSED
        self.transport.unregisterProducer()
        self.connection.part()
        self.transport.loseConnection()


def _no_compression(_offers: list[Any]) -> None:
    """Browsers offer it. It would cost more memory a connection than all else together."""


class WebSocketFactory(WebSocketServerFactory):  # type: ignore[misc]  # Autobahn has no annotations
    noisy = False

    def __init__(
        self,
        listeners: Listeners,
        reactor: IReactorTime,
        path: str,
        origins: tuple[str, ...],
        trust_forwarded_for: bool,
    ) -> None:
        """
        Args:
            listeners: what the connections share.
            reactor: Autobahn asks for it; no timer of Autobahn's is used.
            path: where clients connect, "/ws".
            origins: see `origin_is_allowed`.
            trust_forwarded_for: the last address in X-Forwarded-For is the client's; true only behind a proxy.
        """
        super().__init__(server="", reactor=reactor)
        self._admission = listeners.admission
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            utf8validateIncoming=False,  # text is refused
            requireMaskedClientFrames=True,
            maskServerFrames=False,
            applyMask=True,
            maxFramePayloadSize=HEADER_SIZE + MAX_BODY,
            maxMessagePayloadSize=HEADER_SIZE + MAX_BODY,
            autoFragmentSize=0,
            failByDrop=False,  # the client is told why
            echoCloseCodeReason=False,
            openHandshakeTimeout=0,  # these times are kept by `Listeners.sweep`
            closeHandshakeTimeout=0,
            tcpNoDelay=True,
            perMessageCompressionAccept=_no_compression,
            autoPingInterval=0,  # clients send PING
            autoPingTimeout=0,
            serveFlashSocketPolicy=False,
            allowedOrigins=["*"],  # `origin_is_allowed` decides
            allowNullOrigin=True,
            maxConnections=0,  # `Admission` decides
            trustXForwardedFor=0,
        )
        settings = {name: getattr(self, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
        settings["perMessageCompressionAccept"] = staticmethod(_no_compression)
        self._protocol = type(
            "Socket",
            (Socket,),
            {
                **settings,
                "listeners": listeners,
                "path": path,
                "origins": origins,
                "trust_forwarded_for": trust_forwarded_for,
            },
        )

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        address = getattr(addr, "host", "local")
        if not self._admission.admit(address):
            return TurnedAway()
        protocol: Protocol = self._protocol(address)
        protocol.factory = self
        return protocol
