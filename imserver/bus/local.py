"""The bus of a server that is alone."""

from zope.interface import implementer

from imserver.interfaces import IBus
from imserver.model import Push, UserKey


@implementer(IBus)
class LocalBus:
    """There is nobody else to tell."""

    alone = True

    def subscribe(self, user: UserKey) -> None:
        return None

    def unsubscribe(self, user: UserKey) -> None:
        return None

    def publish_to_user(self, user: UserKey, push: Push, device: int) -> None:
        return None

    def publish_to_room(self, appid: int, room: int, push: Push, origin: UserKey, device: int) -> None:
        return None

    def online_elsewhere(self, user: UserKey) -> bool:
        return False
