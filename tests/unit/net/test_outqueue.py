"""The outgoing queue: numbering, slices, pausing, dropping, draining."""

import struct

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from imserver.metrics import Metrics
from imserver.model import EntryPush, Limits, Push, Unit, UserKey, user_timeline
from imserver.net.outqueue import FlushSchedule, OutQueue
from imserver.protocol.commands import Command
from imserver.protocol.frame import Frame, OutFrame
from imserver.protocol.messages import IM, Ack, AuthStatus, Metadata, SyncNotify
from tests.fakes.transport import FakeTransport
from tests.leaks import FlushLoggedErrors
from tests.unit.net.server import ALICE, PONG, commands, key_of, live, parse, reply, stored

SLICE = 65536


class Queues:
    """Queues that share one schedule, each with its transport."""

    def __init__(self, **limits: int) -> None:
        self.clock = MemoryReactorClock()
        self.schedule = FlushSchedule(self.clock)
        self.metrics = Metrics()
        self.limits = msgspec.structs.replace(Limits(), **limits)

    def add(self, version: int = 2) -> tuple[OutQueue, FakeTransport]:
        transport = FakeTransport(self.clock)
        queue = OutQueue(transport, self.schedule, self.limits, self.metrics)
        queue.version = version
        transport.registerProducer(queue, True)
        return queue, transport

    def settle(self) -> None:
        self.clock.advance(0)

    def read_all(self, transport: FakeTransport) -> list[Frame]:
        """The client reads until nothing more comes."""
        self.settle()
        while transport.unsent:
            transport.drain()
            self.settle()
        return parse(bytes(transport.taken))


def fill(queue: OutQueue, transport: FakeTransport, queues: Queues) -> None:
    """Write until the transport says pause."""
    while transport.unsent <= SLICE:
        queue.enqueue(reply(0, 30_000))
        queues.settle()


def test_seq_starts_at_one_and_is_consecutive_over_flushes() -> None:
    """Clients check that each frame's seq is one above the last one's, METADATA included."""
    queues = Queues()
    queue, transport = queues.add()
    queue.enqueue(PONG)
    queues.settle()
    queue.enqueue_non_block(stored(5))
    queue.enqueue(reply(9))
    queues.settle()
    frames = queues.read_all(transport)
    assert [frame.seq for frame in frames] == [1, 2, 3, 4, 5]
    assert commands(frames) == [
        Command.PONG,
        Command.METADATA,
        Command.IM,
        Command.SYNC_NOTIFY,
        Command.SYNC_END,
    ]


def test_pushes_of_a_timeline_are_noted() -> None:
    """While they are watched, and unless one of them was dropped."""
    queues = Queues(queue_messages=3)
    queue, _transport = queues.add()
    alice, other = user_timeline(ALICE), user_timeline(UserKey(7, 2))
    pushed = IM(2, 1, 0, 0, b"hello").frame()
    queue.enqueue_non_block(EntryPush(alice, 2, pushed))
    assert list(queue.pushed_meanwhile()) == []
    queue.watch_pushes(alice)
    for timeline, key in ((alice, 3), (other, 9), (alice, 4)):
        queue.enqueue_non_block(EntryPush(timeline, key, pushed))
        queues.settle()
    assert list(queue.pushed_meanwhile()) == [3, 4]
    assert list(queue.pushed_meanwhile()) == []
    queue.watch_pushes(alice)
    for key in range(5, 10):
        queue.enqueue_non_block(EntryPush(alice, key, pushed))
    assert list(queue.pushed_meanwhile()) == []


def test_a_socket_with_room_is_written_at_once() -> None:
    """The reactor need not find out first that there is room."""
    queues = Queues()
    queue, transport = queues.add()
    transport.open_window(1000)
    queue.enqueue(reply(5))
    queues.settle()
    assert [key_of(frame) for frame in parse(bytes(transport.taken))] == [5]
    assert not transport.is_writing()
    for key in range(100):
        queue.enqueue(reply(key, 100))
    queues.settle()
    assert len(transport.taken) == 1000
    assert transport.is_writing(), "the rest goes when the reactor says that there is room"
    assert [key_of(frame) for frame in queues.read_all(transport)] == [5, *range(100)]


def test_under_tls_there_is_no_socket_to_write_to() -> None:
    """A transport that knows `write` alone will do."""

    class Wrapped:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    queues, transport = Queues(), Wrapped()
    queue = OutQueue(transport, queues.schedule, queues.limits, queues.metrics)
    queue.enqueue(reply(5))
    queues.settle()
    assert [key_of(frame) for frame in parse(transport.data)] == [5]


