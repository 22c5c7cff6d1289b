"""A connection: turns, when reading stops and goes on, deadlines, and how it ends. Over TCP, the simplest transport."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface.verify import verifyObject

from imserver.interfaces import IChat, IConnection
from imserver.model import SignIn
from imserver.protocol.commands import Command, Platform
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import MAX_BODY, Frame
from imserver.protocol.messages import AuthStatus
from tests.fakes.commands import FakeChat
from tests.leaks import FlushLoggedErrors
from tests.unit.net.server import ALICE, PONG, Client, Server, commands, frame, key_of, live, reply, stored

IM, SYNC, PING, AUTH = Command.IM, Command.SYNC, Command.PING, Command.AUTH_TOKEN


def pong(connection: Any, _frame: Frame) -> None:
    connection.enqueue(PONG)


def test_it_is_what_the_domain_expects() -> None:
    """The connection provides IConnection, and the scripted domain IChat."""
    server = Server()
    assert verifyObject(IConnection, server.connect().connection)
    assert verifyObject(IChat, FakeChat())


# Turns.


def test_commands_come_in_their_order() -> None:
    """Frames of one read are begun in the order in which they stand there."""
    server = Server()
    client = server.sign_in()
    client.send(*[frame(PING, seq) for seq in range(1, 101)])
    assert server.chat.seqs == list(range(1, 101))
    assert all(read.command == PING for read in server.chat.begun)


def test_commands_that_store_overlap() -> None:
    """A client may send messages while earlier ones are being stored."""
    server = Server()
    client = server.sign_in()
    client.send(*[frame(IM, seq) for seq in range(1, 11)])
    assert server.chat.seqs == list(range(1, 11))
    assert len(server.chat.under_way) == 10


def test_commands_that_store_wait_at_the_limit() -> None:
    """At most so many are unfinished; each that is finished lets the next one in, whichever it was."""
    server = Server(unfinished_commands=4)
    client = server.sign_in()
    client.send(*[frame(IM, seq) for seq in range(1, 11)])
    assert server.chat.seqs == [1, 2, 3, 4]
    server.chat.finish(2)
    assert server.chat.seqs == [1, 2, 3, 4, 5]
    server.chat.finish()
    server.chat.finish()
    assert server.chat.seqs == [1, 2, 3, 4, 5, 6, 7]
    while server.chat.under_way:
        server.chat.finish()
    assert server.chat.seqs == list(range(1, 11))


def test_other_commands_wait_for_all_before_them() -> None:
    """A command that does not store waits for those before it, and those after it wait for it."""
    server = Server()
    client = server.sign_in()
    client.send(frame(IM, 1), frame(IM, 2), frame(SYNC, 3), frame(IM, 4), frame(PING, 5), frame(IM, 6))
    assert server.chat.seqs == [1, 2]
    server.chat.finish(1)
    assert server.chat.seqs == [1, 2]
    server.chat.finish()
    assert server.chat.seqs == [1, 2, 3]
    server.chat.finish()
    assert server.chat.seqs == [1, 2, 3, 4]
    server.chat.finish()
    assert server.chat.seqs == [1, 2, 3, 4, 5, 6]


def test_the_burst_of_a_client_that_signs_in() -> None:
    """AUTH_TOKEN, ENTER_ROOM, SYNC and PING in one go, as clients send them: each waits for the one before."""
    server = Server()
    client = server.connect()

    def sign_in(connection: IConnection, read: Frame) -> Deferred[None]:
        done = server.chat.wait(connection, read)
        done.addCallback(lambda _: connection.signed_in(SignIn(ALICE, 3), Platform.WEB, b"page", read.version))
        return done

    users = []

    def enter(connection: IConnection, _read: Frame) -> None:
        users.append(connection.user)

    server.chat.handlers = {AUTH: sign_in, Command.ENTER_ROOM: enter, PING: pong}
    client.send(frame(AUTH, 1, version=1), frame(Command.ENTER_ROOM, 2), frame(SYNC, 3), frame(PING, 4))
    assert server.chat.seqs == [1]
    server.chat.finish()
    assert users == [ALICE]
    assert server.chat.seqs == [1, 2, 3]
    server.chat.finish()
    received = client.read()
    assert commands(received) == [Command.PONG]
    assert received[0].version == 1, "the version that AUTH_TOKEN carried"
    assert client.connection.device == 3
    assert client.connection.device_id == "page"
    assert client.connection.platform_id == Platform.WEB
    assert client.connection.signed_in_at == 1_700_000_000.0


def test_commands_that_are_done_at_once() -> None:
    """Deferreds that have fired already count as done, for both kinds; ten thousand of them need no stack."""
    server = Server(messages_per_second=0)
    client = server.sign_in()
    server.chat.handlers = {IM: lambda *_: succeed(None), SYNC: lambda *_: succeed(None)}
    client.send(*[frame((IM, SYNC, PING)[seq % 3], seq) for seq in range(10_000)])
    assert server.chat.seqs == list(range(10_000))


def test_before_sign_in_each_frame_is_answered_in_its_version() -> None:
    """A client that has not signed in is answered in the version of the frame that it sent, at most the newest."""
    server = Server()
    server.chat.handlers = {PING: pong}
    client = server.connect()
    for version, answered in ((1, 1), (0, 0), (2, 2), (255, 2)):
        client.send(frame(PING, version=version))
        assert client.read()[-1].version == answered


def test_frames_in_are_counted() -> None:
    """Each command that is begun counts under its number."""
    server = Server()
    client = server.sign_in()
    client.send(frame(PING), frame(IM), frame(IM))
    assert server.metrics.frames_in.counts[PING] == 1
    assert server.metrics.frames_in.counts[IM] == 2


# Reading stops, and goes on.


def test_a_large_frame_in_pieces() -> None:
    """A frame whose first part is larger than what may wait undecoded is simply waited for."""
    server = Server()
    client = server.sign_in()
    data = frame(IM, 1, bytes(MAX_BODY))
    client.transport.send(data[:20_000])
    assert client.is_read()
    client.transport.send(data[20_000:])
    assert [len(read.body) for read in server.chat.begun] == [MAX_BODY]


def test_one_byte_at_a_time() -> None:
    """However the client cuts its bytes, the commands are the same."""
    server = Server(messages_per_second=0, bytes_per_second=0)
    client = server.sign_in()
    for byte in frame(PING, 1) + frame(IM, 2, b"text") + frame(PING, 3):
        client.transport.send(bytes([byte]))
    assert server.chat.seqs == [1, 2]
    server.chat.finish()
    assert server.chat.seqs == [1, 2, 3]
    assert server.chat.begun[1].body == b"text"


def test_reading_stops_while_too_much_is_unfinished() -> None:
    """What the server cannot begin stays in the client's TCP window, and nothing of it is lost."""
    server = Server(unfinished_commands=2)
    client = server.sign_in()
    client.send(*[frame(IM, seq, bytes(5_000)) for seq in range(1, 41)])
    assert not client.is_read()
    assert server.metrics.read_pauses.values == {"unfinished": 1}
    # One read of the transport is in, the rest waits where it is.
    assert len(client.transport.unread) == 40 * 5_012 - 65_536
    assert server.chat.seqs == [1, 2]
    while server.chat.under_way:
        server.chat.finish()
        client.send()  # what the client's TCP still holds comes when the server reads
    assert server.chat.seqs == list(range(1, 41))
    assert client.is_read()


