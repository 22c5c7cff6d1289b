"""For probes: is the process alive, is it of use?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from imserver.http.calls import Reply, Route

#: Seconds that a check may take.
_CHECK_SECONDS: Final = 2.0


class Readiness:
    """Whether all that the server needs works now."""

    _log = Logger()

    def __init__(self, checks: Mapping[str, Callable[[], Deferred[None]]], clock: IReactorTime) -> None:
        """
        Args:
            checks: for each thing that must work what asks it: fires (with anything) if it does, fails if not.
            clock: a check that has not fired after 2 s has failed.
        """
        self._checks = checks
        self._clock = clock
        #: Checks that failed last time: each change is logged once, however often somebody looks.
        self._failing: set[str] = set()

    async def look(self) -> dict[str, bool]:
        """The result of each check, all asked at once."""
        results = await gatherResults([self._look_at(name) for name in self._checks])
        return dict(zip(self._checks, results, strict=True))

    def _look_at(self, name: str) -> Deferred[bool]:
        done = maybeDeferred(self._checks[name]).addTimeout(_CHECK_SECONDS, self._clock)
        return done.addCallbacks(self._well, self._ill, callbackArgs=(name,), errbackArgs=(name,))

    def _well(self, _: object, name: str) -> bool:
        if name in self._failing:
            self._failing.remove(name)
            self._log.info("{name} is well again", name=name)
        return True

    def _ill(self, failure: Failure, name: str) -> bool:
        if name not in self._failing:
            self._failing.add(name)
            self._log.warn(
                "not ready: {name}: {kind}: {reason}",
                name=name,
                kind=type(failure.value).__name__,
                reason=failure.getErrorMessage(),
            )
        return False


def routes(readiness: Readiness) -> Sequence[Route]:
    async def healthz(request: IRequest) -> Reply:
        return Reply(b"ok", content_type="text/plain; charset=utf-8")

    async def readyz(request: IRequest) -> Reply:
        checks = await readiness.look()
        ready = all(checks.values())
        return Reply(msgspec.json.encode({"ready": ready, "checks": checks}), 200 if ready else 503)

    return (Route("GET", "/healthz", healthz), Route("GET", "/readyz", readyz))
