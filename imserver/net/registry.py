"""Who is connected to this process, and in which rooms."""

from collections.abc import Collection, Sequence
from typing import Final

from zope.interface import implementer

from imserver.interfaces import IClientRegistry, IConnection
from imserver.metrics import Metrics
from imserver.model import UserKey
from imserver.protocol.commands import MOBILE

_NOBODY: Final[tuple[IConnection, ...]] = ()


@implementer(IClientRegistry)
class ClientRegistry:
    def __init__(self, metrics: Metrics) -> None:
        self._users: dict[UserKey, list[IConnection]] = {}
        #: Dicts as ordered sets: a room's messages reach its members in the order in which they came in.
        self._rooms: dict[tuple[int, int], dict[IConnection, None]] = {}
        metrics.users_online.read = lambda: {"": len(self._users)}
        metrics.rooms.read = lambda: {"": len(self._rooms)}

    def add(self, connection: IConnection) -> bool:
        connections = self._users.get(connection.user)
        if connections is None:
            self._users[connection.user] = [connection]
            return True
        connections.append(connection)
        return False

    def remove(self, connection: IConnection) -> bool:
        self.leave_room(connection)
        connections = self._users.get(connection.user)
        if connections is None or connection not in connections:
            return False
        connections.remove(connection)
        if connections:
            return False
        del self._users[connection.user]
        return True

    def connections_of(self, user: UserKey) -> Sequence[IConnection]:
        return self._users.get(user, _NOBODY)

    def enter_room(self, connection: IConnection, room: int) -> None:
        self.leave_room(connection)
        self._rooms.setdefault((connection.appid, room), {})[connection] = None
        connection.room = room

    def leave_room(self, connection: IConnection) -> None:
        if not connection.room:
            return
        key = (connection.appid, connection.room)
        connection.room = 0
        members = self._rooms[key]
        del members[connection]
        if not members:
            del self._rooms[key]

    def connections_in(self, appid: int, room: int) -> Collection[IConnection]:
        return self._rooms.get((appid, room), _NOBODY)

    def is_online(self, user: UserKey) -> bool:
        for connection in self._users.get(user, _NOBODY):
            # A closed one takes nothing any more, though it may take seconds until its transport is gone.
            if not connection.closed and (connection.platform_id in MOBILE or not connection.notification_on):
                return True
        return False

    def everyone(self) -> Collection[IConnection]:
        return [connection for connections in self._users.values() for connection in connections]
