"""The work of `send`, `listen` and `chat`."""

import json
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from uuid import uuid4

import click
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.cli.common import Imctl
from imserver.cli.complaint import Complaint
from imserver.cli.found import find_server
from imserver.cli.interrupt import stopped_by_signal
from imserver.cli.operator import operator_of
from imserver.cli.show import for_people, for_programs, text_of
from imserver.cli.tokens import with_token
from imserver.client import Acknowledged, Client, ClientError, Refused, SignInRefused, State, connect, parse_address
from imserver.protocol.commands import AckStatus, Flag
from imserver.protocol.messages import IM, Ack, Message, Metadata

T = TypeVar("T")

#: Lines that wait for their ACK; no more are read until some have it.
_WAITING_LINES: Final = 100
#: Lines that are known again when they come back in a sync.
_OWN_LINES: Final = 1000
#: Bytes without an end of line, which no terminal gives; they count as a line.
_LONGEST_LINE: Final = 64 * 1024


class Account:
    """Who imctl signs in as, and where."""

    def __init__(
        self,
        obj: Imctl,
        reactor: Any,
        appid: int,
        uid: int,
        token: str | None,
        address: str | None,
        websocket: bool,
    ) -> None:
        self._obj = obj
        self._reactor = reactor
        self._appid = appid
        self._uid = uid
        self._token = token
        self._address = address
        self._websocket = websocket

    async def use(self, work: Callable[[str, str], Awaitable[T]]) -> T:
        """Call `work` with the server's address and a token. Raises `Complaint`."""
        try:
            address = self._address
            if address is not None:
                parse_address(address)
                if self._websocket:
                    raise Complaint("give either --ws or --server: an address says how to connect")
                if self._token is not None:
                    return await work(address, self._token)
            server = find_server(self._obj.data_directory())
            where = address or server.client_address(self._websocket)
            if self._token is not None:
                return await work(where, self._token)
            operator = operator_of(self._reactor, server)
            return await with_token(server.data, operator, self._appid, self._uid, lambda token: work(where, token))
        except SignInRefused:
            raise Complaint(
                "the server refused the token: it was revoked, or is another server's; "
                f"make one: imctl token {self._appid} {self._uid}"
            ) from None
        except (ClientError, ValueError) as error:
            raise Complaint(str(error)) from None


async def send_one(reactor: IReactorTime, address: str, uid: int, token: str, receiver: int, text: str) -> Acknowledged:
    """Send one message, over a connection that touches nothing else of the user's: no sync, no key saved."""
    connection = await connect(reactor, address)
    try:
        if (await connection.sign_in(token)).status:
            raise SignInRefused
        uuid = str(uuid4())
        content = json.dumps({"text": text, "uuid": uuid}, ensure_ascii=False).encode()
        seq = connection.send(IM(uid, receiver, 0, 0, content))
        while (ack := await connection.expect(Ack)).message.seq != seq:
            pass  # an ACK of nothing that was sent here
        if ack.message.status != AckStatus.SUCCESS:
            raise Refused(ack.message.status)
        for frame, message in connection.inbox:
            if isinstance(message, Metadata) and frame.seq + 1 == ack.frame.seq:
                return Acknowledged(message.key, uuid)
        return Acknowledged(0, uuid)
    finally:
        connection.close()
        await connection.closed


async def print_messages(reactor: Any, address: str, uid: int, token: str, as_json: bool) -> None:
    """Print what comes for a user until the reactor is told to stop, or nobody reads the output any more."""

    def received(message: Message, flag: int, key: int) -> None:
        if as_json:
            line = json.dumps(for_programs(message, flag, key), ensure_ascii=False)
        else:
            line = for_people(message, flag, key)
        try:
            click.echo(line)
        except BrokenPipeError as error:
            broken.append(error)
            client.stop()

    def state_changed(state: State, why: str) -> None:
        if state in {State.SIGNED_IN, State.WAITING}:
            click.echo(f"-- {'listening' if state is State.SIGNED_IN else why}", err=True)

    broken: list[BrokenPipeError] = []
    client = Client(reactor, address, uid, token, received=received, state_changed=state_changed)
    with stopped_by_signal(reactor, client.stop):
        await client.run()
    if broken:
        raise broken[0]


