"""The one way a message takes: store -> ACK -> push to local connections -> bus -> push queue."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.chat.backlog import Backlog
from imserver.chat.replies import ack_of_stored, refuse
from imserver.chat.rescue import Rescue
from imserver.chat.trace import Trace
from imserver.interfaces import IBus, IClientRegistry, IConnection, IPushQueue, ITimelines, Unavailable
from imserver.metrics import Metrics
from imserver.model import GROUP_TIMELINE, EntryPush, NewMessage, Push, Stored, TimelineKey, UserKey
from imserver.protocol.commands import NOT_PUSHED, AckStatus, Command, Flag
from imserver.protocol.frame import OutFrame
from imserver.protocol.messages import Metadata, SyncGroupNotify, SyncNotify, stored_frame

Result = TypeVar("Result")

#: Nobody's phone rings for them.
_SILENT = frozenset((Command.GROUP_NOTIFICATION,))


class _Sent:
    """A client's message on its way to disk: to whom the ACK goes."""

    __slots__ = ("arrived", "behind", "connection", "seq")

    def __init__(self, connection: IConnection, seq: int, arrived: float) -> None:
        self.connection = connection
        self.seq = seq
        self.arrived = arrived
        #: What becomes of the client's next messages, those that are not stored. It is due when this one is answered.
        self.behind: list[Callable[[], None]] | None = None


