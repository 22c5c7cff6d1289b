"""The answers that several families give."""

from imserver.interfaces import IConnection
from imserver.metrics import Metrics
from imserver.model import GROUP_TIMELINE, AckOfStored, NewMessage, Stored, Unit
from imserver.protocol.commands import AckStatus, Flag
from imserver.protocol.messages import Ack

#: These two are older than version 2: clients of every version get them, as a plain ACK (protocol.md, Commands).
_FOR_ALL_VERSIONS = frozenset((AckStatus.NOT_GROUP_MEMBER, AckStatus.GROUP_NONEXISTENT))


def ack(seq: int) -> Unit:
    return Unit((Ack(seq).frame(),))


def ack_of_stored(seq: int, stored: Stored, message: NewMessage) -> Unit:
    """ACK of a stored message, with the key that it got in the sender's timeline, or in the super group's."""
    flag = Flag.SUPER_GROUP if message.timelines[0].kind == GROUP_TIMELINE else 0
    if not stored.resent:
        return AckOfStored(seq, stored.keys[message.own], flag)
    if stored.keys:
        return AckOfStored(seq, stored.keys[0], flag)
    return Unit((Ack(seq).frame(flag),))


def refuse(connection: IConnection, seq: int, status: AckStatus, metrics: Metrics) -> None:
    """Tell the sender that its message was not accepted. Clients below version 2 would take any ACK for success."""
    metrics.refusals.inc(status.name.lower())
    if connection.version >= 2 or status in _FOR_ALL_VERSIONS:
        connection.enqueue(Unit((Ack(seq, status).frame(),)))
