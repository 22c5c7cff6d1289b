"""From one user to another: IM, RT, and the unread count."""

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.chat.delivery import Delivery
from imserver.chat.policy import Policy
from imserver.chat.resend import resend_of
from imserver.interfaces import IConnection, IDirectory, Unavailable, WallClock
from imserver.metrics import Metrics
from imserver.model import SAFE_INTEGER, NewMessage, Push, UserKey, user_timeline
from imserver.protocol.commands import AckStatus, Command, Flag
from imserver.protocol.frame import MAX_BODY, Frame
from imserver.protocol.messages import IM, RT, UnreadCount, stamped_body

#: A client of version 0 has four bytes more for content than a body of the other versions can hold.
_MOST_CONTENT = MAX_BODY - 24


class PeerClient:
    _log = Logger()

    def __init__(
        self, policy: Policy, delivery: Delivery, directory: IDirectory, metrics: Metrics, now: WallClock
    ) -> None:
        self._policy = policy
        self._delivery = delivery
        self._directory = directory
        self._metrics = metrics
        self._now = now

    def im(self, connection: IConnection, frame: Frame, message: IM) -> Deferred[None] | None:
        sender: UserKey = connection.user
        if message.sender != sender.uid:
            self._metrics.ignored.inc("sender")
            return None
        if not _is_uid(message.receiver):
            self._metrics.ignored.inc("receiver")
            return None
        status = self._policy.peer(connection, message.receiver)
        if status is AckStatus.SUCCESS and len(message.content) > _MOST_CONTENT:
            status = AckStatus.NOT_STORED
        if status is not AckStatus.SUCCESS:
            self._delivery.refuse(connection, frame.seq, status)
            return None
        receiver = UserKey(sender.appid, message.receiver)
        users = (sender,) if receiver == sender else (sender, receiver)
        created = int(self._now())
        stored = NewMessage(
            Command.IM,
            frame.flag & Flag.TEXT,
            stamped_body(frame.body, frame.version, created),
            created,
            tuple([user_timeline(user) for user in users]),
            connection.device,
            resend_of(sender, receiver, Command.IM, connection.device, message.msgid, message.content),
            sender,
        )
        self._delivery.store_for(connection, frame.seq, stored, users)
        return None

    def rt(self, connection: IConnection, frame: Frame, message: RT) -> None:
        if message.sender != connection.uid:
            self._metrics.ignored.inc("sender")
        elif not _is_uid(message.receiver):
            self._metrics.ignored.inc("receiver")
        elif self._policy.peer(connection, message.receiver) is not AckStatus.SUCCESS:
            self._metrics.ignored.inc("policy")
        else:
            receiver = UserKey(connection.appid, message.receiver)
            self._delivery.to_user(receiver, Push((message.frame(frame.flag & Flag.TEXT),)), connection)

    def unread_count(self, connection: IConnection, _frame: Frame, message: UnreadCount) -> Deferred[None]:
        return self._directory.set_unread(connection.user, max(message.count, 0)).addErrback(self._not_remembered)

    def _not_remembered(self, failure: Failure) -> None:
        failure.trap(Unavailable)
        self._log.warn("an unread count was not stored: {reason}", reason=failure.getErrorMessage())


def _is_uid(number: int) -> bool:
    return 0 < number < SAFE_INTEGER
