"""A connection knows which of its pushes an ACK is about."""

from twisted.internet.testing import MemoryReactorClock

from imserver.metrics import Metrics
from imserver.model import EntryPush, Limits, Push, user_timeline
from imserver.net.outqueue import FlushSchedule, OutQueue
from imserver.protocol.commands import Command
from imserver.protocol.frame import Frame
from imserver.protocol.messages import IM, Metadata, SyncGroupNotify
from tests.fakes.transport import FakeTransport
from tests.unit.net.server import ALICE, PONG, live, parse, reply


class Line:
    """A queue and the client that reads it."""

    def __init__(self) -> None:
        self.clock = MemoryReactorClock()
        self.transport = FakeTransport(self.clock)
        self.queue = OutQueue(self.transport, FlushSchedule(self.clock), Limits(), Metrics())
        self.queue.version = 2
        self.transport.registerProducer(self.queue, True)

    def read(self) -> list[Frame]:
        """All that was written so far."""
        self.clock.advance(0)
        self.transport.drain()
        return parse(bytes(self.transport.taken))


def entry(number: int) -> Push:
    """A push of a stored message of this number, into a user's timeline."""
    return EntryPush(user_timeline(ALICE), number + 1, IM(2, ALICE.uid, 0, 0, b"hello").frame(), number)


def group_entry(number: int) -> Push:
    """The same, of a super group."""
    notify = SyncGroupNotify(20, number + 1).frame()
    frames = (Metadata(number + 1, number).frame(), IM(2, 20, 0, 0, b"hello").frame(), notify)
    return Push(frames, None, notify, number)


def test_an_ack_tells_the_message() -> None:
    """By the seq of the frame that has the message itself, whatever else was written; once."""
    line = Line()
    line.queue.enqueue(PONG)
    for number in (71, 72, 73):
        line.queue.enqueue_non_block(group_entry(number) if number == 72 else entry(number))
        line.queue.enqueue(reply(9))
        line.read()
    line.queue.enqueue_non_block(live(1))
    frames = line.read()
    seqs = [frame.seq for frame in frames if frame.command == Command.IM]
    others = [frame.seq for frame in frames if frame.command != Command.IM]
    assert [line.queue.pushed_under(seq) for seq in (0, -1, *others, 1000)] == [0] * (len(others) + 3)
    assert [line.queue.pushed_under(seq) for seq in seqs] == [71, 72, 73]
    assert [line.queue.pushed_under(seq) for seq in seqs] == [0, 0, 0]


def test_numbers_begin_anew() -> None:
    """Seq is a number of 31 bits: after the last comes 0, on the wire and here."""
    line = Line()
    line.queue._seq = 2**31 - 2
    line.queue.enqueue_non_block(entry(71))
    [_metadata, message, _notify] = line.read()
    assert message.seq == 0
    assert line.queue.pushed_under(0) == 71


def test_memory_is_bounded() -> None:
    """A client that never acknowledges costs so much; and what nobody wants to know costs nothing."""
    line = Line()
    line.queue.enqueue_non_block(entry(0))
    line.read()
    assert line.queue._unacknowledged == []
    for number in range(1, 101):
        line.queue.enqueue_non_block(entry(number))
        line.read()
    assert len(line.queue._unacknowledged) == 32
    assert [line.queue.pushed_under(3 * number + 2) for number in range(1, 101)] == [0] * 68 + list(range(69, 101))
