"""One client, whatever its transport: who it is, whose turn it is among its commands, and what it may cost."""

from collections.abc import Iterator
from fcntl import ioctl
from itertools import count
from sys import byteorder
from termios import TIOCOUTQ
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.interfaces import IChat, IConnection, WallClock
from imserver.metrics import Metrics
from imserver.model import Limits, SignIn, Unit, UserKey
from imserver.net.limits import Admission
from imserver.net.outqueue import FlushSchedule, OutQueue
from imserver.protocol.commands import NEWEST_VERSION
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import Frame, FrameDecoder
from imserver.protocol.messages import AuthStatus

#: Bytes that may wait undecoded before reading stops. (One read of the transport, 64 KiB, can come on top.)
_UNDECODED: Final = 16384
#: Seconds of its pace that a client may be ahead.
_BURST: Final = 1.0
#: Seconds for which reading stops at least, so that pausing stays cheap.
_BREATH: Final = 0.02
#: Seconds that a closing connection gets to take what is queued.
_LINGER: Final = 5.0
#: Seconds between two looks at the connections when the server stops.
_LOOK_AGAIN: Final = 0.02
_REFUSED: Final = Unit((AuthStatus(1).frame(),))


class Listeners:
    """What the connections of all transports share, and all of them."""

    _log = Logger()

    def __init__(
        self,
        chat: IChat,
        limits: Limits,
        metrics: Metrics,
        clock: IReactorTime,
        now: WallClock,
    ) -> None:
        self.chat = chat
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.now = now
        self.admission = Admission(limits, metrics, clock)
        self.schedule = FlushSchedule(clock)
        self.numbers: Iterator[int] = count(1)
        self.connections: set[Connection] = set()
        metrics.connections.read = self._count

    def sweep(self) -> None:
        """To be called once a second: end what has had its time. One loop, rather than a timer a connection."""
        now = self.clock.seconds()
        for connection in [c for c in self.connections if c.deadline <= now]:
            try:
                connection.overdue(now)
            except Exception:  # one connection's trouble must not lift the deadlines of all others
                self._log.failure("ending connection {number} failed", number=connection.number)
                connection.write_failed()

    async def drain(self, seconds: float) -> None:
        """End all connections, and lose nothing that a client which reads could still get.

        Nothing more is read; what is in storage is finished and answered; a client gets up to `seconds` to take what
        waits for it, and is closed when it has; one that does not go then is cut off.
        """
        end = self.clock.seconds() + seconds
        for connection in list(self.connections):
            if not connection.closed:
                connection.close_later("stopping")
                connection.deadline = end
        while self.connections and self.clock.seconds() < end:
            for connection in list(self.connections):
                if connection.is_quiet():
                    connection.close("stopping")
            await deferLater(self.clock, _LOOK_AGAIN)
        for connection in list(self.connections):
            connection.close("stopping")
        if self.connections:  # one more moment, for the good-bye to who would take it
            await deferLater(self.clock, _LOOK_AGAIN)
        for connection in list(self.connections):
            connection.write_failed()

    def _count(self) -> dict[str, float]:
        counts: dict[str, float] = {"tcp": 0, "websocket": 0}
        for connection in self.connections:
            counts[connection.transport_name] += 1
        return counts


