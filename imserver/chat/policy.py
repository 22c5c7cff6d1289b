"""May this sender send this? Asked for clients and for HTTP alike."""

from imserver.interfaces import IConnection
from imserver.protocol.commands import AckStatus


class Policy:
    def peer(self, sender: IConnection, _receiver: int) -> AckStatus:
        """May the connection's user send to this user of the same app?"""
        return AckStatus.MUTED if sender.forbidden else AckStatus.SUCCESS

    def room(self, sender: IConnection, _room: int) -> AckStatus:
        """May the connection's user speak in this room?"""
        return AckStatus.MUTED if sender.forbidden else AckStatus.SUCCESS
