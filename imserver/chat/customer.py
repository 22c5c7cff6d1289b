"""CUSTOMER_V2, CUSTOMER and CUSTOMER_SUPPORT: between users of other apps and those of the customer-service app."""

from functools import partial
from typing import TypeVar

import msgspec

from imserver.chat.compose import is_id, one_to_one
from imserver.chat.delivery import Delivery
from imserver.chat.policy import Policy
from imserver.chat.replies import ack
from imserver.chat.resend import resend_of
from imserver.interfaces import IConnection, WallClock
from imserver.metrics import Metrics
from imserver.model import Push, UserKey
from imserver.protocol.commands import NEWEST_VERSION, AckStatus, Flag
from imserver.protocol.frame import Frame
from imserver.protocol.messages import Customer, CustomerSupport, CustomerV2

AnyCustomer = TypeVar("AnyCustomer", Customer, CustomerV2)


class CustomerClient:
    def __init__(self, kefu_appid: int, policy: Policy, delivery: Delivery, metrics: Metrics, now: WallClock) -> None:
        """
        Args:
            kefu_appid: the customer-service app; 0: there is none, and all this is ignored.
        """
        self._kefu_appid = kefu_appid
        self._policy = policy
        self._delivery = delivery
        self._metrics = metrics
        self._now = now

    def customer_v2(self, connection: IConnection, frame: Frame, message: CustomerV2) -> None:
        sender = UserKey(message.sender_appid, message.sender)
        receiver = UserKey(message.receiver_appid, message.receiver)
        if self._may_send(connection, frame, sender, receiver):
            self._store(connection, frame, message, receiver)

    def customer(self, connection: IConnection, frame: Frame, message: Customer) -> None:
        sender = UserKey(message.customer_appid, message.customer)
        self._send(connection, frame, message, sender, UserKey(self._kefu_appid, message.seller))

    def customer_support(self, connection: IConnection, frame: Frame, message: CustomerSupport) -> None:
        receiver = UserKey(message.customer_appid, message.customer)
        self._send(connection, frame, message, UserKey(self._kefu_appid, message.seller), receiver)

    def _send(
        self, connection: IConnection, frame: Frame, message: Customer, sender: UserKey, receiver: UserKey
    ) -> None:
        if not self._may_send(connection, frame, sender, receiver):
            return
        if frame.flag & Flag.UNPERSISTENT:
            self._delivery.in_turn(connection, partial(self._pass_on, connection, frame, message, receiver))
        else:
            self._store(connection, frame, message, receiver)

    def _may_send(self, connection: IConnection, frame: Frame, sender: UserKey, receiver: UserKey) -> bool:
        """Where not, this has been answered, or is ignored."""
        if not self._kefu_appid or self._kefu_appid not in (sender.appid, receiver.appid):
            self._metrics.ignored.inc("customer")
        elif sender != connection.user:
            self._metrics.ignored.inc("sender")
        elif not (is_id(receiver.appid) and is_id(receiver.uid)):
            self._metrics.ignored.inc("receiver")
        else:
            status = self._policy.customer(connection)
            if status is AckStatus.SUCCESS:
                return True
            self._delivery.refuse(connection, frame.seq, status)
        return False

    def _store(self, connection: IConnection, frame: Frame, message: AnyCustomer, receiver: UserKey) -> None:
        heard = self._as_heard(frame, message)
        sender: UserKey = connection.user
        device = connection.device
        resend = resend_of(sender, receiver, message.command, device, 0, message.content)
        stored, users = one_to_one(
            message.command,
            frame.flag & Flag.TEXT,
            heard.encode(NEWEST_VERSION),
            heard.timestamp,
            sender,
            receiver,
            device,
            resend,
        )
        self._delivery.store_for(connection, frame.seq, stored, users)

    def _pass_on(self, connection: IConnection, frame: Frame, message: Customer, receiver: UserKey) -> None:
        push = Push((self._as_heard(frame, message).frame(frame.flag & Flag.TEXT),))
        for user in {receiver, connection.user}:
            self._delivery.to_user(user, push, connection)
        connection.enqueue(ack(frame.seq))

    def _as_heard(self, frame: Frame, message: AnyCustomer) -> AnyCustomer:
        """The message as everybody gets it: with the server's time, and without words that are not to be said."""
        content = self._policy.filtered(message.content, frame.flag)
        return msgspec.structs.replace(message, timestamp=int(self._now()), content=content)
