"""Which command is whose: the one table, and the one place where it matters whether a client has signed in."""

from collections.abc import Callable
from time import monotonic as system_monotonic
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.chat.auth import AuthClient
from imserver.chat.changes import GroupChanges
from imserver.chat.customer import CustomerClient
from imserver.chat.delivery import Delivery
from imserver.chat.group import GroupClient
from imserver.chat.keepalive import KeepaliveClient
from imserver.chat.peer import PeerClient
from imserver.chat.policy import Policy
from imserver.chat.posts import Posts
from imserver.chat.rescue import Rescue
from imserver.chat.room import RoomClient
from imserver.chat.sync import SyncClient
from imserver.chat.trace import Trace
from imserver.interfaces import (
    IBus,
    IChat,
    IClientRegistry,
    IConnection,
    IDirectory,
    IGroups,
    IPushQueue,
    ISyncKeys,
    ITimelines,
    WallClock,
)
from imserver.metrics import Metrics
from imserver.protocol.commands import NEWEST_VERSION, Command
from imserver.protocol.frame import Frame
from imserver.protocol.messages import decode_from_client

#: Commands that store, which are answered in their order; the next one need not wait for them.
STORING: Final = frozenset(
    (Command.IM, Command.GROUP_IM, Command.CUSTOMER, Command.CUSTOMER_SUPPORT, Command.CUSTOMER_V2)
)
#: Commands that change nothing. Clients say ACK to every push: their own messages are not to wait for it.
WITHOUT_EFFECT: Final = frozenset((Command.ACK, Command.PONG, Command.METADATA))
_PIPELINED: Final = STORING | WITHOUT_EFFECT
#: Commands that do anything before a successful AUTH_TOKEN (protocol.md, Order).
BEFORE_SIGN_IN: Final = frozenset((Command.AUTH_TOKEN, Command.PING, Command.ACK))

Handle = Callable[[IConnection, Frame, Any], Deferred[None] | None]


@implementer(IChat)
class Chat:
    def __init__(
        self,
        *,
        directory: IDirectory,
        groups: IGroups,
        registry: IClientRegistry,
        timelines: ITimelines,
        sync_keys: ISyncKeys,
        bus: IBus,
        push_queue: IPushQueue,
        policy: Policy,
        metrics: Metrics,
        now: WallClock,
        monotonic: Callable[[], float] = system_monotonic,
        kefu_appid: int = 0,
        rescue: Rescue | None = None,
        trace: Trace | None = None,
    ) -> None:
        """
        Args:
            monotonic: seconds, by a clock that never goes back.
            kefu_appid: the customer-service app; 0: there is none.
            rescue: watches what is pushed; None: nobody does.
            trace: is told of each message; None: nobody is.
        """
        self._metrics = metrics
        self._rescue = rescue
        self.delivery = Delivery(timelines, registry, bus, push_queue, metrics, monotonic, rescue, trace)
        #: What back ends say, and what they change.
        self.posts = Posts(kefu_appid, groups, policy, self.delivery, now)
        self.changes = GroupChanges(groups, self.posts, now)
        self._auth = AuthClient(directory, registry, bus, metrics)
        keepalive = KeepaliveClient(trace)
        peer = PeerClient(policy, self.delivery, directory, metrics, now)
        group = GroupClient(groups, policy, self.delivery, metrics, now)
        room = RoomClient(policy, self.delivery, registry, metrics)
        customer = CustomerClient(kefu_appid, policy, self.delivery, metrics, now)
        sync = SyncClient(timelines, sync_keys, groups, metrics)
        self._handle: dict[int, Handle] = {
            Command.AUTH_TOKEN: self._auth.auth_token,
            Command.PING: keepalive.ping,
            Command.PONG: keepalive.heard,
            Command.ACK: keepalive.ack,
            Command.METADATA: keepalive.heard,
            Command.IM: peer.im,
            Command.RT: peer.rt,
            Command.UNREAD_COUNT: peer.unread_count,
            Command.ENTER_ROOM: room.enter_room,
            Command.LEAVE_ROOM: room.leave_room,
            Command.ROOM_IM: room.room_im,
            Command.SYNC: sync.sync,
            Command.SYNC_KEY: sync.sync_key,
            Command.SYNC_GROUP: sync.sync_group,
            Command.GROUP_SYNC_KEY: sync.group_sync_key,
            Command.GROUP_IM: group.group_im,
            Command.CUSTOMER: customer.customer,
            Command.CUSTOMER_SUPPORT: customer.customer_support,
            Command.CUSTOMER_V2: customer.customer_v2,
        }

    def is_pipelined(self, command: int) -> bool:
        return command in _PIPELINED

    def handle(self, connection: IConnection, frame: Frame) -> Deferred[None] | None:
        message = decode_from_client(frame.command, min(frame.version, NEWEST_VERSION), frame.body)
        if connection.user is None and frame.command not in BEFORE_SIGN_IN:
            self._metrics.ignored.inc("not_signed_in")
            return None
        return self._handle[frame.command](connection, frame, message)

    def lost(self, connection: IConnection) -> None:
        if self._rescue is not None and connection.user is not None:
            self._rescue.lost(connection)
        self._auth.lost(connection)
