"""AUTH_TOKEN: who a connection is."""

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from imserver.interfaces import IBus, IClientRegistry, IConnection, IDirectory, Unavailable
from imserver.metrics import Metrics
from imserver.model import Unit
from imserver.protocol.frame import Frame
from imserver.protocol.messages import AuthStatus, AuthToken

_OK = Unit((AuthStatus(0).frame(),))


class AuthClient:
    _log = Logger()

    def __init__(self, directory: IDirectory, registry: IClientRegistry, bus: IBus, metrics: Metrics) -> None:
        self._directory = directory
        self._registry = registry
        self._bus = bus
        self._metrics = metrics

    def auth_token(self, connection: IConnection, frame: Frame, message: AuthToken) -> Deferred[None] | None:
        if connection.user is not None:
            self._metrics.ignored.inc("second_auth")
            return None
        if not connection.may_sign_in():
            self._metrics.sign_ins.inc("throttled")
            connection.refuse()
            return None
        return Deferred.fromCoroutine(self._sign_in(connection, frame.version, message))

    async def _sign_in(self, connection: IConnection, version: int, message: AuthToken) -> None:
        try:
            sign_in = await self._directory.sign_in(message.token, message.device, message.platform)
        except Unavailable:
            # Not a refusal: the client would tell its user that the token is bad. It comes back when it is closed.
            self._metrics.sign_ins.inc("unavailable")
            connection.close_later("directory_unavailable")
            return
        if connection.closed:
            return
        if sign_in is None:
            self._metrics.sign_ins.inc("refused")
            connection.refuse()
            return
        connection.signed_in(sign_in, message.platform, message.device, version)
        if self._registry.add(connection):
            subscribed = self._bus.subscribe(sign_in.user)
            if subscribed is not None:
                await subscribed
                if connection.closed:
                    return
        self._metrics.sign_ins.inc("ok")
        connection.enqueue(_OK)
        self._log.debug(
            "connection {number} from {address} is user {user} on device {device}",
            number=connection.number,
            address=connection.address,
            user=sign_in.user,
            device=sign_in.device,
        )

    def lost(self, connection: IConnection) -> None:
        if connection.user is not None and self._registry.remove(connection):
            self._bus.unsubscribe(connection.user)