def test_reading_stops_behind_one_that_takes_its_time() -> None:
    """The same while a command that does not store is under way."""
    server = Server()
    client = server.sign_in()
    client.send(frame(SYNC, 1), *[frame(IM, seq, bytes(5_000)) for seq in range(2, 10)])
    assert not client.is_read()
    server.chat.finish()
    assert client.is_read()
    assert server.chat.seqs == list(range(1, 10))


def test_a_little_may_wait_undecoded() -> None:
    """A few small commands behind a slow one do not stop reading."""
    server = Server()
    client = server.sign_in()
    client.send(frame(SYNC, 1), *[frame(PING, seq) for seq in range(2, 1_000)])
    assert client.is_read()
    assert server.metrics.read_pauses.values == {}


def test_reading_stops_while_replies_are_not_taken() -> None:
    """A client that sends and does not read costs at most its replies and one read."""
    server = Server(reply_bytes=10_000, messages_per_second=0)
    server.chat.handlers = {PING: lambda connection, _: connection.enqueue(reply(1, 100))}
    client = server.sign_in()
    client.connection.pauseProducing()
    client.send(*[frame(PING, seq) for seq in range(1, 20_001)])
    assert not client.is_read()
    assert server.metrics.read_pauses.values == {"replies": 1}
    assert len(client.transport.unread) > 170_000
    client.connection.resumeProducing()
    for _ in range(100):
        client.take()
        client.send()
    received = client.read()
    assert server.chat.seqs == list(range(1, 20_001))
    assert [read.seq for read in received] == list(range(1, 20_001))
    assert client.is_read()