class Delivery:
    """Stores messages and tells everybody whom they concern."""

    _log = Logger()

    def __init__(
        self,
        timelines: ITimelines,
        registry: IClientRegistry,
        bus: IBus,
        push_queue: IPushQueue,
        metrics: Metrics,
        monotonic: Callable[[], float],
        rescue: Rescue | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._timelines = timelines
        self._registry = registry
        self._bus = bus
        self._push_queue = push_queue
        self._metrics = metrics
        self._monotonic = monotonic
        self._rescue = rescue
        self._trace = trace
        self.backlog = Backlog(metrics, monotonic)
        #: Of each client, the newest message on its way to disk.
        self._newest: dict[IConnection, _Sent] = {}

    def store_for(self, connection: IConnection, seq: int, message: NewMessage, users: tuple[UserKey, ...]) -> None:
        """Take a client's message: store it, push it, and answer: METADATA and ACK, or that it was not stored.

        Args:
            connection, seq: who sent it, and as what.
            message: it has its place in storage when this returns.
            users: whom it concerns: the members of the super group, if it stands in the timeline of one, then those in
                whose own timelines it stands, in the order of these.
        """
        before = self._newest.get(connection)
        sent = self._newest[connection] = _Sent(connection, seq, self._monotonic())
        connection.command_began()
        self.backlog.entries += len(users)
        try:
            self._timelines.store(message, partial(self._settle, message, users, sent))
        except Unavailable:
            self.backlog.entries -= len(users)
            if before is None:
                del self._newest[connection]
            else:
                self._newest[connection] = before
            self.refuse(connection, seq, AckStatus.NOT_STORED)
            connection.command_ended()

    def store(self, message: NewMessage, users: tuple[UserKey, ...]) -> Deferred[None]:
        """Store a message that no client sent, and push it. `users` as in `store_for`.

        Fires with None once it is on disk. Fails with `Unavailable`.
        """
        stored: Deferred[Stored] = Deferred()
        backlog, entries = self.backlog, len(users)

        def over(result: Result) -> Result:
            backlog.entries -= entries
            backlog.let_in()
            return result

        backlog.entries += entries
        try:
            self._timelines.store(message, stored.callback)
        except Unavailable:
            stored.errback()
        arrived = self._monotonic()
        return stored.addCallback(self._tell, message, users, None, arrived).addBoth(over)

    def refuse(self, connection: IConnection, seq: int, status: AckStatus) -> None:
        """Answer a client's message that is not accepted, in its turn."""
        if self._trace is not None:
            self._trace.refused(connection, seq, status)
        self.in_turn(connection, partial(refuse, connection, seq, status, self._metrics))

    def in_turn(self, connection: IConnection, do: Callable[[], None]) -> None:
        """Do what becomes of a client's message that is not stored, once those before it are answered (protocol.md,
        Order)."""
        before = self._newest.get(connection)
        if before is None:
            do()
            return
        connection.command_began()
        if before.behind is None:
            before.behind = []
        before.behind.append(do)

    def _settle(self, message: NewMessage, users: tuple[UserKey, ...], sent: _Sent, result: Stored | Failure) -> None:
        """A client's message is on disk, or it is not."""
        connection = sent.connection
        backlog = self.backlog
        backlog.entries -= len(users)
        if isinstance(result, Failure):
            if result.check(Unavailable) is None:
                self._log.failure("storing a message of {user} failed", failure=result, user=connection.user)
            if self._trace is not None:
                self._trace.refused(connection, sent.seq, AckStatus.NOT_STORED)
            refuse(connection, sent.seq, AckStatus.NOT_STORED, self._metrics)
        else:
            self._tell(result, message, users, connection, sent.arrived)
            connection.enqueue(ack_of_stored(sent.seq, result, message))
            self._metrics.ack_seconds.observe(self._monotonic() - sent.arrived)
        if self._newest[connection] is sent:
            del self._newest[connection]
        behind = sent.behind or ()
        for do in behind:
            try:
                do()
            except Exception:  # a bug, and of that message's: this one is answered
                self._log.failure("what came behind a message of {user} failed", user=connection.user)
        # Now, not in between: the client is read on, and what it says next may be answered at once.
        for _ in behind:
            connection.command_ended()
        connection.command_ended()
        if backlog.waiting:
            backlog.let_in()

    def _tell(
        self,
        stored: Stored,
        message: NewMessage,
        users: tuple[UserKey, ...],
        origin: IConnection | None,
        arrived: float,
    ) -> None:
        """Tell all whom a stored message concerns, but the connection that it came from."""
        trace = self._trace
        if stored.resent:
            self._metrics.resends.inc()
            if trace is not None and origin is not None:
                trace.resent(stored, origin)
            return
        settled = self._monotonic() if trace is not None else 0.0
        told: list[IConnection] = []
        try:
            if message.timelines[0].kind == GROUP_TIMELINE:
                members = len(users) + 1 - len(message.timelines)
                offline = self._tell_super_group(users[:members], stored, message, origin, told)
                if members < len(users):
                    others = Stored(stored.message, stored.keys[1:])
                    offline += self._tell_users(users[members:], message.timelines[1:], others, message, origin, told)
            else:
                offline = self._tell_users(users, message.timelines, stored, message, origin, told)
            queued = bool(offline) and message.command not in _SILENT
            if queued:
                self._metrics.offline_pushes.inc(by=len(offline))
                self._push_queue.push(message, offline)
            if trace is not None:
                trace.stored(stored, message, origin, arrived, settled, told, offline, queued)
        except Exception:  # a bug, but the message is on disk, and its sender must not hear otherwise
            self._log.failure("telling of stored message {number} failed", number=stored.message)

    def _tell_users(
        self,
        users: tuple[UserKey, ...],
        timelines: tuple[TimelineKey, ...],
        stored: Stored,
        message: NewMessage,
        origin: IConnection | None,
        told: list[IConnection],
    ) -> list[UserKey]:
        """Those who got an entry in their own timelines, each with its key. Gives who of them is not online, and adds
        the connections that it was pushed to."""
        pushed = stored_frame(message.command, message.flag | Flag.PUSH, message.body)
        offline: list[UserKey] = []
        registry, bus, sender = self._registry, self._bus, message.sender
        for user, timeline, key in zip(users, timelines, stored.keys, strict=True):
            is_sender = user == sender
            connections = registry.connections_of(user)
            if not connections and bus.alone:  # as most of a large group
                if not is_sender:
                    offline.append(user)
                continue
            device = message.device if is_sender else 0
            push = None
            for connection in connections:
                if connection is not origin and not (device and connection.device == device):
                    if push is None:
                        push = self._push_of(stored, message, timeline, key, pushed)
                    connection.enqueue_non_block(push)
                    told.append(connection)
            if not bus.alone:
                bus.publish_to_user(user, push or self._push_of(stored, message, timeline, key, pushed), device)
            if not is_sender and self._is_offline(user, stored, message):
                offline.append(user)
        return offline

    def _tell_super_group(
        self,
        users: tuple[UserKey, ...],
        stored: Stored,
        message: NewMessage,
        origin: IConnection | None,
        told: list[IConnection],
    ) -> list[UserKey]:
        """The members of a super group, whose own timeline got an entry. Gives and adds as `_tell_users`."""
        flag = message.flag | Flag.PUSH | Flag.SUPER_GROUP
        pushed = stored_frame(message.command, flag, message.body)
        push = self._push_of(stored, message, message.timelines[0], stored.keys[0], pushed)
        offline: list[UserKey] = []
        registry, bus, sender = self._registry, self._bus, message.sender
        for user in users:
            is_sender = user == sender
            connections = registry.connections_of(user)
            if not connections and bus.alone:  # as above
                if not is_sender:
                    offline.append(user)
                continue
            device = message.device if is_sender else 0
            for connection in connections:
                if connection is not origin and not (device and connection.device == device):
                    connection.enqueue_non_block(push)
                    told.append(connection)
            if not bus.alone:
                bus.publish_to_user(user, push, device)
            if not is_sender and self._is_offline(user, stored, message):
                offline.append(user)
        return offline

    def _is_offline(self, user: UserKey, stored: Stored, message: NewMessage) -> bool:
        """Is the push queue to have this message for the user? Where not, whether they answer is watched."""
        if self._registry.is_online(user):
            if self._rescue is not None and message.command not in _SILENT:
                self._rescue.pushed(user, stored.message, message)
            return False
        return not self._bus.online_elsewhere(user)

    def _push_of(self, stored: Stored, message: NewMessage, timeline: TimelineKey, key: int, pushed: OutFrame) -> Push:
        """What connections get of an entry: the message between its key and the call to sync, or that call alone."""
        number = stored.message if self._trace is not None else 0
        if timeline.kind == GROUP_TIMELINE:
            notify = SyncGroupNotify(timeline.owner, key).frame()
            if message.command not in NOT_PUSHED:
                return Push((Metadata(key, key - 1).frame(), pushed, notify), timeline, notify, number, key)
        elif message.command not in NOT_PUSHED:
            return EntryPush(timeline, key, pushed, number)
        else:
            notify = SyncNotify(key).frame()
        return Push((notify,), timeline, notify)

    def to_user(self, user: UserKey, push: Push, origin: IConnection | None) -> None:
        """Send to the user's connections, on every node, but not to `origin`, nor to the sender's other connections of
        that device. Nothing is stored."""
        device = origin.device if origin is not None and origin.user == user else 0
        for connection in self._registry.connections_of(user):
            if connection is not origin and not (device and connection.device == device):
                connection.enqueue_non_block(push)
        self._bus.publish_to_user(user, push, device)

    def to_room(self, appid: int, room: int, push: Push, sender: UserKey, origin: IConnection | None) -> None:
        """Send to a room, on every node, but not to `origin`, nor to the sender's other connections of that device."""
        device = origin.device if origin is not None else 0
        for connection in self._registry.connections_in(appid, room):
            if connection is origin or (device and connection.device == device and connection.user == sender):
                continue
            connection.enqueue_non_block(push)
        self._bus.publish_to_room(appid, room, push, sender, device)
