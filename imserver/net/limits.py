"""How many may come, from where, and how often they may fail to say who they are."""

from twisted.internet.interfaces import IReactorTime

from imserver.metrics import Metrics
from imserver.model import Limits

#: Failed sign-ins of an address are counted over so many seconds.
_FAILURE_WINDOW = 60.0


class Admission:
    """Counts connections, in all and by address, and failed sign-ins by address. Shared by all transports."""

    def __init__(self, limits: Limits, metrics: Metrics, clock: IReactorTime) -> None:
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._total = 0
        self._by_address: dict[str, int] = {}
        #: Holds no more addresses than sign-ins failed in two windows; each of those cost a connection.
        self._failures: dict[str, int] = {}
        self._window_began = 0.0

    def admit(self, address: str) -> bool:
        """May this address have one more connection? If so it counts until `release`."""
        limits = self._limits
        here = self._by_address.get(address, 0)
        if 0 < limits.connections <= self._total:
            self._metrics.refused.inc("connections")
            return False
        if 0 < limits.connections_per_address <= here:
            self._metrics.refused.inc("address")
            return False
        self._total += 1
        self._by_address[address] = here + 1
        return True

    def release(self, address: str) -> None:
        self._total -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def sign_in_failed(self, address: str) -> None:
        self._forget_old()
        self._failures[address] = self._failures.get(address, 0) + 1

    def may_sign_in(self, address: str) -> bool:
        self._forget_old()
        most = self._limits.failed_sign_ins_per_address
        return not most or self._failures.get(address, 0) < most

    def _forget_old(self) -> None:
        now = self._clock.seconds()
        if now - self._window_began >= _FAILURE_WINDOW:
            self._window_began = now
            self._failures.clear()