def test_connections_number_for_themselves() -> None:
    """A unit that goes to many has on each connection that connection's own seq (nothing of it is shared)."""
    queues = Queues()
    busy, busy_transport = queues.add()
    fresh, fresh_transport = queues.add()
    for _ in range(3):
        busy.enqueue(PONG)
    push = stored(5)
    busy.enqueue_non_block(push)
    fresh.enqueue_non_block(push)
    assert [frame.seq for frame in queues.read_all(busy_transport)] == [1, 2, 3, 4, 5, 6]
    assert [frame.seq for frame in queues.read_all(fresh_transport)] == [1, 2, 3]


def test_one_timer_for_many_messages_and_many_connections() -> None:
    """A room message that goes to a thousand connections costs one timer."""
    queues = Queues()
    pairs = [queues.add() for _ in range(20)]
    for queue, _ in pairs:
        queue.enqueue(PONG)
        queue.enqueue_non_block(live(1))
        queue.enqueue_many([PONG, PONG])
    assert len(queues.clock.getDelayedCalls()) == 1
    queues.settle()
    assert [len(transport.writes) for _, transport in pairs] == [1] * 20
    assert [len(queues.read_all(transport)) for _, transport in pairs] == [4] * 20
    assert queues.clock.getDelayedCalls() == []


def test_nothing_is_written_before_the_flush() -> None:
    """What one turn of the reactor brings leaves in one write."""
    queues = Queues()
    queue, transport = queues.add()
    queue.enqueue(PONG)
    queue.enqueue_non_block(live(1))
    assert transport.writes == []
    queues.settle()
    assert len(transport.writes) == 1


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_client_gets_its_version(version: int) -> None:
    """Each client reads the header and the bodies of its own version."""
    queues = Queues()
    queue, transport = queues.add(version)
    queue.enqueue(Unit((Metadata(3, 2).frame(), Ack(7, 66).frame())))
    queue.enqueue_non_block(Push((IM(1, 2, 3, 4, b"text").frame(),)))
    frames = queues.read_all(transport)
    assert [frame.version for frame in frames] == [version] * 3
    assert Ack.decode(frames[1].body, version) == Ack(7, 66 if version == 2 else 0)
    assert len(frames[1].body) == (5 if version == 2 else 4)
    assert IM.decode(frames[2].body, version) == IM(1, 2, 0 if version == 0 else 3, 4, b"text")


def test_replies_and_pushes_keep_their_order() -> None:
    """One queue for all: what came first leaves first."""
    queues = Queues()
    queue, transport = queues.add()
    for number in range(1, 50, 2):
        queue.enqueue(reply(number))
        queue.enqueue_non_block(Push((SyncNotify(number + 1).frame(),)))
    assert [key_of(frame) for frame in queues.read_all(transport)] == list(range(1, 51))


# Caps.


def test_the_oldest_push_goes_first() -> None:
    """Over the cap by count the oldest pushes go, and they are counted."""
    queues = Queues(queue_messages=3)
    queue, transport = queues.add()
    for number in range(8):
        queue.enqueue_non_block(live(number))
    received = queues.read_all(transport)
    assert [int.from_bytes(frame.body[8:16]) for frame in received] == [5, 6, 7]
    assert queues.metrics.queue_drops.values == {"live": 5}


def test_the_cap_by_bytes() -> None:
    """Over the cap by bytes the oldest pushes go, however few there are."""
    queues = Queues(queue_bytes=10_000)
    queue, transport = queues.add()
    for number in range(8):
        queue.enqueue_non_block(live(number, 3_000))
    received = queues.read_all(transport)
    assert [int.from_bytes(frame.body[8:16]) for frame in received] == [5, 6, 7]


def test_a_push_larger_than_the_cap_passes_alone() -> None:
    """The newest push is never dropped in favour of nothing."""
    queues = Queues(queue_bytes=10_000)
    queue, transport = queues.add()
    queue.enqueue_non_block(live(1, 8_000))
    queue.enqueue_non_block(live(2, 30_000))
    assert [int.from_bytes(frame.body[8:16]) for frame in queues.read_all(transport)] == [2]


