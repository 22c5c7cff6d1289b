"""How fakes of what stands on a database answer: at once, later, or not at all, as the test wants it."""

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute, fail

from imserver.interfaces import Unavailable

Result = TypeVar("Result")


class Answers:
    """Fails all with `Unavailable` while `unavailable` is True; answers nothing between `hold` and `release`."""

    def __init__(self) -> None:
        self.unavailable = False
        #: What was asked and is held: what answers it, and whom.
        self._held: list[tuple[Callable[[], Any], Deferred[Any]]] | None = None

    @property
    def holds(self) -> bool:
        """Between `hold` and `release`."""
        return self._held is not None

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self._held = []

    def release(self) -> None:
        """Do and answer what was held, in order."""
        held, self._held = self._held or [], None
        for do, done in held:
            self.answer(do).chainDeferred(done)

    def answer(self, do: Callable[[], Result]) -> Deferred[Result]:
        """Fires with what `do` returns, fails with what it raises."""
        if self._held is not None:
            done: Deferred[Result] = Deferred()
            self._held.append((do, done))
            return done
        if self.unavailable:
            return fail(Unavailable("as the test wants it"))
        return execute(do)
