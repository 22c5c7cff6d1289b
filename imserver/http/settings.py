"""A user's settings, changed for those who ask over HTTP."""

from twisted.logger import Logger

from imserver.interfaces import IAccounts, IClientRegistry
from imserver.model import UserKey, UserSettings


class Settings:
    _log = Logger()

    def __init__(self, accounts: IAccounts, registry: IClientRegistry) -> None:
        self._accounts = accounts
        self._registry = registry

    async def change(
        self,
        user: UserKey,
        name: str | None = None,
        forbidden: bool | None = None,
        notification_on: bool | None = None,
    ) -> UserSettings:
        """As `IAccounts.change_settings`, and in force at once on the connections that the user has here."""
        settings: UserSettings = await self._accounts.change_settings(user, name, forbidden, notification_on)
        for connection in self._registry.connections_of(user):
            connection.forbidden = settings.forbidden
            connection.notification_on = settings.notification_on
        self._log.info(
            "settings of {user} were changed: forbidden {forbidden}, notification_on {notification_on}",
            user=user,
            forbidden=settings.forbidden,
            notification_on=settings.notification_on,
        )
        return settings
