"""IPushQueue, as every queue and the fake have to do it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from imserver.interfaces import IPushQueue
from imserver.model import NewMessage, UserKey, user_timeline
from imserver.protocol.commands import Command
from imserver.protocol.messages import (
    IM,
    Customer,
    CustomerSupport,
    CustomerV2,
    GroupIM,
    GroupNotification,
    Message,
    System,
)
from imserver.push.log import LogPush, NoPush
from tests.contract.push_house import House
from tests.fakes.chat import FakePushQueue
from tests.leaks import FlushLoggedErrors

ALICE, BOB, CAROL = UserKey(7, 1), UserKey(7, 2), UserKey(17, 3)
CONTENT = b'{"text":"s3cret"}'
MESSAGES: list[Message] = [
    IM(1, 2, 5, 0, CONTENT),
    GroupIM(1, 1000, 5, 0, CONTENT),
    GroupNotification(CONTENT),
    System(CONTENT),
    Customer(7, 1, 0, 3, 5, CONTENT),
    CustomerSupport(7, 1, 0, 3, 5, CONTENT),
    CustomerV2(7, 1, 17, 3, 5, CONTENT),
]


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.queue.stop()
    await house.lanes.stop()


@pytest.fixture(params=["fake", "none", "log", "webhook", "webhook without a database"])
def queue(request: pytest.FixtureRequest) -> IPushQueue:
    match request.param:
        case "fake":
            return FakePushQueue()
        case "none":
            return NoPush()
        case "log":
            return LogPush()
    house: House = request.getfixturevalue("house")
    if request.param != "webhook":
        pytest_twisted.blockon(house.lanes.writes.stop())
    return house.queue


def message(command: int, body: bytes) -> NewMessage:
    return NewMessage(command, 0, body, 5, (user_timeline(ALICE), user_timeline(BOB)))


def test_implements_the_interface(queue: IPushQueue) -> None:
    """Each has the method, with these arguments."""
    assert verifyObject(IPushQueue, queue)


RECEIVERS = [[], [BOB], [BOB, CAROL], [UserKey(7, uid) for uid in range(2, 3000)]]


@pytest.mark.parametrize("pushed", MESSAGES, ids=lambda message: message.command.name)
def test_takes_every_message(queue: IPushQueue, pushed: Message) -> None:
    """Of any command that is stored, for any number of users; it leaves them as they are, and says no content."""
    for receivers in RECEIVERS:
        before = list(receivers)
        with capturedLogs() as events:
            queue.push(message(pushed.command, pushed.encode(2)), receivers)
        assert receivers == before
        assert "s3cret" not in "".join(str(formatEvent(event)) for event in events)


def test_never_raises(queue: IPushQueue, flush_logged_errors: FlushLoggedErrors) -> None:
    """Not even for what cannot be stored, which is a bug elsewhere: the message that it came from is on disk."""
    for command in (*Command, 0, 255, -1):
        for body in (b"", b"\xff" * 7, b"\xff" * 100):
            queue.push(message(command, body), [BOB, CAROL])
            assert len(flush_logged_errors()) <= 1
