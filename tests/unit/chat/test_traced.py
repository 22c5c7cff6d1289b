"""What the domain tells the trace."""

from typing import Any

from imserver.chat.policy import Policy
from imserver.chat.rescue import Rescue
from imserver.chat.table import Chat
from imserver.chat.trace import Trace
from imserver.model import UserKey
from imserver.protocol.commands import AckStatus
from imserver.protocol.messages import IM, Ack, GroupIM
from tests.fakes.chat import FakeConnection
from tests.unit.chat.world import APP, World

ALICE, BOB, CAROL = 1, 2, 3
HELLO = IM(ALICE, BOB, 0, 77, b"hello")


class Traced(World):
    """The domain with a trace of its messages."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace(10, False, True, lambda: self.now, lambda: self.seconds)
        self.rescue = Rescue(self.registry, self.push_queue, self.metrics, lambda: self.seconds, 20.0, self.trace)
        self.chat = Chat(
            directory=self.directory,
            groups=self.groups,
            registry=self.registry,
            timelines=self.timelines,
            sync_keys=self.timelines,
            bus=self.bus,
            push_queue=self.push_queue,
            policy=Policy(),
            metrics=self.metrics,
            now=lambda: self.now,
            monotonic=lambda: self.seconds,
            rescue=self.rescue,
            trace=self.trace,
        )
        self.posts = self.chat.posts

    def ack(self, connection: FakeConnection, place: int) -> None:
        """A client acknowledges the push at this place among those that it was given."""
        connection.numbers[1000 + place] = connection.pushes[place].number
        self.say(connection, Ack(1000 + place))


def events(world: Traced, message: int) -> list[tuple[str, Any]]:
    """The events of a message, each with the connections or users it names, or the connection it came from."""
    shown = world.trace.of_message(message)
    assert shown is not None
    return [
        (
            event["event"],
            [one["number"] for one in event["connections"]]
            if "connections" in event
            else [one["uid"] for one in event["users"]]
            if "users" in event
            else event.get("connection"),
        )
        for event in shown["events"]
        if event["event"] != "stored"
    ]


def test_peer_message() -> None:
    """Accepted, pushed to those who are here, queued for who is not, acknowledged."""
    world = Traced()
    alice, tablet, bob = world.connect(ALICE, b"phone"), world.connect(ALICE, b"tablet"), world.connect(BOB)
    world.seconds = 5.0
    world.say(alice, HELLO)
    world.ack(bob, 0)
    world.say(bob, Ack(5))
    world.say(alice, IM(ALICE, CAROL, 0, 78, b"hello"))
    assert events(world, 1) == [
        ("accepted", alice.number),
        ("pushed", [tablet.number, bob.number]),
        ("not_queued", [BOB]),
        ("acknowledged", bob.number),
    ]
    assert events(world, 2) == [("accepted", alice.number), ("pushed", [tablet.number]), ("queued", [CAROL])]


def test_times() -> None:
    """It was accepted when it came, and stored when the disk had it."""
    world = Traced()
    alice = world.connect(ALICE)
    world.timelines.hold()
    for connection_speaks in (True, False):
        if connection_speaks:
            world.say(alice, HELLO)
        else:
            world.posts.peer(APP, ALICE, BOB, b"posted")
    world.seconds = 3.0
    world.timelines.release()
    for message, origin in ((1, alice.number), (2, None)):
        shown = world.trace.of_message(message)
        assert shown is not None
        accepted, stored = shown["events"][:2]
        assert stored["at"] - accepted["at"] == 3.0
        assert accepted["connection"] == origin


def test_super_group_message() -> None:
    """Members who are here and members who are not."""
    world = Traced()
    world.groups.add_group(APP, 20, [ALICE, BOB, CAROL], is_super=True)
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, GroupIM(ALICE, 20, 0, 0, b"hello"))
    world.ack(bob, 0)
    assert events(world, 1) == [
        ("accepted", alice.number),
        ("pushed", [bob.number]),
        ("queued", [CAROL]),
        ("acknowledged", bob.number),
    ]


def test_sent_again() -> None:
    """A resend is an event of the first."""
    world = Traced()
    alice = world.connect(ALICE)
    world.say(alice, HELLO)
    world.say(alice, HELLO, seq=2)
    assert events(world, 1)[-1] == ("resent", alice.number)


def test_refused_and_not_stored() -> None:
    """Why, in the order in which they were answered."""
    world = Traced()
    world.settings(ALICE, forbidden=True)
    alice = world.connect(ALICE)
    world.say(alice, HELLO, seq=1)
    alice.forbidden = False
    world.timelines.full = True
    world.say(alice, HELLO, seq=2)
    refused = [one["events"][0] for one in world.trace.of_user(UserKey(APP, ALICE), 10)]
    assert [(event["seq"], event["status"]) for event in refused] == [(1, AckStatus.MUTED), (2, AckStatus.NOT_STORED)]


def test_rescued() -> None:
    """Whom nobody heard after the push."""
    world = Traced()
    alice, bob = world.connect(ALICE), world.connect(BOB)
    bob.heard_at = 1.0
    world.seconds = 5.0
    world.say(alice, HELLO)
    for world.seconds in (8.0, 30.0):
        world.rescue.sweep()
    assert events(world, 1)[-1] == ("rescued", [BOB])


def test_notification_is_not_acknowledged() -> None:
    """Clients are told to sync: there is no frame of it that they could acknowledge."""
    world = Traced()
    bob = world.connect(BOB)
    world.posts.system(APP, [BOB], b"hello")
    assert [push.number for push in bob.pushes] == [0]


def test_without_trace() -> None:
    """Nothing is remembered, and ACKs are no news."""
    world = World()
    alice, bob = world.connect(ALICE), world.connect(BOB)
    world.say(alice, HELLO)
    assert [push.number for push in bob.pushes] == [0]
    world.say(bob, Ack(1))
