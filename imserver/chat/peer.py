"""From one user to another: IM, RT, and the unread count."""

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.chat.compose import heard_body, is_id, one_to_one
from imserver.chat.delivery import Delivery
from imserver.chat.policy import Policy
from imserver.chat.resend import resend_of
from imserver.interfaces import IConnection, IDirectory, Unavailable, WallClock
from imserver.metrics import Metrics
from imserver.model import Push, UserKey
from imserver.protocol.commands import AckStatus, Command, Flag
from imserver.protocol.frame import MAX_BODY, Frame
from imserver.protocol.messages import IM, RT, UnreadCount


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
        if not self._is_sound(connection, message):
            return None
        status = self._policy.peer(connection, message.receiver)
        if isinstance(status, Deferred):
            return status.addErrback(_not_known).addCallback(self._send, connection, frame, message)
        self._send(status, connection, frame, message)
        return None

    def _send(self, status: AckStatus, connection: IConnection, frame: Frame, message: IM) -> None:
        if status is not AckStatus.SUCCESS:
            self._delivery.refuse(connection, frame.seq, status)
            return
        created = int(self._now())
        body = heard_body(self._policy, frame, message, created)
        if len(body) > MAX_BODY:
            self._delivery.refuse(connection, frame.seq, AckStatus.NOT_STORED)
            return
        sender: UserKey = connection.user
        receiver = UserKey(sender.appid, message.receiver)
        device = connection.device
        resend = resend_of(sender, receiver, Command.IM, device, message.msgid, message.content)
        stored, users = one_to_one(Command.IM, frame.flag & Flag.TEXT, body, created, sender, receiver, device, resend)
        self._delivery.store_for(connection, frame.seq, stored, users)

    def rt(self, connection: IConnection, frame: Frame, message: RT) -> Deferred[None] | None:
        if not self._is_sound(connection, message):
            return None
        status = self._policy.peer(connection, message.receiver)
        if isinstance(status, Deferred):
            return status.addErrback(_not_known).addCallback(self._pass_on, connection, frame, message)
        self._pass_on(status, connection, frame, message)
        return None

    def _pass_on(self, status: AckStatus, connection: IConnection, frame: Frame, message: RT) -> None:
        if status is not AckStatus.SUCCESS:
            self._metrics.ignored.inc("policy")
            return
        content = self._policy.filtered(message.content, frame.flag)
        heard = RT(message.sender, message.receiver, content).frame(frame.flag & Flag.TEXT)
        self._delivery.to_user(UserKey(connection.appid, message.receiver), Push((heard,)), connection)

    def _is_sound(self, connection: IConnection, message: IM | RT) -> bool:
        """Is it from who sends it, and to somebody who can be?"""
        if message.sender != connection.uid:
            self._metrics.ignored.inc("sender")
        elif not is_id(message.receiver):
            self._metrics.ignored.inc("receiver")
        else:
            return True
        return False

    def unread_count(self, connection: IConnection, _frame: Frame, message: UnreadCount) -> Deferred[None]:
        return self._directory.set_unread(connection.user, max(message.count, 0)).addErrback(self._not_remembered)

    def _not_remembered(self, failure: Failure) -> None:
        failure.trap(Unavailable)
        self._log.warn("an unread count was not stored: {reason}", reason=failure.getErrorMessage())


def _not_known(failure: Failure) -> AckStatus:
    """Whether they may send cannot be found out now."""
    failure.trap(Unavailable)
    return AckStatus.NOT_STORED
