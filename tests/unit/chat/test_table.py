"""Every command, and what the other one waits for."""

import pytest

from imserver.protocol.commands import CLIENT_MAY_SEND, Command, Platform
from imserver.protocol.messages import IM, Ack, Message, Metadata, Ping, Pong
from tests.unit.chat.world import World, plain

ALICE = 1


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
    """Each has somebody who carries it out."""
    assert world.chat._handle.keys() == CLIENT_MAY_SEND


def test_two_apps(world: World) -> None:
    """Users of the same number in two apps are two users."""
    here, there = world.connect(ALICE), world.connect(ALICE, b"phone", Platform.IOS, appid=8)
    world.say(here, IM(ALICE, ALICE, 0, 1, b"note"))
    assert there.units == []
    assert world.stored(ALICE, appid=8) == []
