"""CUSTOMER_V2, CUSTOMER and CUSTOMER_SUPPORT: between users of other apps and those of the customer-service app."""

from typing import Any

import pytest

from imserver.interfaces import Unavailable
from imserver.model import UserKey
from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.messages import IM, Ack, Customer, CustomerSupport, CustomerV2, Message, Metadata, SyncNotify
from tests.fakes.chat import FakeConnection, Published, Said
from tests.unit.chat.world import APP, NOW, World, acked, plain, pushed, refused

KEFU, OTHER = 17, 8
ALICE, SELLER, BOB = 1, 2, 3
STORE = 900

#: A message each way, of every command, with the app of who says it.
ASKS = Customer(APP, ALICE, STORE, SELLER, 5, b"hello")
ANSWERS = CustomerSupport(APP, ALICE, STORE, SELLER, 5, b"hello")
ASKS_V2 = CustomerV2(APP, ALICE, KEFU, SELLER, 5, b"hello")
ANSWERS_V2 = CustomerV2(KEFU, SELLER, APP, ALICE, 5, b"hello")
ALL = [ASKS, ANSWERS, ASKS_V2, ANSWERS_V2]
BY_ALICE = (ASKS, ASKS_V2)


def ids(message: Message) -> str:
    return message.command.name


def heard(message: Any) -> Any:
    """As everybody gets it: the time is the server's."""
    return changed(message, timestamp=NOW)


def changed(message: Any, **fields: Any) -> Any:
    values = {name: getattr(message, name) for name in message.__struct_fields__} | fields
    return type(message)(**values)


@pytest.fixture
def world() -> World:
    return World(kefu_appid=KEFU)


def both(world: World, message: Message, version: int = 2) -> tuple[FakeConnection, FakeConnection]:
    """Who says the message, and who hears it."""
    alice = world.connect(ALICE, b"phone of alice", version=version)
    seller = world.connect(SELLER, b"phone of seller", appid=KEFU, version=version)
    return (alice, seller) if message in BY_ALICE else (seller, alice)


@pytest.mark.parametrize("message", ALL, ids=ids)
def test_both_timelines(world: World, message: Message) -> None:
    """It stands in both, each in its own app, is pushed to the receiver and the sender's other devices, and acked."""
    world.fill(ALICE, 2)
    sender, receiver = both(world, message)
    assert sender.uid in (ALICE, SELLER)
    tablet = world.connect(sender.uid, b"tablet", appid=sender.appid)
    assert world.say(sender, message, seq=4) is None
    keys = {ALICE: 4, SELLER: 2}
    assert sender.units == [acked(keys[sender.uid], 4)]
    assert tablet.units == [pushed(keys[sender.uid], heard(message))]
    assert receiver.units == [pushed(keys[receiver.uid], heard(message))]
    assert world.stored(ALICE)[-1] == heard(message)
    assert world.stored(SELLER, appid=KEFU) == [heard(message)]
    assert world.stored(ALICE, appid=KEFU) == world.stored(SELLER) == []
    assert Published(UserKey(sender.appid, sender.uid), tablet.units[0], sender.device) in world.bus.published


@pytest.mark.parametrize("message", ALL, ids=ids)
def test_who_is_not_online(world: World, message: Message) -> None:
    """The receiver, in their own app, goes to the push queue."""
    sender, receiver = both(world, message)
    world.leave(receiver)
    world.say(sender, message)
    ((pushed_message, receivers),) = world.push_queue.pushed
    assert (pushed_message.command, receivers) == (message.command, [UserKey(receiver.appid, receiver.uid)])


@pytest.mark.parametrize("message", ALL, ids=ids)
@pytest.mark.parametrize("version", [0, 1])
def test_older_clients(world: World, message: Message, version: int) -> None:
    """The layout is the same in every version, with the time."""
    sender, receiver = both(world, message, version)
    world.say(sender, message, seq=4)
    assert sender.units == [acked(2, 4)]
    assert receiver.said[1].message == heard(message)


@pytest.mark.parametrize(
    "message",
    [
        changed(ASKS, customer=BOB),
        changed(ASKS, customer_appid=OTHER),
        changed(ASKS, customer_appid=KEFU),
        changed(ASKS_V2, sender=BOB),
        changed(ASKS_V2, sender_appid=OTHER),
        changed(ASKS_V2, sender=0),
        ANSWERS,  # Alice is no seller, and not of the customer-service app
        changed(ANSWERS, seller=ALICE),
        ANSWERS_V2,
    ],
    ids=ids,
)
def test_in_anothers_name(world: World, message: Message) -> None:
    """Sender and app must be the connection's own: else it is ignored."""
    alice, seller = world.connect(ALICE), world.connect(SELLER, appid=KEFU)
    for flag in (0, Flag.UNPERSISTENT):
        assert world.say(alice, message, flag) is None
    assert (alice.units, seller.units, world.timelines.entries) == ([], [], {})
    assert world.metrics.ignored.values == {"sender": 2}


