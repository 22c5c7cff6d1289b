"""Opening a connection: which endpoint, which transport, within which time."""

from collections.abc import Callable
from typing import Any

from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from imserver.client.address import Address, parse_address
from imserver.client.connection import ClientConnection, Received, SecureStreamLink, StreamLink
from imserver.client.errors import CannotConnect
from imserver.protocol.messages import Message


def connect(
    reactor: IReactorTime,
    address: str | Address,
    timeout: float = 10.0,
    *,
    trust_root: Any = None,
    origin: str | None = None,
    received: Callable[[Received[Message]], None] | None = None,
) -> Deferred[ClientConnection]:
    """Connect to a server.

    Args:
        reactor: the reactor; also the clock of every deadline of the connection.
        address: see `imserver.client.address`. A ``tls:`` or ``wss:`` server must prove the address's host name.
        timeout: seconds for the connection with all its handshakes.
        trust_root: whose certificates to believe (an IOpenSSLTrustRoot or a Certificate); None: the platform's.
        origin: the Origin header of a WebSocket; None: none.
        received: gets what nobody waits for, instead of the inbox.

    Fires with a `ClientConnection` on which nobody has signed in. Fails with `CannotConnect`.
    """
    connection = ClientConnection(reactor, received)

    async def established() -> ClientConnection:
        try:
            where = parse_address(address) if isinstance(address, str) else address
        except ValueError as error:
            raise CannotConnect(str(error)) from None
        try:
            await _endpoint(reactor, where, timeout, trust_root).connect(_factory(reactor, where, connection, origin))
            await connection.opened
        except (CancelledError, ConnectingCancelledError):
            connection.abort()
            raise CancelledError from None
        except (ConnectError, DNSLookupError, UnicodeError, CannotConnect) as error:
            raise CannotConnect(f"cannot connect to {where}: {str(error).rstrip('.')}") from error
        return connection

    def too_late(value: ClientConnection | Failure, seconds: float) -> ClientConnection:
        if isinstance(value, Failure):
            raise CannotConnect(f"cannot connect to {address}: no answer within {seconds} s")
        return value

    return Deferred.fromCoroutine(established()).addTimeout(timeout, reactor, too_late)


def _factory(
    reactor: IReactorTime, where: Address, connection: ClientConnection, origin: str | None
) -> IProtocolFactory:
    """Makes the one link of the connection."""
    if where.websocket:
        from imserver.client.websocket import WebSocketLinkFactory

        websocket: IProtocolFactory = WebSocketLinkFactory(reactor, where, connection, origin)
        return websocket
    link = SecureStreamLink if where.secure else StreamLink
    factory = Factory.forProtocol(lambda: link(connection))
    factory.noisy = False
    return factory


def _endpoint(reactor: IReactorTime, where: Address, timeout: float, trust_root: Any) -> IStreamClientEndpoint:
    endpoint: IStreamClientEndpoint
    timeout += 1  # the caller's own deadline comes first, and says it better
    # An address needs no name lookup, and no race between the address families either.
    if isIPAddress(where.host):
        endpoint = TCP4ClientEndpoint(reactor, where.host, where.port, timeout)
    elif isIPv6Address(where.host):
        endpoint = TCP6ClientEndpoint(reactor, where.host, where.port, timeout)
    else:
        endpoint = HostnameEndpoint(reactor, where.host, where.port, timeout)
    if where.secure:
        return wrapClientTLS(ssl.optionsForClientTLS(where.host, trustRoot=trust_root), endpoint, reactor)
    return endpoint