class Chat:
    """One user talking to another: lines go in, lines come out. It knows nothing of terminals.

    Args:
        write: shows a line.
        pause: is called with True when there are too many lines without ACK, with False when there may be more.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: str,
        uid: int,
        token: str,
        peer: int,
        write: Callable[[str], None],
        pause: Callable[[bool], None],
    ) -> None:
        self._uid = uid
        self._peer = peer
        self._write = write
        self._pause = pause
        self._waiting = 0
        self._typed: deque[str] = deque()
        self._own: deque[str] = deque(maxlen=_OWN_LINES)
        self._ended = False
        #: Lines that were not stored.
        self.lost = 0
        self.client = Client(reactor, address, uid, token, received=self._received, state_changed=self._state_changed)

    def line(self, text: str) -> None:
        """The user has typed a line."""
        if not text.strip():
            return
        self._typed.append(text)
        self._send_typed()
        if self._typed:
            self._pause(True)

    def end(self) -> None:
        """The user will type no more: stop once every line has its answer."""
        self._ended = True
        if not self._waiting:
            self.client.stop()

    def _send_typed(self) -> None:
        while self._typed and self._waiting < _WAITING_LINES:
            text = self._typed.popleft()
            uuid = str(uuid4())
            self._own.append(uuid)
            self._waiting += 1
            sent = maybeDeferred(self.client.send_peer, self._peer, text, uuid)
            sent.addCallbacks(self._stored, self._not_stored).addCallback(self._answered)

    def _stored(self, acknowledged: Acknowledged) -> None:
        self._write("-- stored")

    def _not_stored(self, failure: Failure) -> None:
        failure.trap(ClientError)
        self.lost += 1
        self._write(f"-- NOT stored: {failure.getErrorMessage()}")

    def _answered(self, _: None) -> None:
        self._waiting -= 1
        if self._typed:
            self._send_typed()
            if not self._typed:
                self._pause(False)
        if self._ended and not self._waiting:
            self.client.stop()

    def _received(self, message: Message, flag: int, key: int) -> None:
        if not isinstance(message, IM):
            self._write(f"-- {for_people(message, flag, key)}")
        elif message.sender != self._uid:
            self._write(f"{message.sender}: {text_of(message.content)}")
        elif not flag & Flag.SELF and not self._is_own(message.content):
            self._write(f"you, elsewhere, to {message.receiver}: {text_of(message.content)}")

    def _is_own(self, content: bytes) -> bool:
        """Was it typed here? It comes back in a sync after a lost connection."""
        try:
            said = json.loads(content)
        except ValueError:
            return False
        return isinstance(said, dict) and said.get("uuid") in self._own

    def _state_changed(self, state: State, why: str) -> None:
        if state is State.SIGNED_IN:
            self._write(f"-- connected: you are {self._uid}, and talk to {self._peer}; Ctrl-D ends")
        elif state is State.WAITING:
            self._write(f"-- not connected: {why}")


@implementer(IHalfCloseableProtocol)
class Terminal(Protocol):
    """Lines from standard input, after whose end standard output still works."""

    def __init__(self, line: Callable[[str], None], end: Callable[[], None]) -> None:
        self._line = line
        self._end = end
        self._rest = b""
        #: Fires (with None) when nothing can be written any more.
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._line(line.decode("utf-8", "replace").rstrip("\r"))

    def readConnectionLost(self) -> None:
        if self._rest:
            self.dataReceived(b"\n")
        self._end()

    def writeConnectionLost(self) -> None:
        self.connectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()
        if not self.lost.called:
            self.lost.callback(None)


async def talk_on_terminal(reactor: Any, address: str, uid: int, token: str, peer: int) -> None:
    """Chat on standard input and output until its end. Raises `Complaint` where a line was not stored."""
    from twisted.internet.stdio import StandardIO

    def write(text: str) -> None:
        stdio.write(text.encode() + b"\n")

    def pause(wanted: bool) -> None:
        if wanted:
            stdio.pauseProducing()
        else:
            stdio.resumeProducing()

    chat = Chat(reactor, address, uid, token, peer, write, pause)
    terminal = Terminal(chat.line, chat.end)
    # It takes both files, since on a terminal they are one: what one makes non-blocking, the other finds so.
    stdio = StandardIO(terminal, reactor=reactor)
    with stopped_by_signal(reactor, chat.client.stop):
        try:
            await chat.client.run()
        finally:
            stdio.loseConnection()
            await terminal.lost
            for file in (sys.stdin, sys.stdout):
                os.set_blocking(file.fileno(), True)
    if chat.lost:
        raise Complaint(f"{chat.lost} of your lines were not stored")
