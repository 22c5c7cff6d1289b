"""Who waits before they send to a group."""

from twisted.internet.defer import Deferred

from imserver.chat.backlog import MOST_ENTRIES, PATIENCE, Backlog
from imserver.interfaces import Unavailable
from imserver.metrics import Metrics


class House:
    def __init__(self) -> None:
        self.seconds = 1000.0
        self.backlog = Backlog(Metrics(), lambda: self.seconds)
        #: Who was let in, or refused, in order.
        self.came: list[str] = []

    def ask(self, name: str) -> bool:
        """Is there room at once?"""
        room = self.backlog.room()
        if isinstance(room, Deferred):
            room.addCallbacks(lambda _: self.came.append(name), lambda failure: self._refused(name, failure))
        return room is None

    def _refused(self, name: str, failure: object) -> None:
        assert failure.trap(Unavailable) is Unavailable  # type: ignore[attr-defined]  # a Failure
        self.came.append(f"not {name}")

    def settle(self, entries: int) -> None:
        self.backlog.entries -= entries
        self.backlog.let_in()


def test_room() -> None:
    """While there is room nobody waits; one message may be larger than all of it."""
    house = House()
    house.backlog.entries = MOST_ENTRIES - 1
    assert house.ask("a")
    house.backlog.entries += 5 * MOST_ENTRIES
    assert not house.ask("b")
    house.settle(5 * MOST_ENTRIES)
    assert house.came == ["b"]
    assert house.ask("c")


def test_in_the_order_in_which_they_came() -> None:
    """As many as there is room for; who comes later waits behind them."""
    house = House()
    house.backlog.entries = MOST_ENTRIES

    def fill(name: str) -> None:
        room = house.backlog.room()
        assert room is not None

        def enter(_: None) -> None:
            house.came.append(name)
            house.backlog.entries += MOST_ENTRIES
            house.ask(f"after {name}")

        room.addCallback(enter)

    fill("a")
    fill("b")
    house.settle(1)
    assert house.came == ["a"]
    house.settle(MOST_ENTRIES)
    assert house.came == ["a", "b"]
    house.settle(MOST_ENTRIES)
    assert house.came == ["a", "b", "after a", "after b"]


def test_patience() -> None:
    """Who has waited too long is told so as soon as anything is on disk, whether there is room or not."""
    house = House()
    house.backlog.entries = 2 * MOST_ENTRIES
    house.ask("a")
    house.seconds += PATIENCE
    house.ask("b")
    house.settle(1)
    assert house.came == []
    house.seconds += 0.1
    house.settle(1)
    assert house.came == ["not a"]
    house.settle(2 * MOST_ENTRIES)
    assert house.came == ["not a", "b"]