def test_no_more_is_done_than_its_answers_may_take() -> None:
    """Of what came in one read, only so much is carried out as fits into the cap, each time that the rest was taken."""
    server = Server(reply_bytes=2_000)
    server.chat.handlers = {PING: lambda connection, read: connection.enqueue(reply(read.seq, 100))}
    client = server.sign_in()
    client.connection.pauseProducing()
    client.send(*[frame(PING, seq) for seq in range(1, 101)])
    assert server.chat.seqs == [1, 2, 3, 4]
    client.connection.resumeProducing()
    received = client.read()
    assert [key_of(read) for read in received] == list(range(1, 101))
    assert client.is_read()
    client.send(frame(PING, 101))
    assert server.chat.seqs[-1] == 101


def test_small_answers_count_with_what_holds_them() -> None:
    """A thousand of the smallest take half a megabyte of memory, not the 12 KB that they are on the wire."""
    server = Server(messages_per_second=0)
    server.chat.handlers = {PING: lambda connection, _: connection.enqueue(PONG)}
    client = server.sign_in()
    client.connection.pauseProducing()
    client.send(*[frame(PING, seq) for seq in range(1, 1_001)])
    assert 400 < len(server.chat.seqs) < 600
    assert not client.is_read()


def test_reading_stops_over_the_pace_of_messages() -> None:
    """A client may be a second ahead of its pace; then it is read at its pace, and nothing is lost."""
    server = Server(messages_per_second=100)
    client = server.sign_in()
    client.send(*[frame(PING, seq, bytes(1_000)) for seq in range(1, 1_001)])
    assert not client.is_read()
    assert server.metrics.read_pauses.values["rate"] == 1
    began = server.clock.seconds()
    while client.transport.unread:
        assert server.clock.seconds() - began < 20
        before = len(server.chat.begun)
        server.clock.advance(0.1)
        client.send()
        assert len(server.chat.begun) - before <= 70, "more than one read at a time"
    assert server.chat.seqs == list(range(1, 1_001))
    assert 8 < server.clock.seconds() - began < 10


def test_reading_stops_over_the_pace_of_bytes() -> None:
    """The same by bytes, also where they are not yet a frame."""
    server = Server(bytes_per_second=10_000)
    client = server.sign_in()
    client.send(*[frame(IM, seq, bytes(9_988)) for seq in range(1, 11)])
    assert not client.is_read()
    began = server.clock.seconds()
    while client.transport.unread:
        assert server.clock.seconds() - began < 20
        server.clock.advance(0.1)
        client.send()
    assert 4 < server.clock.seconds() - began < 9
    while server.chat.under_way:
        server.chat.finish()
    assert server.chat.seqs == list(range(1, 11))


def test_who_keeps_to_the_pace_is_never_stopped() -> None:
    """At its pace a client is read without a pause, however long it goes on."""
    server = Server(messages_per_second=100, bytes_per_second=0)
    client = server.sign_in()
    for seq in range(1_000):
        client.send(frame(PING, seq))
        server.clock.advance(0.01)
    assert server.metrics.read_pauses.values == {}


def test_no_pace() -> None:
    """0 means no limit."""
    server = Server(messages_per_second=0, bytes_per_second=0)
    client = server.sign_in()
    client.send(*[frame(PING, seq, bytes(100)) for seq in range(10_000)])
    assert len(server.chat.begun) == 10_000
    assert server.metrics.read_pauses.values == {}


