"""The other end of a webhook's requests, on a real socket: a test reads what comes and says what it wants."""

import re
from collections.abc import Callable
from typing import Any

from twisted.internet import ssl
from twisted.internet.defer import Deferred, DeferredQueue, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.contract.sql_storage import running_reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Peer(Protocol):
    """The other end of a connection: it collects what comes, and says what the test wants."""

    def __init__(self) -> None:
        self._read = b""
        self._more: Deferred[None] = succeed(None)
        self.lost: Deferred[None] = Deferred()

    async def request(self) -> tuple[list[bytes], bytes]:
        """The next request: its first line and its headers, its body."""
        head = await self._until(lambda: self._read.find(b"\r\n\r\n") + 1)
        size = re.search(rb"(?i)\r\ncontent-length: (\d+)", self._read)
        assert size is not None
        end = head + 3 + int(size[1])
        await self._until(lambda: len(self._read) >= end)
        found, self._read = self._read[:end], self._read[end:]
        return found[: head - 1].split(b"\r\n"), found[head + 3 :]

    async def _until(self, ready: Callable[[], int]) -> int:
        while not (found := ready()):
            self._more = Deferred()
            await self._more
        return found

    def dataReceived(self, data: bytes) -> None:
        self._read += data
        if not self._more.called:
            self._more.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def read_no_more(self) -> None:
        transport: Any = self.transport
        transport.pauseProducing()

    def hang_up(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class Server(Factory):
    """Listens on a free port."""

    noisy = False

    def __init__(self) -> None:
        self.peers: DeferredQueue[Peer] = DeferredQueue()
        self.all: list[Peer] = []
        self.port: IListeningPort

    def listen(self, certificate: ssl.PrivateCertificate | None = None) -> None:
        reactor: Any = running_reactor()
        if certificate is None:
            self.port = reactor.listenTCP(0, self, interface="127.0.0.1")
        else:
            self.port = reactor.listenSSL(0, self, certificate.options(), interface="127.0.0.1")

    @property
    def number(self) -> int:
        address: Any = self.port.getHost()
        return int(address.port)

    def buildProtocol(self, addr: object) -> Peer:
        peer = Peer()
        self.all.append(peer)
        self.peers.put(peer)
        return peer

    async def stop(self) -> None:
        stopped = self.port.stopListening()
        if stopped is not None:
            await stopped
        for peer in self.all:
            if not peer.lost.called:
                peer.hang_up()
                await peer.lost
