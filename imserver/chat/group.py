"""Groups. This release has none: clients are told so in the protocol's own words."""

from imserver.chat.delivery import Delivery
from imserver.interfaces import IConnection
from imserver.metrics import Metrics
from imserver.model import Unit
from imserver.protocol.commands import AckStatus
from imserver.protocol.frame import Frame
from imserver.protocol.messages import GroupIM, GroupSyncKey, SyncGroup, SyncGroupBegin, SyncGroupEnd


class GroupClient:
    def __init__(self, delivery: Delivery, metrics: Metrics) -> None:
        self._delivery = delivery
        self._metrics = metrics

    def group_im(self, connection: IConnection, frame: Frame, _message: GroupIM) -> None:
        self._delivery.refuse(connection, frame.seq, AckStatus.GROUP_NONEXISTENT)

    def sync_group(self, connection: IConnection, _frame: Frame, message: SyncGroup) -> None:
        connection.enqueue(
            Unit(
                (
                    SyncGroupBegin(message.group, message.key).frame(),
                    SyncGroupEnd(message.group, message.key).frame(),
                )
            )
        )

    def group_sync_key(self, _connection: IConnection, _frame: Frame, _message: GroupSyncKey) -> None:
        self._metrics.ignored.inc("group")
