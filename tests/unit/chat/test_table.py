"""Every command, and what the other one waits for."""

import pytest

from imserver.interfaces import Unavailable
from imserver.protocol.commands import CLIENT_MAY_SEND, AckStatus, Command, Platform
from imserver.protocol.messages import (
    IM,
    Ack,
    Customer,
    CustomerSupport,
    CustomerV2,
    GroupIM,
    GroupSyncKey,
    Message,
    Metadata,
    Ping,
    Pong,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
)
from tests.unit.chat.world import APP, World, plain

ALICE, BOB = 1, 2
GROUP = 5


def test_ping(world: World) -> None:
    """PING is answered, every time."""
    alice = world.connect(ALICE)
    for _ in range(2):
        assert world.say(alice, Ping()) is None
    assert alice.units == [plain([Pong()]), plain([Pong()])]


@pytest.mark.parametrize("message", [Ack(1), Pong(), Metadata(3, 2)], ids=lambda message: message.command.name)
def test_what_needs_no_answer(world: World, message: Message) -> None:
    """ACK is welcome, PONG and METADATA are tolerated: nothing comes of them."""
    alice = world.connect(ALICE)
    assert world.say(alice, message) is None
    assert (alice.units, alice.closing, world.metrics.ignored.values) == ([], "", {})


@pytest.mark.parametrize("version", [0, 1, 2])
def test_group_messages(world: World, version: int) -> None:
    """There is no group: clients of every version are told so."""
    alice = world.connect(ALICE, version=version)
    assert world.say(alice, GroupIM(ALICE, GROUP, 0, 1, b"hello"), seq=4) is None
    assert alice.units == [plain([Ack(4, AckStatus.GROUP_NONEXISTENT if version == 2 else AckStatus.SUCCESS)])]
    assert world.timelines.entries == {}
    assert world.metrics.refusals.values == {"group_nonexistent": 1}


def test_group_message_is_answered_in_its_turn(world: World) -> None:
    """Not before the messages that were sent before it, whether they are stored or not."""
    alice = world.connect(ALICE)
    for failing, answers in ((None, [[Metadata(2, 1), Ack(1)]]), (Unavailable("wanted"), [[Ack(1, 68)]])):
        alice.forget()
        world.timelines.hold()
        world.timelines.failing = failing
        world.say(alice, IM(ALICE, BOB, 0, 0, b"hello"), seq=1)
        world.say(alice, GroupIM(ALICE, GROUP, 0, 0, b"hello"), seq=2)
        assert (alice.units, alice.unfinished) == ([], 2)
        world.timelines.release()
        assert alice.units == [*map(plain, answers), plain([Ack(2, AckStatus.GROUP_NONEXISTENT)])]
        assert alice.unfinished == 0


@pytest.mark.parametrize(("group", "key"), [(GROUP, 0), (GROUP, 7), (0, 0), (-1, -1), (2**63 - 1, 2**63 - 1)])
def test_sync_group(world: World, group: int, key: int) -> None:
    """It is always answered: where there is no group, with nothing between BEGIN and END."""
    alice = world.connect(ALICE)
    assert world.say(alice, SyncGroup(group, key)) is None
    assert alice.said == plain([SyncGroupBegin(group, key), SyncGroupEnd(group, key)])


def test_group_sync_key(world: World) -> None:
    """There is nothing to remember it for."""
    alice = world.connect(ALICE)
    assert world.say(alice, GroupSyncKey(GROUP, 7)) is None
    assert (alice.units, world.timelines.saved) == ([], {})
    assert world.metrics.ignored.values == {"group": 1}


@pytest.mark.parametrize(
    "message",
    [
        Customer(APP, ALICE, 1, BOB, 0, b"hello"),
        CustomerSupport(APP, BOB, 1, ALICE, 0, b"hello"),
        CustomerV2(APP, ALICE, APP, BOB, 0, b"hello"),
    ],
    ids=lambda message: message.command.name,
)
def test_commands_of_later_releases(world: World, message: Message) -> None:
    """They are counted, and not acknowledged: nobody shall believe that they were stored."""
    alice, bob = world.connect(ALICE), world.connect(BOB)
    assert world.say(alice, message) is None
    assert (alice.units, bob.units, alice.closing) == ([], [], "")
    assert world.timelines.entries == {}
    assert world.metrics.ignored.values == {"unsupported": 1}


def test_which_commands_wait_for_no_other(world: World) -> None:
    """Messages that are stored, which are answered in order, and what has no effect. All else waits its turn."""
    pipelined = {command for command in range(256) if world.chat.is_pipelined(command)}
    assert pipelined == {
        Command.IM,
        Command.GROUP_IM,
        Command.CUSTOMER,
        Command.CUSTOMER_SUPPORT,
        Command.CUSTOMER_V2,
        Command.ACK,
        Command.PONG,
        Command.METADATA,
    }


def test_every_command_of_clients_is_known(world: World) -> None:
    """Each has somebody who carries it out, but for those of later releases."""
    later = {Command.CUSTOMER, Command.CUSTOMER_SUPPORT, Command.CUSTOMER_V2}
    assert world.chat._handle.keys() == CLIENT_MAY_SEND - later


def test_two_apps(world: World) -> None:
    """Users of the same number in two apps are two users."""
    here, there = world.connect(ALICE), world.connect(ALICE, b"phone", Platform.IOS, appid=8)
    world.say(here, IM(ALICE, ALICE, 0, 1, b"note"))
    assert there.units == []
    assert world.stored(ALICE, appid=8) == []
