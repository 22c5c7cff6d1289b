"""Chat rooms: who is in is who hears. Nothing is stored."""

from imserver.chat.delivery import Delivery
from imserver.chat.policy import Policy
from imserver.chat.replies import ack, refuse
from imserver.interfaces import IClientRegistry, IConnection
from imserver.metrics import Metrics
from imserver.model import Push
from imserver.protocol.commands import AckStatus, Flag
from imserver.protocol.frame import Frame
from imserver.protocol.messages import EnterRoom, LeaveRoom, RoomIM


class RoomClient:
    def __init__(self, policy: Policy, delivery: Delivery, registry: IClientRegistry, metrics: Metrics) -> None:
        self._policy = policy
        self._delivery = delivery
        self._registry = registry
        self._metrics = metrics

    def enter_room(self, connection: IConnection, _frame: Frame, message: EnterRoom) -> None:
        if message.room == 0:
            self._metrics.ignored.inc("room")
        elif message.room != connection.room:
            self._registry.enter_room(connection, message.room)

    def leave_room(self, connection: IConnection, _frame: Frame, message: LeaveRoom) -> None:
        if message.room == 0 or message.room != connection.room:
            self._metrics.ignored.inc("room")
        else:
            self._registry.leave_room(connection)

    def room_im(self, connection: IConnection, frame: Frame, message: RoomIM) -> None:
        if message.sender != connection.uid:
            self._metrics.ignored.inc("sender")
            return
        if message.receiver == 0 or message.receiver != connection.room:
            self._metrics.ignored.inc("room")
            return
        status = self._policy.room(connection, message.receiver)
        if status is not AckStatus.SUCCESS:
            refuse(connection, frame.seq, status, self._metrics)
            return
        heard = RoomIM(message.sender, message.receiver, self._policy.filtered(message.content, frame.flag))
        push = Push((heard.frame(frame.flag & Flag.TEXT),))
        self._delivery.to_room(connection.appid, message.receiver, push, connection.user, connection)
        connection.enqueue(ack(frame.seq))
