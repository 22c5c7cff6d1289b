"""The one way a message takes: store -> ACK -> push to local connections -> bus -> push queue."""

from collections.abc import Callable

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.chat.replies import ack_with_keys, refuse
from imserver.interfaces import IBus, IClientRegistry, IConnection, IPushQueue, ITimelines, Unavailable
from imserver.metrics import Metrics
from imserver.model import NewMessage, Push, Stored, UserKey
from imserver.protocol.commands import AckStatus, Flag
from imserver.protocol.messages import Metadata, SyncNotify, stored_frame


class Origin(msgspec.Struct):
    """The client's message that is being delivered: to whom the ACK goes, and who need not be told."""

    connection: IConnection
    seq: int
    arrived: float
    #: Of the client's next messages, those that were refused: they are answered when this one is.
    refusals: list[Deferred[None]] | None = None


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
    ) -> None:
        self._timelines = timelines
        self._registry = registry
        self._bus = bus
        self._push_queue = push_queue
        self._metrics = metrics
        self._monotonic = monotonic
        #: Of each client, the newest message on its way to disk.
        self._newest: dict[IConnection, Origin] = {}

    def store_for(
        self, connection: IConnection, seq: int, message: NewMessage, users: tuple[UserKey, ...]
    ) -> Deferred[None]:
        """Store a client's message, push it, and answer: METADATA and ACK, or that it was not stored.

        Args:
            connection, seq: who sent it, and as what.
            message: its timelines are those of `users`.
            users: whom it concerns, the sender first.

        Fires with None when it is answered. Never fails.
        """
        origin = Origin(connection, seq, self._monotonic())
        self._newest[connection] = origin
        return self._timelines.store(message).addCallbacks(
            self._acknowledge, self._not_stored, callbackArgs=(message, users, origin), errbackArgs=(origin,)
        )

    def refuse(self, connection: IConnection, seq: int, status: AckStatus) -> Deferred[None] | None:
        """Answer a client's message that is not accepted, after those before it (protocol.md, Order).

        None if it is answered, else a Deferred that fires with None when it is.
        """
        before = self._newest.get(connection)
        if before is None:
            refuse(connection, seq, status, self._metrics)
            return None
        turn: Deferred[None] = Deferred()
        turn.addCallback(lambda _: refuse(connection, seq, status, self._metrics))
        if before.refusals is None:
            before.refusals = []
        before.refusals.append(turn)
        return turn

    def _push(self, stored: Stored, message: NewMessage, users: tuple[UserKey, ...], origin: IConnection) -> None:
        pushed = stored_frame(message.command, message.flag | Flag.PUSH, message.body)
        offline: list[UserKey] = []
        registry, bus = self._registry, self._bus
        sender = users[0]
        for user, timeline, key in zip(users, message.timelines, stored.keys, strict=True):
            is_sender = user is sender
            device = message.device if is_sender else 0
            connections = [
                connection
                for connection in registry.connections_of(user)
                if connection is not origin and not (device and connection.device == device)
            ]
            if connections or not bus.alone:
                notify = SyncNotify(key).frame()
                push = Push((Metadata(key, key - 1).frame(), pushed, notify), timeline, notify)
                for connection in connections:
                    connection.enqueue_non_block(push)
                bus.publish_to_user(user, push, device)
            if not is_sender and not registry.is_online(user) and not bus.online_elsewhere(user):
                offline.append(user)
        if offline:
            self._metrics.offline_pushes.inc(by=len(offline))
            self._push_queue.push(message, offline)

    def _acknowledge(self, stored: Stored, message: NewMessage, users: tuple[UserKey, ...], origin: Origin) -> None:
        if stored.resent:
            self._metrics.resends.inc()
        else:
            try:
                self._push(stored, message, users, origin.connection)
            except Exception:  # a bug, but the message is on disk, and its sender must not hear otherwise
                self._log.failure("telling of stored message {number} failed", number=stored.message)
        origin.connection.enqueue(ack_with_keys(origin.seq, stored.keys[0]))
        self._metrics.ack_seconds.observe(self._monotonic() - origin.arrived)
        self._answered(origin)

    def _not_stored(self, failure: Failure, origin: Origin) -> None:
        if failure.check(Unavailable) is None:
            self._log.failure("storing a message of {user} failed", failure=failure, user=origin.connection.user)
        refuse(origin.connection, origin.seq, AckStatus.NOT_STORED, self._metrics)
        self._answered(origin)

    def _answered(self, origin: Origin) -> None:
        if self._newest.get(origin.connection) is origin:
            del self._newest[origin.connection]
        for turn in origin.refusals or ():
            turn.callback(None)

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