def test_a_seller_answers_in_their_own_name(world: World) -> None:
    """Not in that of another seller, nor as the customer."""
    seller = world.connect(SELLER, appid=KEFU)
    for message in (changed(ANSWERS, seller=BOB), changed(ANSWERS_V2, sender=BOB), ASKS, ASKS_V2):
        world.say(seller, message)
    assert (seller.units, world.timelines.entries) == ([], {})
    assert world.metrics.ignored.values == {"sender": 4}


@pytest.mark.parametrize(
    "message",
    [changed(ASKS, seller=receiver) for receiver in (0, -1, 2**53)]
    + [changed(ASKS_V2, receiver=receiver) for receiver in (0, -1, 2**63 - 1)],
)
def test_sellers_that_nobody_can_be(world: World, message: Message) -> None:
    """No timeline is opened for them."""
    alice = world.connect(ALICE)
    world.say(alice, message)
    assert (alice.units, world.timelines.entries) == ([], {})
    assert world.metrics.ignored.values == {"receiver": 1}


@pytest.mark.parametrize(
    "message",
    [
        changed(ANSWERS, customer_appid=0),
        changed(ANSWERS, customer=0),
        changed(ANSWERS_V2, receiver_appid=-5),
        changed(ANSWERS_V2, receiver_appid=2**53),
        changed(ANSWERS_V2, receiver=0),
    ],
)
def test_customers_that_nobody_can_be(world: World, message: Message) -> None:
    """The same the other way, for uid and app."""
    seller = world.connect(SELLER, appid=KEFU)
    world.say(seller, message)
    assert (seller.units, world.timelines.entries) == ([], {})
    assert world.metrics.ignored.values == {"receiver": 1}


def test_not_between_two_other_apps(world: World) -> None:
    """One end must be the customer-service app: it is no way from any app into any other."""
    alice, stranger = world.connect(ALICE), world.connect(SELLER, appid=OTHER)
    world.say(alice, changed(ASKS_V2, receiver_appid=OTHER))
    world.say(alice, changed(ASKS_V2, receiver_appid=APP))
    assert (alice.units, stranger.units, world.timelines.entries) == ([], [], {})
    assert world.metrics.ignored.values == {"customer": 2}


def test_within_the_customer_service_app(world: World) -> None:
    """Sellers talk to each other, and to themselves."""
    seller, colleague = world.connect(SELLER, appid=KEFU), world.connect(BOB, appid=KEFU)
    world.say(seller, CustomerV2(KEFU, SELLER, KEFU, BOB, 0, b"hello"), seq=1)
    world.say(seller, CustomerV2(KEFU, SELLER, KEFU, SELLER, 0, b"note"), seq=2)
    assert seller.units == [acked(2, 1), acked(3, 2)]
    assert colleague.units == [pushed(2, CustomerV2(KEFU, SELLER, KEFU, BOB, NOW, b"hello"))]


@pytest.mark.parametrize("message", ALL, ids=ids)
def test_no_customer_service(message: Message) -> None:
    """By default there is none: such messages are counted, and not acknowledged."""
    world = World()
    for connection in both(world, message):
        assert world.say(connection, message) is None
        assert world.say(connection, message, Flag.UNPERSISTENT) is None
        assert connection.units == []
    assert world.timelines.entries == {}
    assert world.metrics.ignored.values == {"customer": 4}


def test_no_customer_service_and_app_0() -> None:
    """Nor is it app 0, which nobody has."""
    world = World()
    alice = world.connect(ALICE)
    world.say(alice, changed(ASKS_V2, receiver_appid=0))
    assert (alice.units, world.timelines.entries) == ([], {})
    assert world.metrics.ignored.values == {"customer": 1}


@pytest.mark.parametrize("message", ALL, ids=ids)
@pytest.mark.parametrize("flag", [0, Flag.UNPERSISTENT])
@pytest.mark.parametrize(("version", "answer"), [(1, []), (2, [refused(5, AckStatus.MUTED)])])
def test_the_forbidden(world: World, message: Message, flag: int, version: int, answer: list[list[Said]]) -> None:
    """Who may not speak is not heard here either."""
    world.settings(ALICE, forbidden=True)
    world.settings(SELLER, appid=KEFU, forbidden=True)
    sender, receiver = both(world, message, version)
    world.say(sender, message, flag, seq=5)
    assert sender.units == answer
    assert (receiver.units, world.timelines.entries) == ([], {})


@pytest.mark.parametrize("message", ALL, ids=ids)
@pytest.mark.parametrize("flag", [flag for flag in range(64) if not flag & Flag.UNPERSISTENT])
def test_flags_are_the_servers(world: World, message: Message, flag: int) -> None:
    """Of those that the sender sets only TEXT goes on."""
    sender, receiver = both(world, message)
    world.say(sender, message, flag)
    assert receiver.said[1].flag == flag & Flag.TEXT | Flag.PUSH


@pytest.mark.parametrize("message", ALL, ids=ids)
@pytest.mark.parametrize("flag", [0, Flag.UNPERSISTENT])
def test_words_that_are_not_to_be_said(message: Message, flag: int) -> None:
    """They are masked, stored or not."""
    world = World(kefu_appid=KEFU, words=["bad"])
    sender, receiver = both(world, message)
    world.say(sender, changed(message, content=b'{"text":"so bad"}'), flag)
    (got,) = [said.message for said in receiver.said if not isinstance(said.message, Metadata | SyncNotify)]
    assert got == changed(heard(message), content=b'{"text":"so ***"}')


