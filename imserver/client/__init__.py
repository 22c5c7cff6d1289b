"""The client library: what bots, tests and imctl speak to a server with.

Two levels. `connect` gives a `ClientConnection`: one connection over TCP or WebSocket, on which every frame can be
sent, awaited and inspected. `Client` is what an application uses: it signs in, reconnects, keeps a sync key and
delivers each message once, in order.

Lives here: what a client needs, and nothing of a terminal. May import protocol, model and Twisted; never the server's
rooms. Reading order: ``errors``, ``address``, ``connection`` (with ``websocket`` beside it), ``endpoints``,
``synckeys``, ``client``. Importing it installs no reactor; Autobahn is imported by the first ``ws://`` connection.
"""

from imserver.client.address import Address, parse_address
from imserver.client.client import Acknowledged, Client, State
from imserver.client.connection import ClientConnection, Received
from imserver.client.endpoints import connect
from imserver.client.errors import (
    CannotConnect,
    ClientError,
    Closed,
    NotAcknowledged,
    NotConnected,
    Refused,
    SignInRefused,
    TookTooLong,
    TooManyOutstanding,
)
from imserver.client.synckeys import FileSyncKeyStore, MemorySyncKeyStore, SyncKeyStore

__all__ = (
    "Acknowledged",
    "Address",
    "CannotConnect",
    "Client",
    "ClientConnection",
    "ClientError",
    "Closed",
    "FileSyncKeyStore",
    "MemorySyncKeyStore",
    "NotAcknowledged",
    "NotConnected",
    "Received",
    "Refused",
    "SignInRefused",
    "State",
    "SyncKeyStore",
    "TooManyOutstanding",
    "TookTooLong",
    "connect",
    "parse_address",
)
