"""Turns, under any commands in any pieces that finish in any order."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from imserver.interfaces import IConnection
from imserver.protocol.commands import Command
from imserver.protocol.frame import MAX_BODY, Frame
from tests.unit.net.server import PONG, Client, Server, frame, reply
from tests.unit.net.test_websocket import Web, masked

LIMIT = 4
#: An example here is long: of a long search, a tenth will do.
long_examples = settings(max_examples=max(settings().max_examples // 10, 100))

bodies = st.one_of(st.integers(0, 100), st.integers(0, MAX_BODY))
orders = st.lists(st.tuples(st.sampled_from([Command.IM, Command.SYNC, Command.PING]), bodies), max_size=30)

plays = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "finish", "finish", "read", "wait"]),
        st.one_of(st.integers(1, 20), st.integers(1, 100_000)),
    ),
    max_size=50,
)


class Turns:
    """Watches that each command is begun in its turn."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._under_way: list[Command] = []
        server.chat.handlers = {Command.IM: self._begin, Command.SYNC: self._begin, Command.PING: self._ping}

    def _begin(self, connection: IConnection, read: Frame) -> Deferred[None]:
        command = Command(read.command)
        assert Command.SYNC not in self._under_way
        assert len(self._under_way) < (LIMIT if command is Command.IM else 1)
        self._under_way.append(command)
        done = self._server.chat.wait(connection, read)
        return done.addCallback(self._done, command, connection)

    def _done(self, _: None, command: Command, connection: IConnection) -> None:
        self._under_way.remove(command)
        connection.enqueue(reply(0, 3_000))

    def _ping(self, connection: IConnection, _read: Frame) -> None:
        assert not self._under_way
        connection.enqueue(PONG)


def play(server: Server, client: Client, data: bytes, steps: list[tuple[str, int]], commands: int) -> None:
    """Send `data` in pieces while commands finish, time goes by and the client reads; then let all come to its end."""
    for step, number in steps:
        if step == "send":
            client.transport.send(data[:number])
            data = data[number:]
        elif step == "finish" and server.chat.under_way:
            server.chat.finish(number % len(server.chat.under_way))
        elif step == "read":
            client.transport.drain(number)
        elif step == "wait":
            server.pass_time(1)
    client.transport.send(data)
    for _ in range(100):
        while server.chat.under_way:
            server.chat.finish()
        client.take()
        server.pass_time(1)
        client.transport.send(b"")
    assert server.chat.seqs == list(range(commands))
    assert client.is_read()
    assert not client.is_closed()


@long_examples
@given(orders, plays)
def test_over_tcp(order: list[tuple[Command, int]], steps: list[tuple[str, int]]) -> None:
    """All commands are begun, in their order and each in its turn, and in the end the client is read."""
    server = Server(unfinished_commands=LIMIT, reply_bytes=10_000, messages_per_second=20, bytes_per_second=200_000)
    Turns(server)
    client = server.sign_in()
    data = b"".join(frame(command, seq, bytes(size)) for seq, (command, size) in enumerate(order))
    play(server, client, data, steps, len(order))


@long_examples
@given(orders, plays)
def test_over_websocket(order: list[tuple[Command, int]], steps: list[tuple[str, int]]) -> None:
    """The same, each command in its message."""
    web = Web(unfinished_commands=LIMIT, reply_bytes=10_000, messages_per_second=20, bytes_per_second=200_000)
    Turns(web.server)
    client = web.opened()
    client.sign_in()
    data = b"".join(masked(frame(command, seq, bytes(size))) for seq, (command, size) in enumerate(order))
    play(web.server, client, data, steps, len(order))
