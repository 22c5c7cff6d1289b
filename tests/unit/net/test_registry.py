"""Who is connected, and in which rooms."""

import pytest
from zope.interface.verify import verifyObject

from imserver.interfaces import IClientRegistry
from imserver.metrics import Metrics
from imserver.model import SignIn, UserKey
from imserver.net.registry import ClientRegistry
from imserver.protocol.commands import Platform
from tests.fakes.chat import FakeConnection

ALICE = UserKey(7, 1)
BOB = UserKey(7, 2)


def connected(
    registry: ClientRegistry,
    user: UserKey = ALICE,
    platform: Platform = Platform.WEB,
    notification_on: bool = False,
) -> FakeConnection:
    """A connection that has signed in."""
    connection = FakeConnection()
    connection.signed_in(SignIn(user, 0, notification_on=notification_on), platform, b"", 2)
    registry.add(connection)
    return connection


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def registry(metrics: Metrics) -> ClientRegistry:
    return ClientRegistry(metrics)


def test_it_is_a_registry(registry: ClientRegistry) -> None:
    """It provides the interface."""
    assert verifyObject(IClientRegistry, registry)


def test_first_and_last(registry: ClientRegistry) -> None:
    """Two tabs of one user: the first is the first, and only when both are gone was it the last."""
    first, second = FakeConnection(), FakeConnection()
    for tab in (first, second):
        tab.signed_in(SignIn(ALICE, 0), Platform.WEB, b"", 2)
    assert registry.add(first)
    assert not registry.add(second)
    assert list(registry.connections_of(ALICE)) == [first, second]
    assert not registry.remove(first)
    assert list(registry.connections_of(ALICE)) == [second]
    assert registry.remove(second)
    assert list(registry.connections_of(ALICE)) == []
    assert registry.add(first)


def test_unknown_connections(registry: ClientRegistry) -> None:
    """Removing what is not there, or no longer, changes nothing."""
    there = connected(registry)
    stranger = FakeConnection()
    assert not registry.remove(stranger)
    stranger.signed_in(SignIn(ALICE, 0), Platform.WEB, b"", 2)
    assert not registry.remove(stranger)
    assert list(registry.connections_of(ALICE)) == [there]
    assert registry.remove(there)
    assert not registry.remove(there)


def test_apps_are_apart(registry: ClientRegistry) -> None:
    """The same uid, and the same room, of another app is somebody and somewhere else."""
    here, there = connected(registry, UserKey(7, 1)), connected(registry, UserKey(9, 1))
    registry.enter_room(here, 5)
    registry.enter_room(there, 5)
    assert list(registry.connections_of(UserKey(9, 1))) == [there]
    assert list(registry.connections_in(7, 5)) == [here]
    assert list(registry.connections_in(9, 5)) == [there]


def test_rooms(registry: ClientRegistry) -> None:
    """A connection is in one room at most, and hears in the order of entering."""
    first, second = connected(registry), connected(registry, BOB)
    registry.enter_room(first, 5)
    registry.enter_room(second, 5)
    assert list(registry.connections_in(7, 5)) == [first, second]
    registry.enter_room(first, 6)
    assert first.room == 6
    assert list(registry.connections_in(7, 5)) == [second]
    assert list(registry.connections_in(7, 6)) == [first]
    registry.leave_room(first)
    assert first.room == 0
    registry.leave_room(first)
    assert list(registry.connections_in(7, 6)) == []


def test_leaving_takes_one_out_of_the_room(registry: ClientRegistry) -> None:
    """A connection that is gone is gone from its room."""
    here = connected(registry)
    registry.enter_room(here, 5)
    registry.remove(here)
    assert list(registry.connections_in(7, 5)) == []
    assert here.room == 0


def test_nothing_is_left(registry: ClientRegistry, metrics: Metrics) -> None:
    """Users and rooms without connections take no memory, and the gauges say so."""
    everybody = [connected(registry, UserKey(7, uid)) for uid in range(1, 20)]
    for room, connection in enumerate(everybody, 1):
        registry.enter_room(connection, room)
    assert metrics.users_online.read() == {"": 19}
    assert metrics.rooms.read() == {"": 19}
    for connection in everybody:
        registry.remove(connection)
    assert registry._users == {}
    assert registry._rooms == {}
    assert metrics.users_online.read() == {"": 0}
    assert metrics.rooms.read() == {"": 0}


def test_everyone_is_a_copy(registry: ClientRegistry) -> None:
    """Whoever closes everyone does not change what is gone through."""
    everybody = [connected(registry), connected(registry), connected(registry, BOB)]
    for connection in registry.everyone():
        registry.remove(connection)
    assert list(registry.everyone()) == []
    assert len(everybody) == 3


@pytest.mark.parametrize(
    ("devices", "online"),
    [
        ([], False),
        ([(Platform.IOS, False)], True),
        ([(Platform.ANDROID, True)], True),
        ([(Platform.WEB, False)], True),
        ([(Platform.WEB, True)], False),
        ([(Platform.MACOS, True), (Platform.WINDOWS, True)], False),
        ([(Platform.WEB, True), (Platform.IOS, True)], True),
        ([(Platform.WEB, True), (Platform.WINDOWS, False)], True),
    ],
)
def test_online_for_push(registry: ClientRegistry, devices: list[tuple[Platform, bool]], online: bool) -> None:
    """A phone counts always, a desktop unless its user wants the phones notified all the same."""
    for platform, notification_on in devices:
        connected(registry, ALICE, platform, notification_on)
    assert registry.is_online(ALICE) is online


def test_a_closed_connection_is_not_online(registry: ClientRegistry) -> None:
    """What is closed takes no message any more: from then on the phone is to be notified, not seconds later."""
    phone = connected(registry, ALICE, Platform.IOS)
    desktop = connected(registry, ALICE, Platform.MACOS)
    phone.close("kicked")
    assert registry.is_online(ALICE)
    desktop.close("kicked")
    assert not registry.is_online(ALICE)
