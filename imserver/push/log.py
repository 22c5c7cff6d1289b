"""Push queues that hand nothing over: one says so in the log, one says nothing."""

from collections.abc import Sequence

from twisted.logger import Logger
from zope.interface import implementer

from imserver.interfaces import IPushQueue
from imserver.model import NewMessage, UserKey


@implementer(IPushQueue)
class NoPush:
    """For apps that need none."""

    def push(self, message: NewMessage, receivers: Sequence[UserKey]) -> None:
        return None


@implementer(IPushQueue)
class LogPush:
    """To see who would be told, without saying what."""

    _log = Logger()

    def push(self, message: NewMessage, receivers: Sequence[UserKey]) -> None:
        for receiver in receivers:
            self._log.info(
                "user {uid} of app {appid} is not online for a message of command {command}",
                uid=receiver.uid,
                appid=receiver.appid,
                command=message.command,
            )