@implementer(IConnection)
class Connection(OutQueue):
    """See `IConnection`. A transport calls `heard`, `frames_received`, `connection_lost` and the producer's methods."""

    __slots__ = (
        "_ahead_until",
        "_decoder",
        "_frame_held",
        "_listeners",
        "_pause_reason",
        "_reading_stopped",
        "_replies_awaited",
        "_resume_call",
        "_stalled_since",
        "_turn_taken",
        "_unfinished",
        "_unsent",
        "_working",
        "address",
        "appid",
        "deadline",
        "device",
        "device_id",
        "forbidden",
        "heard_at",
        "notification_on",
        "number",
        "platform_id",
        "room",
        "signed_in_at",
        "uid",
        "user",
    )

    _log = Logger()

    transport_name: ClassVar[str]

    def __init__(self, transport: Any, address: str, listeners: Listeners) -> None:
        super().__init__(transport, listeners.schedule, listeners.limits, listeners.metrics)
        self._listeners = listeners
        self.number = next(listeners.numbers)
        self.address = address
        self.user: UserKey | None = None
        self.appid = 0
        self.uid = 0
        self.device = 0
        self.device_id = ""
        self.platform_id = 0
        self.forbidden = False
        self.notification_on = False
        self.room = 0
        self.signed_in_at = 0.0
        self._decoder = FrameDecoder()
        #: A frame whose turn has not come.
        self._frame_held: Frame | None = None
        #: Commands that store, under way.
        self._unfinished = 0
        #: A command is under way for which all others wait.
        self._turn_taken = False
        self._working = False
        #: Why nothing more will ever be read; "" while it may.
        self._reading_stopped = ""
        self._pause_reason = ""
        #: What `_replies_taken` waits for.
        self._replies_awaited: Deferred[None] | None = None
        self._ahead_until = 0.0
        self._resume_call: Any = None
        now = listeners.clock.seconds()
        self.heard_at = now
        self._stalled_since = 0.0
        self._unsent = 0
        #: When `overdue` is to look at this connection, at the latest.
        self.deadline = now + listeners.limits.sign_in_seconds
        listeners.connections.add(self)
        listeners.metrics.accepted.inc(self.transport_name)

    # Coming in.

    def frames_received(self, data: bytes) -> None:
        """Bytes of frames, in any split. The transport has told of them by `heard`."""
        if self.closed or self._reading_stopped:
            return
        self._decoder.feed(data)
        self._work()

    def _work(self) -> None:
        """Carry out commands for as long as it is their turn."""
        if self._working:
            return  # a command that finished at once; the loop below goes on with the next
        self._working = True
        done = 0
        most_replies = self._limits.reply_bytes
        try:
            while not self._turn_taken and not self._reading_stopped and self._reply_bytes <= most_replies:
                frame = self._frame_held or self._decoder.next_frame()
                if frame is None or not self._begin(frame):
                    self._frame_held = frame
                    break
                self._frame_held = None
                done += 1
        except ProtocolError as error:
            self.protocol_error(error)
        except Exception:  # the boundary: a bug costs this client its connection, and nobody else anything
            self._command_failed(Failure())
        finally:
            self._working = False
        if done:
            self._charge_messages(done)
        self._pace_reading()

    def _begin(self, frame: Frame) -> bool:
        """Carry out one command, unless its turn has not come."""
        chat = self._listeners.chat
        if self._unfinished and not (
            self._unfinished < self._limits.unfinished_commands and chat.is_pipelined(frame.command)
        ):
            return False
        if self.user is None:
            self.version = min(frame.version, NEWEST_VERSION)
        self._metrics.frames_in.counts[frame.command] += 1
        under_way = chat.handle(self, frame)
        if under_way is not None:
            self._turn_taken = True
            under_way.addCallbacks(self._turn_over, self._command_failed)
        return True

    def command_began(self) -> None:
        self._unfinished += 1

    def command_ended(self) -> None:
        self._unfinished -= 1
        if self._frame_held is not None and not self.closed:
            self._work()

    def _turn_over(self, _: None) -> None:
        self._turn_taken = False
        if not self.closed:
            self._work()

    def _command_failed(self, failure: Failure) -> None:
        self._log.failure("a command of connection {number} failed", failure=failure, number=self.number)
        self.close("internal_error")

    def protocol_error(self, error: ProtocolError, reason: str = "protocol") -> None:
        """The peer sent what the protocol forbids: close, for `reason`."""
        self._metrics.protocol_errors.inc(error.kind)
        self._log.debug(
            "connection {number} from {address} breaks the protocol: {reason}",
            number=self.number,
            address=self.address,
            reason=error.text,
        )
        self.close(reason)

    # How fast it may come in.

    def heard(self, size: int) -> None:
        """The client sent bytes, of frames or not: note when, and what they are worth of its time."""
        now = self._listeners.clock.seconds()
        self.heard_at = now
        rate = self._limits.bytes_per_second
        if rate:
            self._ahead_until = max(self._ahead_until, now) + size / rate

    def charge(self) -> None:
        """Something came that is no command but costs the server as much: it counts as a message."""
        self._charge_messages(1)
        self._pace_reading()

    def _charge_messages(self, number: int) -> None:
        rate = self._limits.messages_per_second
        if rate:
            self._ahead_until = max(self._ahead_until, self.heard_at) + number / rate

    def _pace_reading(self) -> None:
        """Stop reading while the client may not go on, and go on when it may: its own TCP window is the queue."""
        if self.closed or self._reading_stopped:
            return
        if self._reply_bytes > self._limits.reply_bytes:
            reason = "replies"
        elif len(self._decoder) > _UNDECODED and (self._turn_taken or self._frame_held is not None):
            reason = "unfinished"
        elif self._ahead_until - self.heard_at > _BURST and self._is_ahead():
            reason = "rate"
        else:
            reason = ""
        if reason == "replies":
            taken = self.drained()
            if taken is not None and taken is not self._replies_awaited:
                self._replies_awaited = taken
                taken.addCallback(self._replies_taken)
        if reason == self._pause_reason:
            return
        if reason:
            self._metrics.read_pauses.inc(reason)
            if not self._pause_reason:
                self.transport.pauseProducing()
        else:
            # Nothing could be heard of it until now.
            self.heard_at = self._listeners.clock.seconds()
            self.transport.resumeProducing()
        self._pause_reason = reason

    def _is_ahead(self) -> bool:
        """Is the client ahead of its pace now? If so, a timer looks again when it no longer is."""
        clock = self._listeners.clock
        too_far = self._ahead_until - clock.seconds() - _BURST
        if too_far <= 0:
            return False
        if self._resume_call is None:
            self._resume_call = clock.callLater(too_far + _BREATH, self._paced)
        return True

    def _paced(self) -> None:
        self._resume_call = None
        self._pace_reading()

    def _replies_taken(self, _: None) -> None:
        self._replies_awaited = None
        if not self.closed:
            self._work()

    # Who it is.

    def forwarded_for(self, address: str) -> bool:
        """A trusted proxy says who is behind it. False where that address may have no more connections."""
        if not self._listeners.admission.move(self.address, address):
            return False
        self.address = address
        return True

    def may_sign_in(self) -> bool:
        return self._listeners.admission.may_sign_in(self.address)

    def signed_in(self, sign_in: SignIn, platform: int, device: bytes, version: int) -> None:
        self.user = sign_in.user
        self.appid, self.uid = sign_in.user
        self.device = sign_in.device
        self.forbidden = sign_in.forbidden
        self.notification_on = sign_in.notification_on
        self.platform_id = platform
        self.device_id = device.decode("utf-8", "backslashreplace")
        self.version = min(version, NEWEST_VERSION)
        self.signed_in_at = self._listeners.now()
        self.deadline = self._listeners.clock.seconds() + self._limits.idle_seconds

    # Its end.

    def refuse(self) -> None:
        self._listeners.admission.sign_in_failed(self.address)
        self.enqueue(_REFUSED)
        self.close_later("refused")

    def close_later(self, reason: str) -> None:
        if self.closed or self._reading_stopped:
            return
        self._stop_reading(reason)
        self.deadline = self._listeners.clock.seconds() + self._limits.refused_hold_seconds

    def is_quiet(self) -> bool:
        """Is nothing under way, and nothing left that the client has not been given?"""
        return not (self._turn_taken or self._unfinished or self._queue or self._write_paused)

    def _stop_reading(self, reason: str) -> None:
        self._reading_stopped = reason
        self._frame_held = None
        self._decoder = FrameDecoder()
        self.transport.pauseProducing()

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self._metrics.closed.inc(reason)
        self._reading_stopped = reason
        # The transport may have all that waits, whether the client takes it or not: nothing of it is dropped any more.
        self.transport.unregisterProducer()
        self._write_paused = False
        self.flush()
        self.part()
        # The client's own good-bye is to be heard, under TLS and WebSocket.
        self.transport.resumeProducing()
        self.lose_transport(reason)

    def part(self) -> None:
        """Nothing more is for this client. It has a moment to take what was written; then it is cut off."""
        self.discard()
        self.deadline = self._listeners.clock.seconds() + _LINGER

    def lose_transport(self, reason: str) -> None:
        """Say good-bye in the transport's own way, after what was written has left."""
        self.transport.loseConnection()

    def pauseProducing(self) -> None:
        super().pauseProducing()
        now = self._listeners.clock.seconds()
        self._stalled_since = now
        self._unsent = _unsent_bytes(self.transport)
        if self.user is not None:  # who has not signed in has less time than this anyway
            self.deadline = min(self.deadline, now + self._limits.stalled_seconds)

    def overdue(self, now: float) -> None:
        """Close if this connection's time is up; else say when to look again."""
        limits = self._limits
        if self.closed:  # it had its time to take what was left
            self.transport.abortConnection()
            self.deadline = now + _LINGER
        elif self._reading_stopped:
            self.close(self._reading_stopped)
        elif self.user is None and not self._turn_taken:
            self.close("sign_in_timeout")
        elif not self._pause_reason and now - self.heard_at >= limits.idle_seconds:
            self.close("idle")
        elif self._write_paused and self._takes_nothing(now):
            self._metrics.closed.inc("stalled")
            self.write_failed()
        else:
            left = limits.idle_seconds - (now - self.heard_at)
            if self._write_paused or self.user is None:
                left = min(left, limits.stalled_seconds / 4)
            self.deadline = now + max(left, 1.0)

    def _takes_nothing(self, now: float) -> bool:
        """Has the client not taken a byte for the time that it has for that?"""
        unsent = _unsent_bytes(self.transport)
        if unsent != self._unsent:
            self._unsent = unsent
            self._stalled_since = now
        return now - self._stalled_since >= self._limits.stalled_seconds

    def connection_lost(self) -> None:
        """The transport is gone, whoever ended it."""
        listeners = self._listeners
        self.discard()
        if self._resume_call is not None:
            self._resume_call.cancel()
            self._resume_call = None
        self._frame_held = None
        self._decoder = FrameDecoder()
        listeners.connections.discard(self)
        listeners.admission.release(self.address)
        listeners.chat.lost(self)


def _unsent_bytes(transport: Any) -> int:
    """Bytes that the client has not taken, so that progress of a slow one is seen.

    Those in the kernel count too: it has room for megabytes and asks for more only when a third of that is free, which
    is minutes of a bad mobile network.
    """
    transport = getattr(transport, "transport", transport)  # under TLS: the TCP transport
    # Twisted has no other way to ask.
    unsent: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen  # noqa: SLF001
    descriptor = transport.fileno()
    if descriptor >= 0:  # it is -1 where the connection is gone
        unsent += int.from_bytes(ioctl(descriptor, TIOCOUTQ, bytes(4)), byteorder)
    return unsent