def test_pauses_of_several_kinds_end_when_the_last_does() -> None:
    """Reading goes on only when no reason is left against it."""
    server = Server(messages_per_second=10, reply_bytes=1_000)
    server.chat.handlers = {PING: lambda connection, _: connection.enqueue(reply(1, 1_000))}
    client = server.sign_in()
    client.connection.pauseProducing()
    client.send(*[frame(PING, seq) for seq in range(30)])
    assert not client.is_read()
    client.connection.resumeProducing()
    client.read()
    assert not client.is_read(), "its replies are taken, but it is ahead of its pace"
    server.pass_time(3)
    assert client.is_read()
    assert sorted(server.metrics.read_pauses.values) == ["rate", "replies"]


def test_the_timer_of_a_pause_ends_with_the_connection() -> None:
    """A connection that is lost while reading is stopped leaves no timer."""
    server = Server(messages_per_second=10)
    client = server.sign_in()
    client.send(*[frame(PING, seq) for seq in range(100)])
    assert len(server.clock.getDelayedCalls()) == 1
    client.transport.lose()
    assert server.clock.getDelayedCalls() == []


# What the protocol forbids, and what goes wrong.


@pytest.mark.parametrize("length", [-1, MAX_BODY + 1, 2**31 - 1, -(2**31)])
def test_a_length_that_cannot_be(length: int) -> None:
    """The connection is closed as soon as the header is there, and the kind is counted."""
    server = Server()
    client = server.sign_in()
    client.send(frame(PING, 1), length.to_bytes(4, signed=True) + bytes(8), frame(PING, 2))
    assert server.chat.seqs == [1]
    assert client.is_closed()
    assert server.metrics.protocol_errors.values == {"length": 1}
    assert server.metrics.closed.values == {"protocol": 1}


def test_the_domain_refuses_a_frame() -> None:
    """A ProtocolError of the domain closes, after what was answered before has left."""
    server = Server()

    def refuse(_connection: IConnection, _read: Frame) -> None:
        raise ProtocolError("command", "not a client's to send")

    server.chat.handlers = {PING: pong, Command.SYSTEM: refuse}
    client = server.sign_in()
    client.send(frame(PING, 1), frame(Command.SYSTEM, 2), frame(PING, 3))
    assert server.chat.seqs == [1, 2]
    assert server.metrics.protocol_errors.values == {"command": 1}
    assert commands(client.read()) == [Command.PONG]
    assert client.is_gone()


@pytest.mark.parametrize(
    ("command", "how"),
    [(IM, "raises"), *((command, how) for command in (SYNC, PING) for how in ("raises", "failed", "fails"))],
)
def test_a_bug_costs_the_client_its_connection(
    command: Command, how: str, flush_logged_errors: FlushLoggedErrors
) -> None:
    """An exception, or a Deferred that fails, in the domain closes this connection only, and is logged once."""
    server = Server()
    other = server.sign_in()
    client = server.sign_in()
    pending: Deferred[None] = Deferred()

    def handle(_connection: IConnection, _read: Frame) -> Deferred[None]:
        if how == "raises":
            raise ZeroDivisionError
        return fail(ZeroDivisionError()) if how == "failed" else pending

    server.chat.handlers = {command: handle}
    client.send(frame(command, 1), frame(command, 2))
    if how == "fails":
        pending.errback(ZeroDivisionError())
        server.chat.handlers = {}
    assert client.is_closed()
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert server.metrics.closed.values == {"internal_error": 1}
    assert server.chat.seqs == [1]
    client.read()
    assert client.transport.disconnected
    assert not other.is_closed()
    server.chat.handlers = {PING: pong}
    other.send(frame(PING, 3))
    assert commands(other.read()) == [Command.PONG]


def test_nothing_is_begun_after_a_close() -> None:
    """A command that closes its connection is the last that is carried out."""
    server = Server()
    server.chat.handlers = {PING: lambda connection, _: connection.close("kicked")}
    client = server.sign_in()
    client.send(frame(PING, 1), frame(PING, 2), frame(IM, 3))
    client.send(frame(PING, 4))
    assert server.chat.seqs == [1]
    assert server.metrics.closed.values == {"kicked": 1}


def test_what_is_under_way_may_finish_after_the_end() -> None:
    """Commands that finish when their connection is gone hurt nobody, and nothing follows them."""
    server = Server(unfinished_commands=2)
    client = server.sign_in()
    client.send(frame(IM, 1), frame(IM, 2), frame(IM, 3), frame(SYNC, 4))
    waiting = client.connection.drained()
    assert waiting is None
    client.transport.lose()
    server.chat.finish()
    server.chat.finish()
    assert server.chat.seqs == [1, 2]


