"""PING, and what clients say that needs no answer."""

from imserver.chat.trace import Trace
from imserver.interfaces import IConnection
from imserver.model import Unit
from imserver.protocol.frame import Frame
from imserver.protocol.messages import Ack, Message, Pong

_PONG = Unit((Pong().frame(),))


class KeepaliveClient:
    def __init__(self, trace: Trace | None) -> None:
        """
        Args:
            trace: is told of ACKs.
        """
        self._trace = trace

    def ping(self, connection: IConnection, _frame: Frame, _message: Message) -> None:
        connection.enqueue(_PONG)

    def ack(self, connection: IConnection, _frame: Frame, message: Ack) -> None:
        if self._trace is not None and connection.user is not None:
            number = connection.pushed_under(message.seq)
            if number:
                self._trace.acknowledged(connection, number)

    def heard(self, _connection: IConnection, _frame: Frame, _message: Message) -> None:
        """PONG and METADATA, which are tolerated: that they came is counted with all frames."""
