"""What is to leave on one connection: capped, numbered, joined into few writes, stopped while nobody takes it."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from imserver.metrics import Metrics
from imserver.model import Limits, Push, TimelineKey, Unit
from imserver.net.prompt import PromptWriter
from imserver.protocol.frame import SEQ_MASK, Envelope, OutFrame

#: Bytes of one write. A transport takes about two of them before it says pause: that much is lost to dropping.
_SLICE = 65536
#: Bytes that a waiting reply takes besides those on the wire. Of an ACK with its METADATA, that is most of it.
_REPLY = 512
#: Pushes of a connection for which an ACK may still come: clients that send any send them at once.
_UNACKNOWLEDGED = 32


class FlushSchedule:
    """One `callLater(0)` for all queues that have something to write.

    A room message makes a thousand queues ready in one turn of the reactor; one timer serves them all.
    """

    __slots__ = ("_clock", "_ready")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._ready: list[OutQueue] = []

    def add(self, queue: "OutQueue") -> None:
        if not self._ready:
            self._clock.callLater(0, self._flush)
        self._ready.append(queue)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        for queue in ready:
            queue.flush()


@implementer(IPushProducer)
class OutQueue:
    """The outgoing half of a connection.

    Replies (`enqueue`) are never dropped; pushes (`enqueue_non_block`) are, the oldest first, when there are more than
    their caps allow. All leave in the order in which they came.
    """

    __slots__ = (
        "_dropped",
        "_first_push",
        "_limits",
        "_metrics",
        "_noted",
        "_push_bytes",
        "_pushes",
        "_queue",
        "_reply_bytes",
        "_schedule",
        "_scheduled",
        "_seq",
        "_unacknowledged",
        "_waiting_for_drain",
        "_watched",
        "_write_out",
        "_write_paused",
        "closed",
        "transport",
        "version",
    )

    _log = Logger()

    def __init__(self, transport: Any, schedule: FlushSchedule, limits: Limits, metrics: Metrics) -> None:
        self.transport = transport
        #: (Not by its attributes: TLS has those of the transport under it.)
        self._write_out: Callable[[bytes], None] = (
            transport.write_now if isinstance(transport, PromptWriter) else transport.write
        )
        self.version = 0
        self.closed = False
        self._schedule = schedule
        self._limits = limits
        self._metrics = metrics
        self._queue: list[Unit] = []
        self._seq = 0
        self._pushes = 0
        self._push_bytes = 0
        self._reply_bytes = 0
        #: Nothing before this index is a push.
        self._first_push = 0
        #: SYNC_NOTIFY of the newest dropped entry of each timeline.
        self._dropped: dict[TimelineKey, OutFrame] | None = None
        #: Of the newest pushes that are to be acknowledged: under which seq they left, and their numbers.
        self._unacknowledged: list[tuple[int, int]] = []
        #: Which timeline's pushes are noted, and the keys of those that came.
        self._watched: TimelineKey | None = None
        self._noted: list[int] = []
        self._scheduled = False
        self._write_paused = False
        self._waiting_for_drain: Deferred[None] | None = None

    def enqueue(self, unit: Unit) -> None:
        if self.closed:
            return
        self._queue.append(unit)
        self._reply_bytes += unit.size + _REPLY
        if not self._scheduled:
            self._scheduled = True
            self._schedule.add(self)

    def enqueue_many(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self.enqueue(unit)

    def enqueue_non_block(self, push: Push) -> None:
        if self.closed:
            return
        self._queue.append(push)
        self._pushes += 1
        self._push_bytes += push.size
        if self._watched is not None and push.timeline == self._watched:
            self._noted.append(push.key)
        if self._pushes > self._limits.queue_messages or self._push_bytes > self._limits.queue_bytes:
            self._drop_oldest()
        if not self._scheduled:
            self._scheduled = True
            self._schedule.add(self)

    def watch_pushes(self, timeline: TimelineKey) -> None:
        self._watched = timeline
        self._noted.clear()

    def pushed_meanwhile(self) -> Collection[int]:
        noted, self._noted = self._noted, []
        self._watched = None
        return noted

    def drained(self) -> Deferred[None] | None:
        # Pushes do not count: a client that gets more of them than it reads would never see the end of its sync.
        if not self._reply_bytes:
            return None
        if self._waiting_for_drain is None:
            self._waiting_for_drain = Deferred()
        return self._waiting_for_drain

    def flush(self) -> None:
        """Write what waits, in slices, until the transport says pause."""
        self._scheduled = False
        if self._write_paused or self.closed:
            return
        try:
            if self._dropped is not None:
                self._notify_dropped()
            queue = self._queue
            if self._push_bytes + self._reply_bytes <= _SLICE:
                self._queue = []
                self._pushes = self._push_bytes = self._reply_bytes = self._first_push = 0
                self._write(queue)
            else:
                while queue and not self._write_paused:
                    self._write(self._next_slice())
        except Exception:  # one connection's trouble must not keep a thousand others waiting
            self._log.failure("writing to a connection failed")
            self._metrics.closed.inc("internal_error")
            self.write_failed()
        if not self._reply_bytes:
            self._fire_drained()

    def _next_slice(self) -> list[Unit]:
        queue = self._queue
        size = count = 0
        for unit in queue:
            size += unit.size
            count += 1
            if size >= _SLICE:
                break
        taken = queue[:count]
        del queue[:count]
        self._first_push = 0
        for unit in taken:
            if isinstance(unit, Push):
                self._pushes -= 1
                self._push_bytes -= unit.size
            else:
                self._reply_bytes -= unit.size + _REPLY
        return taken

    @property
    def envelope(self) -> Envelope:
        """What this transport wants before each frame."""
        return None

    def _write(self, units: list[Unit]) -> None:
        pieces: list[bytes] = []
        append, seq, version, envelope = pieces.append, self._seq, self.version, self.envelope
        counts = self._metrics.frames_out.counts
        for unit in units:
            seq = unit.write(append, seq, version, envelope)
            for command in unit.commands:
                counts[command] += 1
            if unit.number:
                self._unacknowledged.append((seq - 1, unit.number))
                if len(self._unacknowledged) > _UNACKNOWLEDGED:
                    del self._unacknowledged[0]
        self._seq = seq
        self._write_out(b"".join(pieces))

    def _drop_oldest(self) -> None:
        queue, limits = self._queue, self._limits
        at = self._first_push
        while self._pushes > limits.queue_messages or (self._push_bytes > limits.queue_bytes and self._pushes > 1):
            push = queue[at]
            if not isinstance(push, Push):
                at += 1
                continue
            del queue[at]
            self._watched = None
            self._noted.clear()
            self._pushes -= 1
            self._push_bytes -= push.size
            if push.timeline is not None and push.notify is not None:
                if self._dropped is None:
                    self._dropped = {}
                self._dropped[push.timeline] = push.notify
                self._metrics.queue_drops.inc("stored")
            else:
                self._metrics.queue_drops.inc("live")
        self._first_push = at

    def _notify_dropped(self) -> None:
        """Before what is left: it is newer than what was dropped, and brings its own SYNC_NOTIFY."""
        dropped, self._dropped = self._dropped or {}, None
        notify = Unit(tuple(dropped.values()))
        self._queue.insert(0, notify)
        self._reply_bytes += notify.size + _REPLY
        self._first_push = 0

    def _fire_drained(self) -> None:
        waiting, self._waiting_for_drain = self._waiting_for_drain, None
        if waiting is not None:
            waiting.callback(None)

    def discard(self) -> None:
        """Nothing leaves any more: let go of all that waits, and of who waits for it."""
        self.closed = True
        self._queue = []
        self._pushes = self._push_bytes = self._reply_bytes = 0
        self._dropped = None
        self._fire_drained()

    def write_failed(self) -> None:
        """Nothing more can be written: end the connection at once."""
        self.discard()
        self.transport.abortConnection()

    # IPushProducer: the transport tells whether the client takes bytes.

    def pushed_under(self, seq: int) -> int:
        """The number of the stored message that left under this seq; 0 where that is not remembered, or was asked
        before."""
        for place, (pushed, number) in enumerate(self._unacknowledged):
            if pushed & SEQ_MASK == seq:
                del self._unacknowledged[: place + 1]  # what left before it and was not acknowledged never will be
                return number
        return 0

    def pauseProducing(self) -> None:
        self._write_paused = True

    def resumeProducing(self) -> None:
        self._write_paused = False
        if (self._queue or self._dropped is not None) and not self._scheduled:
            self._scheduled = True
            self._schedule.add(self)

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""