# Deadlines.


def test_who_does_not_sign_in() -> None:
    """A connection that has not signed in in its time is closed, also if it pings."""
    server = Server()
    client = server.connect()
    for _ in range(29):
        client.send(frame(PING))
        server.pass_time(1)
    assert not client.is_closed()
    server.pass_time(1)
    assert client.transport.disconnected or client.transport.disconnecting
    assert server.metrics.closed.values == {"sign_in_timeout": 1}


def test_a_sign_in_under_way_is_not_cut_off() -> None:
    """A directory that takes long is not the client's fault; but what follows a sign-in that failed is."""
    server = Server()
    client = server.connect()
    server.pass_time(29)
    client.send(frame(AUTH))
    server.pass_time(5)
    assert not client.is_closed()
    server.chat.finish()  # and nobody signed in
    server.pass_time(16)
    assert client.is_closed()


def test_an_idle_client() -> None:
    """Who has sent nothing for its time is closed; any byte counts, and only it."""
    server = Server()
    client = server.sign_in()
    server.pass_time(300)
    client.send(frame(PING))
    client.connection.enqueue_non_block(live(1))
    client.read()
    server.pass_time(359)
    assert not client.is_closed()
    server.pass_time(2)
    assert client.is_closed()
    assert server.metrics.closed.values == {"idle": 1}


def test_who_is_not_read_is_not_idle() -> None:
    """While the server does not read, a client cannot be heard; when it is read again it has its time."""
    server = Server(reply_bytes=1_000)
    server.chat.handlers = {PING: lambda connection, _: connection.enqueue_many([reply(1, 30_000)] * 10)}
    client = server.sign_in()
    client.connection.enqueue_many([reply(1, 30_000)] * 3)
    server.settle()
    client.send(frame(PING))
    assert not client.is_read()
    for _ in range(40):
        server.pass_time(10)
        client.transport.drain(1_000)
        assert not client.is_read()
    assert not client.is_closed()
    client.read()
    assert client.is_read()
    server.pass_time(1)
    assert not client.is_closed()
    server.pass_time(361)
    assert server.metrics.closed.values == {"idle": 1}


def stall(server: Server, client: Client) -> None:
    """Fill the client's connection until its transport says pause."""
    for _ in range(3):
        client.connection.enqueue(reply(1, 30_000))
    server.settle()
    assert client.transport.producerPaused


def test_a_client_that_takes_nothing() -> None:
    """Who has not taken a byte for its time is cut off, at once and for good."""
    server = Server()
    client = server.sign_in()
    stall(server, client)
    server.pass_time(59)
    assert not client.is_closed()
    server.pass_time(16)
    assert client.is_cut_off()
    assert client.transport.disconnected
    assert server.metrics.closed.values == {"stalled": 1}
    assert client.connection not in server.listeners.connections


def test_a_slow_client_is_not_stalled() -> None:
    """A byte now and then is progress, also where the transport stays full all the time."""
    server = Server()
    client = server.sign_in()
    stall(server, client)
    for _ in range(30):
        client.send(frame(PING))
        server.pass_time(40)
        assert client.transport.producerPaused
        client.transport.drain(1)
    assert not client.is_closed()
    server.pass_time(76)
    assert client.is_cut_off()


def test_a_live_client_is_left_alone() -> None:
    """A client that keeps its pings up is looked at when it could be idle at the earliest, not every few seconds."""
    server = Server()
    client = server.sign_in()
    looks = 0
    for _ in range(20):
        client.send(frame(PING))
        before = client.connection.deadline
        server.pass_time(90)
        looks += client.connection.deadline != before
    assert not client.is_closed()
    assert looks < 8


def test_a_stall_does_not_shorten_the_time_to_sign_in() -> None:
    """A deadline is brought forward by what it is for, not by another's."""
    server = Server(sign_in_seconds=200)
    client = server.connect()
    stall(server, client)
    client.read()
    server.pass_time(199)
    assert not client.is_closed()
    server.pass_time(1)
    assert server.metrics.closed.values == {"sign_in_timeout": 1}