def test_replies_are_never_dropped() -> None:
    """Whatever is over its cap, all replies arrive, in order, with the pushes that are left between them."""
    queues = Queues(queue_messages=2)
    queue, transport = queues.add()
    fill(queue, transport, queues)
    before = len(parse(b"".join(transport.writes)))
    for number in range(1, 1001):
        queue.enqueue(reply(number))
        queue.enqueue_non_block(live(number))
    received = queues.read_all(transport)[before:]
    assert [key_of(frame) for frame in received if frame.command == Command.SYNC_END] == list(range(1, 1001))
    assert commands(received[-4:]) == [Command.SYNC_END, Command.ROOM_IM] * 2


def test_dropping_continues_where_it_stopped() -> None:
    """The mark below which there are no pushes stays right after flushes in between."""
    queues = Queues(queue_messages=2)
    queue, transport = queues.add()
    number = 0
    for _ in range(5):
        for _ in range(3):
            queue.enqueue(reply(0, 30_000))
        for _ in range(4):
            number += 1
            queue.enqueue_non_block(live(number))
        queues.settle()
        transport.drain(50_000)
        for _ in range(4):
            number += 1
            queue.enqueue_non_block(live(number))
    received = queues.read_all(transport)
    replies = [frame for frame in received if frame.command == Command.SYNC_END]
    pushes = [int.from_bytes(frame.body[8:16]) for frame in received if frame.command == Command.ROOM_IM]
    assert len(replies) == 15
    assert pushes == sorted(pushes)
    assert pushes[-2:] == [39, 40]
    assert len(pushes) + queues.metrics.queue_drops.values["live"] == 40


def test_who_loses_stored_pushes_gets_the_newest_notify() -> None:
    """A client whose pushes were dropped syncs: one SYNC_NOTIFY a timeline, the newest, before newer pushes."""
    queues = Queues(queue_messages=2)
    queue, transport = queues.add()
    fill(queue, transport, queues)
    already = len(parse(b"".join(transport.writes)))
    bob = ALICE._replace(uid=2)
    for key in (11, 12):
        queue.enqueue_non_block(stored(key))
        queue.enqueue_non_block(stored(key + 10, user=bob))
    for key in (13, 14):
        queue.enqueue_non_block(stored(key))
    received = [(frame.command, key_of(frame)) for frame in queues.read_all(transport)[already:]]
    assert received == [
        (Command.SYNC_NOTIFY, 12),
        (Command.SYNC_NOTIFY, 22),
        (Command.METADATA, 13),
        (Command.IM, 2),
        (Command.SYNC_NOTIFY, 13),
        (Command.METADATA, 14),
        (Command.IM, 2),
        (Command.SYNC_NOTIFY, 14),
    ]
    assert queues.metrics.queue_drops.values == {"stored": 4}


def test_a_notify_is_sent_once() -> None:
    """What was told of a lost push is not told again."""
    queues = Queues(queue_messages=1)
    queue, transport = queues.add()
    queue.enqueue_non_block(stored(5))
    queue.enqueue_non_block(stored(6))
    assert commands(queues.read_all(transport)) == [
        Command.SYNC_NOTIFY,
        Command.METADATA,
        Command.IM,
        Command.SYNC_NOTIFY,
    ]
    queue.enqueue(PONG)
    assert commands(queues.read_all(transport))[4:] == [Command.PONG]


def test_a_loss_is_told_though_nothing_else_waits() -> None:
    """Where pushes are kept not at all, a slow client still hears that there is something to sync."""
    queues = Queues(queue_messages=0)
    queue, transport = queues.add()
    fill(queue, transport, queues)
    already = len(parse(b"".join(transport.writes)))
    queue.enqueue_non_block(stored(5))
    queues.settle()
    assert [(frame.command, key_of(frame)) for frame in queues.read_all(transport)[already:]] == [
        (Command.SYNC_NOTIFY, 5)
    ]


# Slices and pausing.


def test_writing_stops_when_the_transport_pauses_and_goes_on_when_it_resumes() -> None:
    """A client that reads slowly gets everything, and the transport never holds more than about two slices."""
    queues = Queues(queue_messages=10_000, queue_bytes=100_000_000)
    queue, transport = queues.add()
    for number in range(1, 501):
        queue.enqueue(reply(number, 20_000))
    most = 0
    queues.settle()
    assert 0 < transport.unsent < 2 * SLICE
    while transport.unsent:
        transport.drain(7_777)
        queues.settle()
        most = max(most, transport.unsent)
    assert most < 2 * SLICE
    frames = parse(bytes(transport.taken))
    assert [key_of(frame) for frame in frames] == list(range(1, 501))
    assert [frame.seq for frame in frames] == list(range(1, 501))


