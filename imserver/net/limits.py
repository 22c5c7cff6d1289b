"""How many may come, from where, and how often they may fail to say who they are."""

from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol

from imserver.metrics import Metrics
from imserver.model import Limits

#: Failed sign-ins of an address are counted over so many seconds.
_FAILURE_WINDOW = 60.0
#: Files for everything but clients: database, log, listeners, HTTP, and connections that are being turned away.
_OTHER_FILES: Final = 256


def most_connections(wanted: int) -> int:
    """How many clients the process can have open files for, at most `wanted`; 0 stands for no limit in both.

    It first allows itself as many open files as it may (the soft limit becomes the hard one). Without any left, clients
    could not even be turned away properly, and neither the operator nor the database would get a file.
    """
    _, files = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (files, files))
    if files == RLIM_INFINITY:
        return wanted
    possible = max(files - _OTHER_FILES, 1)
    return min(wanted, possible) if wanted else possible


class TurnedAway(Protocol):
    """Ends a connection that may not come. To give Twisted no protocol at all would do over TCP, but not under TLS."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class Admission:
    """Counts connections, in all and by address, and failed sign-ins by address. Shared by all transports."""

    def __init__(self, limits: Limits, metrics: Metrics, clock: IReactorTime) -> None:
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._total = 0
        self._by_address: dict[str, int] = {}
        #: Holds no more addresses than sign-ins failed in a window; each of those cost a connection.
        self._failures: dict[str, int] = {}
        self._window_began = 0.0

    def admit(self, address: str) -> bool:
        """May this address have one more connection? If so it counts until `release`."""
        limits = self._limits
        if 0 < limits.connections <= self._total:
            self._metrics.refused.inc("connections")
            return False
        if 0 < limits.connections_per_address <= self._by_address.get(address, 0):
            self._metrics.refused.inc("address")
            return False
        self._count(address)
        return True

    def _count(self, address: str) -> None:
        self._total += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1

    def release(self, address: str) -> None:
        self._total -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def move(self, old: str, new: str) -> bool:
        """A connection that counts for one address turns out to come from another.

        False: that address may have no more, and the connection counts for the old one as before.
        """
        self.release(old)
        if self.admit(new):
            return True
        self._count(old)
        return False

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