@pytest.mark.parametrize("message", ALL, ids=ids)
def test_resends(world: World, message: Message) -> None:
    """The same uuid is stored and told once."""
    again = changed(message, content=b'{"uuid":"7ac4"}')
    sender, receiver = both(world, message)
    for seq in (1, 2):
        world.say(sender, again, seq=seq)
    assert sender.units == [acked(2, 1), acked(2, 2)]
    assert receiver.units == [pushed(2, heard(again))]


def test_same_uuid_elsewhere(world: World) -> None:
    """To another seller, by another command, as an IM, or from the other side it is another message."""
    alice, seller = both(world, ASKS)
    content = b'{"uuid":"7ac4"}'
    for message in (ASKS, changed(ASKS, seller=BOB), ASKS_V2):
        world.say(alice, changed(message, content=content))
    world.say(alice, IM(ALICE, SELLER, 0, 0, content))
    for message in (ANSWERS, ANSWERS_V2):
        world.say(seller, changed(message, content=content))
    assert world.metrics.resends.values == {"": 0}


@pytest.mark.parametrize("message", ALL, ids=ids)
def test_not_stored(world: World, message: Message) -> None:
    """It is not acknowledged, and nobody hears of it."""
    sender, receiver = both(world, message)
    world.timelines.failing = Unavailable("as the test wants it")
    world.say(sender, message, seq=5)
    assert sender.units == [refused(5, AckStatus.NOT_STORED)]
    assert receiver.units == []


# Not to be stored


@pytest.mark.parametrize("message", [ASKS, ANSWERS], ids=ids)
def test_unpersistent(world: World, message: Message) -> None:
    """It goes to those who are online, the sender's other devices too, and is acked without METADATA: a client that
    took it for an entry of its timeline would look for that in vain."""
    sender, receiver = both(world, message)
    same = world.connect(sender.uid, sender.device_id.encode(), appid=sender.appid)
    tablet = world.connect(sender.uid, b"tablet", appid=sender.appid)
    assert same.device == sender.device
    world.leave(world.connect(BOB))
    assert world.say(sender, message, 0xFF, seq=4) is None
    assert sender.units == [plain([Ack(4)])]
    assert receiver.units == tablet.units == [[Said(heard(message), Flag.TEXT)]]
    assert same.units == []
    assert receiver.pushes[0].timeline is None
    assert (world.timelines.entries, world.push_queue.pushed) == ({}, [])
    published = {(each.user, each.device) for each in world.bus.published}
    assert published == {
        (UserKey(sender.appid, sender.uid), sender.device),
        (UserKey(receiver.appid, receiver.uid), 0),
    }


@pytest.mark.parametrize("message", [ASKS_V2, ANSWERS_V2], ids=ids)
def test_version_2_is_always_stored(world: World, message: Message) -> None:
    """The flag means something with the two older commands only."""
    sender, receiver = both(world, message)
    world.say(sender, message, Flag.UNPERSISTENT, seq=4)
    assert sender.units == [acked(2, 4)]
    assert receiver.units == [pushed(2, heard(message))]


def test_unpersistent_to_nobody(world: World) -> None:
    """Who is not there does not get it: that is no failure."""
    alice = world.connect(ALICE, platform=Platform.WEB)
    world.say(alice, ASKS, Flag.UNPERSISTENT, seq=4)
    assert alice.units == [plain([Ack(4)])]
    assert world.push_queue.pushed == []


def test_unpersistent_keeps_its_place(world: World) -> None:
    """It is sent and acked after what was said before it, though that is still being stored; and what comes behind is
    told after it."""
    alice, seller = both(world, ASKS)
    world.timelines.hold()
    said = [changed(ASKS, content=b"%d" % n) for n in range(4)]
    for seq, message in enumerate(said):
        world.say(alice, message, Flag.UNPERSISTENT if seq % 2 else 0, seq=seq)
    assert (alice.units, seller.units, alice.unfinished) == ([], [], 4)
    world.timelines.release()
    assert alice.units == [acked(2, 0), plain([Ack(1)]), acked(3, 2), plain([Ack(3)])]
    first, second, third, fourth = (heard(message) for message in said)
    assert seller.units == [pushed(2, first), plain([second]), pushed(3, third), plain([fourth])]
    assert alice.unfinished == 0


def test_unpersistent_behind_what_is_not_stored(world: World) -> None:
    """It is sent all the same."""
    alice, seller = both(world, ASKS)
    world.timelines.hold()
    world.say(alice, ASKS, seq=1)
    world.say(alice, ASKS, Flag.UNPERSISTENT, seq=2)
    world.timelines.failing = Unavailable("as the test wants it")
    world.timelines.release()
    assert alice.units == [refused(1, AckStatus.NOT_STORED), plain([Ack(2)])]
    assert seller.units == [plain([heard(ASKS)])]
