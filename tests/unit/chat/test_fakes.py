"""The fakes are what they pose as."""

from zope.interface.verify import verifyObject

from imserver.interfaces import IBus, IChat, IConnection, IPushQueue, ISyncKeys, ITimelines
from tests.fakes.chat import FakeBus, FakeConnection, FakePushQueue, SlowTimelines
from tests.unit.chat.world import World


def test_fakes_provide_their_interfaces() -> None:
    """Every fake that the domain's tests stand on has what its interface says."""
    assert verifyObject(IConnection, FakeConnection())
    assert verifyObject(IBus, FakeBus())
    assert verifyObject(IPushQueue, FakePushQueue())
    assert verifyObject(ITimelines, SlowTimelines(lambda: 0.0))
    assert verifyObject(ISyncKeys, SlowTimelines(lambda: 0.0))


def test_chat_provides_its_interface(world: World) -> None:
    """What connections are given is an IChat."""
    assert verifyObject(IChat, world.chat)