def test_nothing_is_written_while_paused() -> None:
    """What waits may still be dropped, so it does not go into the transport's buffer."""
    queues = Queues()
    queue, transport = queues.add()
    fill(queue, transport, queues)
    writes = len(transport.writes)
    for _ in range(10):
        queue.enqueue(PONG)
        queue.enqueue_non_block(live(1))
        queues.settle()
    assert len(transport.writes) == writes
    queues.read_all(transport)
    assert len(transport.writes) == writes + 1


def test_a_unit_is_never_cut() -> None:
    """METADATA and its message are in the same write, whatever the slices."""
    queues = Queues(queue_messages=10_000, queue_bytes=100_000_000)
    queue, transport = queues.add()
    for key in range(2, 300):
        queue.enqueue_non_block(stored(key, key * 100))
    queues.read_all(transport)
    assert len(transport.writes) > 10
    for written in transport.writes:
        assert commands(parse(written)) == [Command.METADATA, Command.IM, Command.SYNC_NOTIFY] * (
            len(parse(written)) // 3
        )


# Draining.


def fired(waiting: Deferred[None] | None) -> bool:
    assert waiting is not None
    return waiting.called


def test_drained_waits_for_replies() -> None:
    """Whoever produces a long answer goes on once the transport has taken what there is."""
    queues = Queues()
    queue, transport = queues.add()
    assert queue.drained() is None
    for _ in range(10):
        queue.enqueue(reply(1, 30_000))
    waiting = queue.drained()
    assert queue.drained() is waiting
    queues.settle()
    assert not fired(waiting)
    queues.read_all(transport)
    assert fired(waiting)
    assert queue.drained() is None


def test_drained_does_not_wait_for_pushes() -> None:
    """A client whose pushes come faster than it reads must still get the next page of its sync answer."""
    queues = Queues()
    queue, transport = queues.add()
    queue.enqueue(reply(1, 30_000))
    waiting = queue.drained()
    for _ in range(100):
        for number in range(200):
            queue.enqueue_non_block(live(number, 1000))
        queues.settle()
        assert transport.producerPaused
        transport.drain(100_000)
    assert fired(waiting)


def test_drained_fires_when_the_connection_ends() -> None:
    """Nobody waits for a client that is gone."""
    queues = Queues()
    queue, _ = queues.add()
    queue.enqueue(PONG)
    waiting = queue.drained()
    queue.discard()
    assert fired(waiting)
    assert queue.closed
    assert queue.drained() is None


# The end.


def test_nothing_leaves_after_write_failed() -> None:
    """After a write that failed nothing more is written, and the connection is cut."""
    queues = Queues()
    queue, transport = queues.add()
    queue.enqueue(PONG)
    queue.write_failed()
    queue.enqueue(PONG)
    queue.enqueue_many([PONG])
    queue.enqueue_non_block(live(1))
    queues.settle()
    assert transport.writes == []
    assert transport.aborted


def test_trouble_of_one_does_not_stop_the_others(flush_logged_errors: FlushLoggedErrors) -> None:
    """An exception while one queue is flushed costs that connection, and is logged."""
    queues = Queues()
    first, _ = queues.add()
    broken, broken_transport = queues.add()
    last, last_transport = queues.add()
    first.enqueue(PONG)
    broken.enqueue(Unit((OutFrame(Command.SYSTEM, 1000, (b"", b"", b"")),)))  # the header has no room for 1000
    last.enqueue(PONG)
    queues.settle()
    assert broken.closed
    assert broken_transport.aborted
    assert commands(queues.read_all(last_transport)) == [Command.PONG]
    assert len(flush_logged_errors(struct.error)) == 1
    assert queues.metrics.closed.values == {"internal_error": 1}


def test_frames_out_are_counted() -> None:
    """Every frame that is written counts under its command, METADATA too."""
    queues = Queues()
    queue, transport = queues.add()
    queue.enqueue(Unit((AuthStatus(0).frame(),)))
    queue.enqueue_non_block(stored(5))
    queues.read_all(transport)
    counts = queues.metrics.frames_out.counts
    assert {command: number for command, number in enumerate(counts) if number} == {
        Command.AUTH_STATUS: 1,
        Command.METADATA: 1,
        Command.IM: 1,
        Command.SYNC_NOTIFY: 1,
    }


def test_the_timeline_of_a_push_is_the_users() -> None:
    """What these tests take for a stored push is one."""
    push = stored(5)
    assert push.timeline == user_timeline(ALICE)
    assert push.notify is push.frames[-1]
