"""The outgoing queue under any interleaving of what the domain and the transport do to it."""

from dataclasses import dataclass
from typing import Final

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from imserver.metrics import Metrics
from imserver.model import Limits
from imserver.net.outqueue import FlushSchedule, OutQueue
from imserver.protocol.commands import Command
from imserver.protocol.frame import Frame
from imserver.protocol.messages import IM, Metadata, RoomIM
from tests.fakes.transport import FakeTransport
from tests.unit.net.server import ALICE, key_of, live, parse, reply, stored

SLICE: Final = 65536
#: The largest unit of these tests: METADATA, a message, SYNC_NOTIFY.
LARGEST: Final = 33_000
#: Whose timelines have stored pushes. The keys of the second begin far above those of the first.
USERS: Final = (ALICE, ALICE._replace(uid=2))
SECOND: Final = 1_000_000

sizes = st.one_of(st.integers(8, 200), st.integers(200, 32_000))


@dataclass(frozen=True)
class Reply:
    number: int


@dataclass(frozen=True)
class Live:
    number: int


@dataclass(frozen=True)
class Stored:
    key: int


@dataclass(frozen=True)
class Told:
    """SYNC_NOTIFY in place of what was dropped."""

    key: int


Given = Reply | Live | Stored | Told


class OutgoingQueue(RuleBasedStateMachine):
    """Beside the queue stands all that it was given, in order."""

    @initialize(messages=st.integers(0, 30), size=st.sampled_from([1_000, 50_000, 300_000]), version=st.integers(0, 2))
    def connect(self, messages: int, size: int, version: int) -> None:
        self.clock = MemoryReactorClock()
        self.metrics = Metrics()
        self.limits = msgspec.structs.replace(Limits(), queue_messages=messages, queue_bytes=size)
        self.transport = FakeTransport(self.clock)
        self.queue = OutQueue(self.transport, FlushSchedule(self.clock), self.limits, self.metrics)
        self.queue.version = version
        self.transport.registerProducer(self.queue, True)
        self.given: list[Given] = []
        self.newest = [1, SECOND]
        self.waiting: list[Deferred[None]] = []
        self.held_up = False

    # What the domain does.

    @rule(many=st.lists(sizes, min_size=1, max_size=20))
    def enqueue(self, many: list[int]) -> None:
        first = len(self.given)
        self.queue.enqueue_many([reply(first + at, size) for at, size in enumerate(many)])
        self.given += [Reply(first + at) for at in range(len(many))]

    @rule(size=sizes, times=st.integers(1, 10))
    def enqueue_live(self, size: int, times: int) -> None:
        for _ in range(times):
            number = len(self.given)
            self.queue.enqueue_non_block(live(number, size))
            self.given.append(Live(number))

    @rule(size=sizes, whose=st.integers(0, 1), times=st.integers(1, 10))
    def enqueue_stored(self, size: int, whose: int, times: int) -> None:
        for _ in range(times):
            self.newest[whose] += 1
            key = self.newest[whose]
            self.queue.enqueue_non_block(stored(key, size, USERS[whose]))
            self.given.append(Stored(key))

    @rule()
    def wait(self) -> None:
        waiting = self.queue.drained()
        if waiting is not None:
            self.waiting.append(waiting)

    # What time and the transport do.

    @rule()
    def flush(self) -> None:
        """The turn of the reactor ends."""
        self.clock.advance(0)

    @rule()
    def flush_early(self) -> None:
        """As a connection does that closes."""
        self.queue.flush()

    @rule(size=st.integers(1, 200_000))
    def take(self, size: int) -> None:
        """The client reads; the transport resumes its producer once it has read all."""
        self.transport.drain(size)
        self.held_up = self.held_up and self.queue._write_paused

    @rule()
    def hold_up(self) -> None:
        """A transport may say pause whenever it likes; TLS does while it shakes hands."""
        self.queue.pauseProducing()
        self.held_up = True

    @precondition(lambda self: self.held_up and not self.transport.producerPaused)
    @rule()
    def let_go(self) -> None:
        self.queue.resumeProducing()
        self.held_up = False

    # What must hold at all times.

    @invariant()
    def one_timer(self) -> None:
        assert len(self.clock.getDelayedCalls()) <= 1

    @invariant()
    def little_in_the_transport(self) -> None:
        assert self.transport.unsent <= 2 * SLICE + LARGEST

    @invariant()
    def capped(self) -> None:
        queue = self.queue
        assert queue._pushes <= self.limits.queue_messages
        assert queue._push_bytes <= self.limits.queue_bytes or queue._pushes <= 1

    @invariant()
    def who_waits_goes_on(self) -> None:
        assert self.queue._reply_bytes or all(waiting.called for waiting in self.waiting)

    @invariant()
    def writes_are_whole_units(self) -> None:
        for written in self.transport.writes[-1:]:
            units(parse(written))

    def teardown(self) -> None:
        """The client reads all there is; then everything that had to come has come, in order."""
        self.queue.resumeProducing()
        self.clock.advance(0)
        while self.transport.unsent:
            self.transport.drain()
            self.clock.advance(0)
        frames = parse(bytes(self.transport.taken))
        assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
        assert {frame.version for frame in frames} <= {self.queue.version}
        came = units(frames)
        kept = [unit for unit in came if not isinstance(unit, Told)]
        places = {unit: at for at, unit in enumerate(self.given)}
        at = [places[unit] for unit in kept]
        assert at == sorted(set(at)), "in the order in which they were given, each once"
        assert [unit for unit in kept if isinstance(unit, Reply)] == [
            unit for unit in self.given if isinstance(unit, Reply)
        ]
        assert sum(self.metrics.queue_drops.values.values()) == len(self.given) - len(kept)
        for newest, first in zip(self.newest, (1, SECOND), strict=True):
            told = [
                unit.key for unit in came if isinstance(unit, Stored | Told) and unit.key // SECOND == first // SECOND
            ]
            assert told == sorted(set(told)), "of a timeline the client never hears less than before"
            assert newest == (told[-1] if told else first), "and in the end of the newest entry"
        assert self.queue.drained() is None
        assert self.queue._queue == []
        assert (self.queue._pushes, self.queue._push_bytes, self.queue._reply_bytes) == (0, 0, 0)


def units(frames: list[Frame]) -> list[Given]:
    """The units that these frames are. Fails where one is cut, or METADATA is not directly before its message."""
    found: list[Given] = []
    rest = iter(frames)
    for frame in rest:
        if frame.command == Command.SYNC_END:
            found.append(Reply(key_of(frame)))
        elif frame.command == Command.ROOM_IM:
            found.append(Live(RoomIM.decode(frame.body, frame.version).receiver))
        elif frame.command == Command.METADATA:
            key = Metadata.decode(frame.body, frame.version).key
            message, notify = next(rest), next(rest)
            assert message.command == Command.IM
            assert message.seq == frame.seq + 1
            assert IM.decode(message.body, message.version).receiver == USERS[key // SECOND].uid
            assert notify.command == Command.SYNC_NOTIFY
            assert key_of(notify) == key
            found.append(Stored(key))
        else:
            assert frame.command == Command.SYNC_NOTIFY
            found.append(Told(key_of(frame)))
    return found


TestOutgoingQueue = OutgoingQueue.TestCase
#: An example here is long: of a long search, a tenth will do.
TestOutgoingQueue.settings = settings(max_examples=max(settings().max_examples // 10, 100))