def test_trouble_in_a_sweep(flush_logged_errors: FlushLoggedErrors) -> None:
    """An exception over one connection ends that one, and does not keep the others from their deadlines."""
    server = Server()
    clients = [server.connect() for _ in range(3)]

    def broken(_now: float) -> None:
        raise ZeroDivisionError

    class Broken(type(clients[1].connection)):  # type: ignore[misc]  # a class that is known only now
        __slots__ = ()
        overdue = staticmethod(broken)

    for client in clients[:2]:
        client.connection.__class__ = Broken
    server.pass_time(30)
    assert clients[2].connection.closed
    assert len(flush_logged_errors(ZeroDivisionError)) == 2
    assert clients[0].is_cut_off()


# Its end.


def test_a_refused_client_is_held_and_then_closed() -> None:
    """AUTH_STATUS 1, then nothing is read, then the connection is closed: a client that reconnects at once is held."""
    server = Server()
    server.chat.handlers = {AUTH: lambda connection, _: connection.refuse(), PING: pong}
    client = server.connect()
    client.send(frame(AUTH, 1), frame(AUTH, 2), frame(PING, 3))
    assert server.chat.seqs == [1]
    received = client.read()
    assert commands(received) == [Command.AUTH_STATUS]
    assert AuthStatus.decode(received[0].body, 2).status == 1
    assert not client.is_read()
    client.send(frame(PING, 4), bytes(10_000))
    server.pass_time(4)
    assert not client.is_closed()
    server.pass_time(1)
    client.read()
    assert client.is_gone()
    assert server.chat.seqs == [1]
    assert server.metrics.closed.values == {"refused": 1}


def test_refusing_counts_against_the_address() -> None:
    """Too many failures, and the address may not try for a while; others may."""
    server = Server(failed_sign_ins_per_address=3)
    server.chat.handlers = {AUTH: lambda connection, _: connection.refuse()}
    for _ in range(3):
        client = server.connect("192.0.2.7")
        assert client.connection.may_sign_in()
        client.send(frame(AUTH))
    assert not server.connect("192.0.2.7").connection.may_sign_in()
    assert server.connect("192.0.2.8").connection.may_sign_in()


def test_a_held_client_costs_nothing() -> None:
    """What had come and will not be carried out is let go of, not kept as long as the client is held."""
    server = Server(unfinished_commands=1)
    client = server.sign_in()
    client.send(frame(IM, 1), frame(IM, 2, bytes(30_000)), frame(IM, 3, bytes(30_000)))
    client.connection.close_later("kicked")
    assert client.connection._frame_held is None
    assert len(client.connection._decoder) == 0
    server.chat.finish()
    assert server.chat.seqs == [1]


def test_close_later_once() -> None:
    """The first reason counts, and later ones do not lengthen the time."""
    server = Server()
    client = server.sign_in()
    client.connection.close_later("first")
    server.pass_time(3)
    client.connection.close_later("second")
    server.pass_time(2)
    assert client.is_closed()
    client.connection.close_later("third")
    client.connection.close("fourth")
    assert server.metrics.closed.values == {"first": 1}


def test_close_flushes_what_is_queued() -> None:
    """Everything that was enqueued leaves before the connection is closed, also more than a transport wants at once."""
    server = Server()
    client = server.sign_in()
    client.connection.enqueue_many([reply(key, 20_000) for key in range(1, 31)])
    client.connection.close("stopping")
    client.connection.enqueue(PONG)
    client.connection.enqueue_non_block(live(1))
    received = client.read()
    assert [key_of(read) for read in received] == list(range(1, 31))
    assert client.is_gone()


def test_close_of_a_slow_client_gives_it_time() -> None:
    """A client that has not read for a moment still gets what waits for it, and the notify of what was dropped."""
    server = Server(queue_messages=1)
    client = server.sign_in()
    stall(server, client)
    client.connection.enqueue_non_block(stored(5))
    client.connection.enqueue_non_block(stored(6))
    client.connection.close("stopping")
    assert not client.transport.disconnected
    assert commands(client.read())[3:] == [Command.SYNC_NOTIFY, Command.METADATA, IM, Command.SYNC_NOTIFY]
    assert client.is_gone()


