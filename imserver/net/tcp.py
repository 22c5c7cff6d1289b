"""Frames over TCP, as they come: a thin adapter between a Twisted transport and a `Connection`."""

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from imserver.net.connection import Connection, Listeners
from imserver.net.limits import TurnedAway


class TcpConnection(Connection):
    __slots__ = ()

    transport_name = "tcp"


class TcpProtocol(Protocol):
    """Hands bytes to its connection."""

    connection: Connection

    def __init__(self, address: str, listeners: Listeners) -> None:
        self._address = address
        self._listeners = listeners

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):  # not a unix socket
            transport.setTcpNoDelay(True)
        self.connection = TcpConnection(transport, self._address, self._listeners)
        transport.registerProducer(self.connection, True)

    def dataReceived(self, data: bytes) -> None:
        self.connection.heard(len(data))
        self.connection.frames_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connection.connection_lost()


class TcpFactory(ServerFactory):
    noisy = False

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        address = getattr(addr, "host", "local")
        if not self._listeners.admission.admit(address):
            return TurnedAway()
        return TcpProtocol(address, self._listeners)
