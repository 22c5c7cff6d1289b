"""The one way a message takes: store -> ACK -> push to local connections -> bus -> push queue."""

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.chat.replies import ack_of_stored, refuse
from imserver.chat.rescue import Rescue
from imserver.interfaces import IBus, IClientRegistry, IConnection, IPushQueue, ITimelines, Unavailable
from imserver.metrics import Metrics
from imserver.model import GROUP_TIMELINE, EntryPush, NewMessage, Push, Stored, TimelineKey, UserKey
from imserver.protocol.commands import AckStatus, Command, Flag
from imserver.protocol.frame import OutFrame
from imserver.protocol.messages import Metadata, SyncGroupNotify, SyncNotify, stored_frame

#: Their entries are not pushed: clients are told that there is something to sync (protocol.md, Timelines).
_NOT_PUSHED = frozenset((Command.GROUP_NOTIFICATION, Command.SYSTEM))
#: Nobody's phone rings for them.
_SILENT = frozenset((Command.GROUP_NOTIFICATION,))


class _Sent:
    """A client's message on its way to disk: to whom the ACK goes."""

    __slots__ = ("arrived", "connection", "refusals", "seq")

    def __init__(self, connection: IConnection, seq: int, arrived: float) -> None:
        self.connection = connection
        self.seq = seq
        self.arrived = arrived
        #: Of the client's next messages, those that were refused: seq and status. They are answered when this one is.
        self.refusals: list[tuple[int, AckStatus]] | None = None


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
    ) -> None:
        self._timelines = timelines
        self._registry = registry
        self._bus = bus
        self._push_queue = push_queue
        self._metrics = metrics
        self._monotonic = monotonic
        self._rescue = rescue
        #: Of each client, the newest message on its way to disk.
        self._newest: dict[IConnection, _Sent] = {}

    def store_for(self, connection: IConnection, seq: int, message: NewMessage, users: tuple[UserKey, ...]) -> None:
        """Take a client's message: store it, push it, and answer: METADATA and ACK, or that it was not stored.

        Args:
            connection, seq: who sent it, and as what.
            message: it has its place in storage when this returns.
            users: whom it concerns: those whose timelines are the message's, in the same order, or the members of the
                super group.
        """
        before = self._newest.get(connection)
        sent = self._newest[connection] = _Sent(connection, seq, self._monotonic())
        connection.command_began()
        try:
            self._timelines.store(message, partial(self._settle, message, users, sent))
        except Unavailable:
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
        try:
            self._timelines.store(message, stored.callback)
        except Unavailable:
            stored.errback()
        return stored.addCallback(self._tell, message, users, None)

    def refuse(self, connection: IConnection, seq: int, status: AckStatus) -> None:
        """Answer a client's message that is not accepted, after those before it (protocol.md, Order)."""
        before = self._newest.get(connection)
        if before is None:
            refuse(connection, seq, status, self._metrics)
            return
        connection.command_began()
        if before.refusals is None:
            before.refusals = []
        before.refusals.append((seq, status))

    def _settle(self, message: NewMessage, users: tuple[UserKey, ...], sent: _Sent, result: Stored | Failure) -> None:
        """A client's message is on disk, or it is not."""
        connection = sent.connection
        if isinstance(result, Failure):
            if result.check(Unavailable) is None:
                self._log.failure("storing a message of {user} failed", failure=result, user=connection.user)
            refuse(connection, sent.seq, AckStatus.NOT_STORED, self._metrics)
        else:
            self._tell(result, message, users, connection)
            connection.enqueue(ack_of_stored(sent.seq, result.keys[0 if result.resent else message.own], message))
            self._metrics.ack_seconds.observe(self._monotonic() - sent.arrived)
        if self._newest[connection] is sent:
            del self._newest[connection]
        if sent.refusals is not None:
            for seq, status in sent.refusals:
                refuse(connection, seq, status, self._metrics)
                connection.command_ended()
        connection.command_ended()

    def _tell(
        self, stored: Stored, message: NewMessage, users: tuple[UserKey, ...], origin: IConnection | None
    ) -> None:
        """Tell all whom a stored message concerns, but the connection that it came from."""
        if stored.resent:
            self._metrics.resends.inc()
            return
        try:
            if message.timelines and message.timelines[0].kind == GROUP_TIMELINE:
                offline = self._tell_super_group(stored, message, users, origin)
            else:
                offline = self._tell_users(stored, message, users, origin)
            if offline and message.command not in _SILENT:
                self._metrics.offline_pushes.inc(by=len(offline))
                self._push_queue.push(message, offline)
        except Exception:  # a bug, but the message is on disk, and its sender must not hear otherwise
            self._log.failure("telling of stored message {number} failed", number=stored.message)

    def _tell_users(
        self, stored: Stored, message: NewMessage, users: tuple[UserKey, ...], origin: IConnection | None
    ) -> list[UserKey]:
        """Those who got an entry in their own timelines. Gives who of them is not online."""
        pushed = stored_frame(message.command, message.flag | Flag.PUSH, message.body)
        offline: list[UserKey] = []
        registry, bus, sender = self._registry, self._bus, message.sender
        for user, timeline, key in zip(users, message.timelines, stored.keys, strict=True):
            is_sender = user == sender
            device = message.device if is_sender else 0
            push = None
            for connection in registry.connections_of(user):
                if connection is not origin and not (device and connection.device == device):
                    if push is None:
                        push = _push(message, timeline, key, pushed)
                    connection.enqueue_non_block(push)
            if not bus.alone:
                bus.publish_to_user(user, push or _push(message, timeline, key, pushed), device)
            if not is_sender and self._is_offline(user, message):
                offline.append(user)
        return offline

    def _tell_super_group(
        self, stored: Stored, message: NewMessage, users: tuple[UserKey, ...], origin: IConnection | None
    ) -> list[UserKey]:
        """The members of a super group, whose own timeline got an entry. Gives who of them is not online."""
        flag = message.flag | Flag.PUSH | Flag.SUPER_GROUP
        pushed = stored_frame(message.command, flag, message.body)
        push = _push(message, message.timelines[0], stored.keys[0], pushed)
        offline: list[UserKey] = []
        registry, bus, sender = self._registry, self._bus, message.sender
        for user in users:
            is_sender = user == sender
            device = message.device if is_sender else 0
            for connection in registry.connections_of(user):
                if connection is not origin and not (device and connection.device == device):
                    connection.enqueue_non_block(push)
            bus.publish_to_user(user, push, device)
            if not is_sender and self._is_offline(user, message):
                offline.append(user)
        return offline

    def _is_offline(self, user: UserKey, message: NewMessage) -> bool:
        """Is the push queue to have this message for the user? Where not, whether they answer is watched."""
        if self._registry.is_online(user):
            if self._rescue is not None and message.command not in _SILENT:
                self._rescue.pushed(user, message)
            return False
        return not self._bus.online_elsewhere(user)

    def to_user(self, user: UserKey, push: Push, origin: IConnection | None) -> None:
        """Send to the user's connections, on every node, but not to `origin`. Nothing is stored."""
        for connection in self._registry.connections_of(user):
            if connection is not origin:
                connection.enqueue_non_block(push)
        self._bus.publish_to_user(user, push, 0)

    def to_room(self, appid: int, room: int, push: Push, sender: UserKey, origin: IConnection | None) -> None:
        """Send to a room, on every node, but not to `origin`, nor to the sender's other connections of that device."""
        device = origin.device if origin is not None else 0
        for connection in self._registry.connections_in(appid, room):
            if connection is origin or (device and connection.device == device and connection.user == sender):
                continue
            connection.enqueue_non_block(push)
        self._bus.publish_to_room(appid, room, push, sender, device)


def _push(message: NewMessage, timeline: TimelineKey, key: int, pushed: OutFrame) -> Push:
    """What connections get of an entry: the message between its key and the call to sync, or that call alone."""
    if timeline.kind == GROUP_TIMELINE:
        notify = SyncGroupNotify(timeline.owner, key).frame()
        if message.command not in _NOT_PUSHED:
            return Push((Metadata(key, key - 1).frame(), pushed, notify), timeline, notify)
    elif message.command not in _NOT_PUSHED:
        return EntryPush(timeline, key, pushed)
    else:
        notify = SyncNotify(key).frame()
    return Push((notify,), timeline, notify)
