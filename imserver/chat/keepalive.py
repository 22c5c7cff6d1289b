"""PING, and what clients say that needs no answer."""

from imserver.interfaces import IConnection
from imserver.model import Unit
from imserver.protocol.frame import Frame
from imserver.protocol.messages import Message, Pong

_PONG = Unit((Pong().frame(),))


class KeepaliveClient:
    def ping(self, connection: IConnection, _frame: Frame, _message: Message) -> None:
        connection.enqueue(_PONG)

    def heard(self, _connection: IConnection, _frame: Frame, _message: Message) -> None:
        """ACK, and PONG and METADATA, which are tolerated: that they came is counted with all frames."""
