"""The WebSocket link of a `ClientConnection`: each binary message is one frame. The only module that knows Autobahn."""

from typing import Any, Final

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from imserver.client.address import Address
from imserver.client.connection import ClientConnection, say_why
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import HEADER_SIZE, MAX_BODY, FrameDecoder

_NORMAL_CLOSURE: Final = 1000


class WebSocketLink(WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn has no annotations
    """Names of Autobahn's own attributes are many: ours start with ``im_``."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self.im_connection = connection

    # Twisted and Autobahn call

    def connectionMade(self) -> None:
        self.im_connection.link_made(self)
        super().connectionMade()
        self.registerProducer(self.im_connection, True)

    def onOpen(self) -> None:
        self.im_connection.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        decoder = FrameDecoder()
        try:
            if not isBinary:
                raise ProtocolError("text", "a text message")
            decoder.feed(payload)
            frame = decoder.next_frame()
            if frame is None or len(decoder):
                raise ProtocolError("message", "a WebSocket message that is not exactly one frame")
        except ProtocolError as error:
            self.im_connection.violated(error)
        else:
            self.im_connection.frame_received(frame)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> Any:
        self.im_connection.link_closing()
        return super().onCloseFrame(code, reasonRaw)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        code = self.remoteCloseCode
        if code is not None:
            self.im_connection.close_code = code
            why = f"closed by the server: {code} {self.remoteCloseReason or ''}".rstrip()
        elif reason.check(ConnectionDone, ConnectionLost) is not None and self.wasNotCleanReason:
            why = self.wasNotCleanReason
        else:
            why = say_why(reason)
        self.im_connection.link_lost(why)

    # The connection calls

    def write_frame(self, data: bytes) -> None:
        self.sendMessage(data, isBinary=True)

    def pause(self) -> None:
        self.transport.pauseProducing()

    def resume(self) -> None:
        self.transport.resumeProducing()

    def close(self) -> None:
        self.sendClose(_NORMAL_CLOSURE)

    def abort(self) -> None:
        self.unregisterProducer()
        self.transport.abortConnection()


class WebSocketLinkFactory(WebSocketClientFactory):  # type: ignore[misc]  # Autobahn has no annotations
    """Makes the one link of one connection."""

    noisy = False

    def __init__(
        self, reactor: IReactorTime, address: Address, connection: ClientConnection, origin: str | None
    ) -> None:
        super().__init__(url=str(address), origin=origin, useragent="imserver", reactor=reactor)
        self._connection = connection
        largest = HEADER_SIZE + MAX_BODY
        self.setProtocolOptions(
            version=18,  # RFC 6455, the only one that Autobahn still offers besides its drafts
            maxFramePayloadSize=largest,
            maxMessagePayloadSize=largest,
            autoFragmentSize=0,
            failByDrop=True,
            echoCloseCodeReason=False,
            acceptMaskedServerFrames=False,
            maskClientFrames=True,
            applyMask=True,
            utf8validateIncoming=True,
            tcpNoDelay=True,
            perMessageCompressionOffers=[],
            perMessageCompressionAccept=lambda _: None,
            autoPingInterval=0,  # the protocol has a PING of its own
            # Autobahn's deadlines run on the global reactor. `connect` and `close` have theirs, on the clock given.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
        )

    def buildProtocol(self, addr: Any) -> WebSocketLink:
        link = WebSocketLink(self._connection)
        link.factory = self
        return link
