"""GROUP_IM: from a user to all members of a group."""

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from imserver.chat.compose import heard_body, to_group
from imserver.chat.delivery import Delivery
from imserver.chat.policy import Policy
from imserver.chat.resend import resend_of
from imserver.interfaces import IConnection, IGroups, Unavailable, WallClock
from imserver.metrics import Metrics
from imserver.model import Group, UserKey
from imserver.protocol.commands import AckStatus, Command, Flag
from imserver.protocol.frame import MAX_BODY, Frame
from imserver.protocol.messages import GroupIM


class GroupClient:
    def __init__(self, groups: IGroups, policy: Policy, delivery: Delivery, metrics: Metrics, now: WallClock) -> None:
        self._groups = groups
        self._policy = policy
        self._delivery = delivery
        self._metrics = metrics
        self._now = now

    def group_im(self, connection: IConnection, frame: Frame, message: GroupIM) -> Deferred[None] | None:
        if message.sender != connection.uid:
            self._metrics.ignored.inc("sender")
            return None
        room = self._delivery.backlog.room()
        if room is None:
            return self._find_group(connection, frame, message)
        return room.addCallbacks(
            lambda _: self._find_group(connection, frame, message), self._unavailable, errbackArgs=(connection, frame)
        )

    def _find_group(self, connection: IConnection, frame: Frame, message: GroupIM) -> Deferred[None] | None:
        group = self._groups.group(connection.appid, message.receiver)
        if isinstance(group, Deferred):
            return group.addCallbacks(
                self._send, self._unavailable, (connection, frame, message), errbackArgs=(connection, frame)
            )
        self._send(group, connection, frame, message)
        return None

    def _unavailable(self, failure: Failure, connection: IConnection, frame: Frame) -> None:
        failure.trap(Unavailable)
        self._delivery.refuse(connection, frame.seq, AckStatus.NOT_STORED)

    def _send(self, group: Group | None, connection: IConnection, frame: Frame, message: GroupIM) -> None:
        if group is None:
            self._delivery.refuse(connection, frame.seq, AckStatus.GROUP_NONEXISTENT)
            return
        sender: UserKey = connection.user
        status = self._policy.group(sender.uid, connection.forbidden, group)
        if status is not AckStatus.SUCCESS:
            self._delivery.refuse(connection, frame.seq, status)
            return
        now = self._now()
        body = heard_body(self._policy, frame, message, int(now))
        if len(body) > MAX_BODY:
            self._delivery.refuse(connection, frame.seq, AckStatus.NOT_STORED)
            return
        resend = resend_of(
            sender,
            UserKey(sender.appid, group.group_id),
            Command.GROUP_IM,
            connection.device,
            message.msgid,
            message.content,
        )
        stored = to_group(frame.flag & Flag.TEXT, body, now, group, sender, connection.device, resend)
        self._delivery.store_for(connection, frame.seq, stored, group.users)
