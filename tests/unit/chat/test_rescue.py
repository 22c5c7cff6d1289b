"""Pushes that nobody answers go to the push queue after all."""

from itertools import count

from imserver.chat.rescue import Rescue
from imserver.metrics import Metrics
from imserver.model import NewMessage, SignIn, UserKey, user_timeline
from imserver.net.registry import ClientRegistry
from imserver.protocol.commands import Command, Platform
from tests.fakes.chat import FakeConnection, FakePushQueue

BOB, CAROL = UserKey(7, 2), UserKey(7, 3)
SECONDS = 20.0
NUMBERS = count(1)


class House:
    def __init__(self, most_bytes: int = 1_000_000) -> None:
        self.now = 1000.0
        self.metrics = Metrics()
        self.registry = ClientRegistry(self.metrics)
        self.push_queue = FakePushQueue()
        self.rescue = Rescue(self.registry, self.push_queue, self.metrics, lambda: self.now, SECONDS, None, most_bytes)

    def connect(self, user: UserKey) -> FakeConnection:
        connection = FakeConnection()
        connection.signed_in(SignIn(user, 1), Platform.ANDROID, b"phone", 2)
        connection.heard_at = self.now
        self.registry.add(connection)
        return connection

    def leave(self, connection: FakeConnection) -> None:
        connection.lose()
        self.registry.remove(connection)
        self.rescue.lost(connection)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            self.rescue.sweep()

    def rescued(self) -> list[tuple[bytes, list[UserKey]]]:
        return [(message.body, users) for message, users in self.push_queue.pushed]


def message(body: bytes = b"hello") -> NewMessage:
    return NewMessage(Command.IM, 0, body, 5, (user_timeline(BOB),))


def test_a_silent_connection() -> None:
    """Heard before the push, but not after: once its time is over, and once only, the phone is told otherwise."""
    house = House()
    house.connect(BOB)
    house.rescue.pushed(BOB, next(NUMBERS), message())
    house.pass_time(SECONDS - 1)
    assert house.rescued() == []
    house.pass_time(2)
    assert house.rescued() == [(b"hello", [BOB])]
    house.pass_time(100)
    assert len(house.push_queue.pushed) == 1
    assert house.metrics.rescued_pushes.values == {"": 1}


def test_whatever_the_client_says_is_an_answer() -> None:
    """Early or late, on this connection or another, and also where the client goes after it."""
    for delay in (0.5, SECONDS - 2):
        house = House()
        silent, heard = house.connect(BOB), house.connect(BOB)
        house.rescue.pushed(BOB, next(NUMBERS), message())
        house.pass_time(delay)
        heard.heard_at = house.now
        house.pass_time(1)
        house.leave(heard)
        house.pass_time(100)
        assert house.rescued() == [], delay
        house.rescue.pushed(BOB, next(NUMBERS), message(b"later"))
        house.pass_time(100)
        assert house.rescued() == [(b"later", [BOB])]
        house.leave(silent)


def test_who_goes_without_a_word() -> None:
    """The transport broke: what was pushed to it is rescued, unless the user came back, who syncs."""
    house = House()
    for user in (BOB, CAROL):
        connection = house.connect(user)
        house.now += 0.1
        house.rescue.pushed(user, next(NUMBERS), message())
        house.leave(connection)
    house.pass_time(5)
    house.connect(CAROL)
    house.pass_time(100)
    assert house.rescued() == [(b"hello", [BOB])]


def test_a_message_for_many_is_queued_once_for_all() -> None:
    """One call of the push queue names all who did not answer."""
    house = House()
    to_all = message()
    for user in (BOB, CAROL):
        house.connect(user)
        house.rescue.pushed(user, 5, to_all)
    house.pass_time(SECONDS + 2)
    assert house.rescued() == [(b"hello", [BOB, CAROL])]


def test_what_is_watched_is_bounded() -> None:
    """What would be too much is counted; what was answered makes room."""
    house = House(most_bytes=10 * (300 + 1000))
    connection = house.connect(BOB)
    for _ in range(15):
        house.rescue.pushed(BOB, next(NUMBERS), message(bytes(1000)))
    assert house.metrics.unwatched_pushes.values == {"": 5}
    house.now += 1
    connection.heard_at = house.now
    house.pass_time(2)
    for _ in range(11):
        house.rescue.pushed(BOB, next(NUMBERS), message(bytes(1000)))
    assert house.metrics.unwatched_pushes.values == {"": 6}
    house.pass_time(100)
    assert len(house.push_queue.pushed) == 10