def test_who_does_not_take_the_rest_is_cut_off() -> None:
    """A closing connection has a few seconds to take what is left; then it is aborted, once."""
    server = Server()
    client = server.sign_in()
    stall(server, client)
    client.connection.close("stopping")
    server.pass_time(4)
    assert not client.is_cut_off()
    server.pass_time(2)
    assert client.is_cut_off()
    assert client.transport.disconnected
    assert server.metrics.closed.values == {"stopping": 1}
    assert server.chat.gone == [client.connection]


def test_nothing_is_left_of_a_lost_connection() -> None:
    """The domain is told once; the address, the list of connections and the timer are free again."""
    server = Server(connections_per_address=1, messages_per_second=10)
    client = server.sign_in()
    client.connection.enqueue(PONG)
    waiting = client.connection.drained()
    assert waiting is not None
    client.send(*[frame(PING, seq) for seq in range(100)], frame(SYNC, 100))
    client.transport.lose()
    client.transport.lose()
    assert waiting.called
    assert client.is_closed()
    assert server.chat.gone == [client.connection]
    assert server.listeners.connections == set()
    server.settle()
    assert server.clock.getDelayedCalls() == []
    assert not server.connect().connection.closed


def test_a_closed_connection_that_is_lost_is_told_once() -> None:
    """Closing, aborting and losing are one end to the domain."""
    server = Server()
    client = server.sign_in()
    client.connection.close("kicked")
    client.read()
    server.pass_time(10)
    assert server.chat.gone == [client.connection]


def test_connections_are_numbered_and_counted() -> None:
    """Numbers are never used twice; the gauge shows who is there, by transport."""
    server = Server()
    first, second = server.connect(), server.connect()
    first.transport.lose()
    third = server.connect()
    numbers = [client.connection.number for client in (first, second, third)]
    assert len(set(numbers)) == 3
    assert server.metrics.connections.read() == {"tcp": 2, "websocket": 0}
    assert server.metrics.accepted.values == {"tcp": 3}


# Stopping the server.


def test_drain_finishes_what_is_under_way() -> None:
    """When the server stops nothing more is read, what is stored is answered, and clients get their answers."""
    server = Server()
    client = server.sign_in()
    idle = server.sign_in()

    def store(connection: IConnection, read: Frame) -> Deferred[None]:
        return server.chat.wait(connection, read).addCallback(lambda _: connection.enqueue(reply(read.seq)))

    server.chat.handlers = {IM: store}
    client.send(frame(IM, 1), frame(IM, 2))
    done = Deferred.fromCoroutine(server.listeners.drain(10))
    client.send(frame(IM, 3))
    server.clock.advance(0.1)
    idle.read()
    assert idle.transport.disconnected
    server.chat.finish()
    server.clock.advance(0.1)
    assert not client.is_closed()
    server.chat.finish()
    server.clock.pump([0.02] * 5)
    assert [key_of(read) for read in client.read()] == [1, 2]
    assert client.transport.disconnected
    server.clock.pump([0.02] * 5)
    assert done.called
    assert server.chat.seqs == [1, 2]


def test_a_sweep_does_not_cut_a_drain_short() -> None:
    """What is in storage has all of the time that the server has, though sweeps go on."""
    server = Server()
    server.chat.handlers = {
        IM: lambda connection, read: server.chat.wait(connection, read).addCallback(
            lambda _: connection.enqueue(reply(read.seq))
        )
    }
    client = server.sign_in()
    client.send(frame(IM, 1))
    done = Deferred.fromCoroutine(server.listeners.drain(10))
    server.pass_time(8)
    server.chat.finish()
    server.pass_time(1)
    assert [key_of(read) for read in client.read()] == [1]
    assert client.is_gone()
    server.pass_time(1)
    assert done.called


def test_drain_waits_only_so_long() -> None:
    """A client that takes nothing holds nobody up for longer than its time."""
    server = Server()
    client = server.sign_in()
    stall(server, client)
    done = Deferred.fromCoroutine(server.listeners.drain(10))
    server.clock.pump([0.5] * 19)
    assert not client.is_closed()
    server.clock.pump([0.5, 0.1])
    assert client.is_cut_off()
    assert client.transport.disconnected
    assert done.called
