"""What is remembered of messages, and what is said of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from imserver.chat.trace import MOST_LISTED, Trace
from imserver.model import NewMessage, SignIn, Stored, TimelineKey, UserKey, group_timeline, user_timeline
from imserver.protocol.commands import NEWEST_VERSION, AckStatus, Command, Platform
from imserver.protocol.messages import IM, GroupIM, GroupNotification
from tests.fakes.chat import FakeConnection

ADA, BOB, CAROL = UserKey(7, 1), UserKey(7, 2), UserKey(7, 3)
EPOCH = 1_700_000_000.0


class House:
    """Ada sends to Bob; the monotonic clock began at 0, at `EPOCH`."""

    def __init__(self, most: int = 100, keeps_content: bool = False, has_push_queue: bool = True) -> None:
        self.seconds = 10.0
        self.trace = Trace(most, keeps_content, has_push_queue, lambda: EPOCH + self.seconds, lambda: self.seconds)
        self.ada = connection(ADA)
        self.bob = connection(BOB)

    def store(
        self,
        number: int = 5,
        users: Sequence[UserKey] = (ADA, BOB),
        told: Sequence[FakeConnection] | None = None,
        offline: Sequence[UserKey] = (),
        queued: bool = False,
        command: Command = Command.IM,
        timelines: tuple[TimelineKey, ...] | None = None,
        body: bytes | None = None,
        origin: FakeConnection | None = None,
    ) -> None:
        """A message came two seconds ago and was stored one second ago. Its keys are its number and those after it."""
        if timelines is None:
            timelines = tuple(map(user_timeline, users))
        body = IM(1, 2, 5, 0, b"hello").encode(NEWEST_VERSION) if body is None else body
        message = NewMessage(command, 0, body, 5, timelines, 4, None, ADA)
        keys = tuple(range(number, number + len(timelines)))
        told = [self.bob] if told is None else told
        self.trace.stored(
            Stored(number, keys), message, origin, self.seconds - 2, self.seconds - 1, told, offline, queued
        )

    def of(self, number: int = 5) -> Mapping[str, Any]:
        shown = self.trace.of_message(number)
        assert shown is not None
        return shown

    def event(self, name: str, number: int = 5) -> Mapping[str, Any]:
        """The one event of this name."""
        [event] = self.events(name, number)
        return event

    def events(self, name: str, number: int = 5) -> list[Mapping[str, Any]]:
        return [event for event in self.of(number)["events"] if event["event"] == name]


def connection(user: UserKey, device: int = 4) -> FakeConnection:
    connection = FakeConnection()
    connection.signed_in(SignIn(user, device), Platform.ANDROID, b"phone", 2)
    return connection


def uids(event: Mapping[str, Any]) -> list[int]:
    return [user["uid"] for user in event["users"]]


def test_a_message_that_arrives() -> None:
    """From the client's connection to the ACK of the other: all of it, in order, at its time."""
    house = House()
    house.store(origin=house.ada)
    house.seconds = 12.5
    house.trace.acknowledged(house.bob, 5)
    house.seconds = 100.0
    ada, bob = {"appid": 7, "uid": 1}, {"appid": 7, "uid": 2}
    assert house.of() == {
        "message": 5,
        "command": "IM",
        "sender": ada,
        "group": 0,
        "content": None,
        "pushes": 1,
        "acknowledgements": 1,
        "events": [
            {"at": EPOCH + 8, "event": "accepted", "connection": house.ada.number, "device": 4},
            {
                "at": EPOCH + 9,
                "event": "stored",
                "entries": 2,
                "timelines": [
                    {"kind": "user", "appid": 7, "owner": 1, "key": 5},
                    {"kind": "user", "appid": 7, "owner": 2, "key": 6},
                ],
            },
            {"at": EPOCH + 9, "event": "pushed", "count": 1, "connections": [{"number": house.bob.number, **bob}]},
            {"at": EPOCH + 9, "event": "not_queued", "reason": "online", "count": 1, "users": [bob]},
            {"at": EPOCH + 12.5, "event": "acknowledged", "connection": house.bob.number, **bob},
        ],
    }


def test_over_http() -> None:
    """It came from no connection."""
    house = House()
    house.store()
    assert house.event("accepted")["connection"] is None


@pytest.mark.parametrize(
    ("queued", "has_push_queue", "name", "reason"),
    [
        (True, True, "queued", None),
        (True, False, "not_queued", "no_push_queue"),
        (False, True, "not_queued", "silent"),
        (False, False, "not_queued", "silent"),
    ],
)
def test_nobody_is_online(queued: bool, has_push_queue: bool, name: str, reason: str | None) -> None:
    """Whose phones are told, or why they are not."""
    house = House(has_push_queue=has_push_queue)
    house.store(told=(), offline=[BOB], queued=queued)
    event = house.event(name)
    assert (event.get("reason"), event["count"], uids(event)) == (reason, 1, [2])
    assert house.event("pushed")["count"] == 0
    assert len(house.of()["events"]) == 4


def test_some_are_online() -> None:
    """Of three receivers one is offline; a sender is not among those who miss something."""
    house = House()
    house.store(users=(ADA, BOB, CAROL, UserKey(7, 4)), offline=[CAROL], queued=True, command=Command.SYSTEM)
    assert uids(house.event("queued")) == [3]
    assert uids(house.event("not_queued")) == [2, 4]


def test_to_oneself() -> None:
    """Nobody else is to be told."""
    house = House()
    house.store(users=(ADA,), told=())
    assert [event["event"] for event in house.of()["events"]] == ["accepted", "stored", "pushed"]


def test_group_message() -> None:
    """The group stands in no timeline, but in the message."""
    house = House()
    body = GroupIM(1, 2**53 - 1, 5, 0, b"hello").encode(NEWEST_VERSION)
    house.store(users=(ADA, BOB, CAROL), command=Command.GROUP_IM, body=body)
    assert (house.of()["command"], house.of()["group"]) == ("GROUP_IM", 2**53 - 1)


def test_super_group() -> None:
    """One timeline for all; its members are those who are told and those who are offline."""
    house = House()
    body = GroupIM(1, 20, 5, 0, b"hello").encode(NEWEST_VERSION)
    timelines = (group_timeline(7, 20),)
    house.store(command=Command.GROUP_IM, body=body, timelines=timelines, offline=[CAROL], queued=True)
    assert house.event("stored")["timelines"] == [{"kind": "group", "appid": 7, "owner": 20, "key": 5}]
    assert house.events("not_queued") == []
    assert uids(house.event("queued")) == [3]


def test_super_group_and_who_left_it() -> None:
    """A notification stands in the group's timeline and in theirs: they are online or not, as far as that is known."""
    house = House()
    timelines = (group_timeline(7, 20), user_timeline(BOB))
    for number, offline in ((5, 3), (6, 30)):
        members = [UserKey(7, 100 + uid) for uid in range(offline)]
        house.store(number, command=Command.GROUP_NOTIFICATION, timelines=timelines, offline=members)
    assert [(event["reason"], event["count"]) for event in house.events("not_queued", 5)] == [
        ("online", 1),
        ("silent", 3),
    ]
    assert [(event["reason"], event["count"]) for event in house.events("not_queued", 6)] == [("silent", 30)]


def test_large_groups_are_counted() -> None:
    """Of many timelines, connections, users and ACKs there are the numbers, and no more than a few of them."""
    house = House()
    users = [UserKey(7, uid) for uid in range(1, 3001)]
    told = [connection(user) for user in users[1:2001]]
    house.store(users=users, told=told, offline=users[2001:], queued=True, command=Command.GROUP_IM)
    for one in told[:50]:
        house.trace.acknowledged(one, 5)
    shown = house.of()
    assert (shown["pushes"], shown["acknowledgements"]) == (2000, 50)
    stored, pushed, queued = house.event("stored"), house.event("pushed"), house.event("queued")
    assert (stored["entries"], stored["timelines"]) == (3000, [])
    assert (pushed["count"], len(pushed["connections"])) == (2000, MOST_LISTED)
    assert (queued["count"], uids(queued)) == (999, list(range(2002, 2002 + MOST_LISTED)))
    assert house.events("not_queued") == []
    acknowledged = [event["connection"] for event in house.events("acknowledged")]
    assert acknowledged == [one.number for one in told[:MOST_LISTED]]


def test_as_many_as_are_listed() -> None:
    """Twenty timelines are not many yet; twenty-one are."""
    house = House()
    users = [UserKey(7, uid) for uid in range(1, 22)]
    house.store(5, users=users[:20])
    house.store(6, users=users)
    assert len(house.event("stored", 5)["timelines"]) == 20
    assert house.event("stored", 6)["timelines"] == []


def test_all_at_once() -> None:
    """A clock that does not tell things apart does not bring them out of order."""
    house = House()
    house.store()
    house.seconds -= 1
    house.trace.acknowledged(house.bob, 5)
    house.trace.resent(Stored(5, (5,), resent=True), house.ada)
    house.trace.rescued(5, [BOB])
    events = [event["event"] for event in house.of()["events"]]
    assert events == ["accepted", "stored", "pushed", "not_queued", "acknowledged", "resent", "rescued"]


def test_sent_again() -> None:
    """It is the same message, and the second time is one of its events."""
    house = House()
    house.store()
    house.trace.resent(Stored(5, (5,), resent=True), house.ada)
    event = house.event("resent")
    assert event == {"at": EPOCH + 10, "event": "resent", "connection": house.ada.number, "device": 4}
    assert [one["message"] for one in house.trace.of_user(ADA, 10)] == [5]
    house.store(6)
    house.trace.resent(Stored(5, (5,), resent=True), house.ada)
    assert [one["message"] for one in house.trace.of_user(ADA, 1)] == [6], "it does not become new by that"


def test_sent_again_when_the_first_is_forgotten() -> None:
    """After a restart, say: then nothing is known but that. It is told once, however often it came."""
    house = House()
    for _ in range(3):
        house.trace.resent(Stored(5, (5,), resent=True), house.ada)
    shown = house.of()
    assert (shown["message"], shown["command"], shown["sender"]) == (5, None, {"appid": 7, "uid": 1})
    assert [event["event"] for event in shown["events"]] == ["resent"] * 3
    assert house.trace.of_user(ADA, 10) == [shown]
    assert house.trace.of_user(BOB, 10) == []


def test_rescued() -> None:
    """Nobody answered: the phone is told after all."""
    house = House()
    house.store()
    house.seconds = 30.0
    house.trace.rescued(5, [BOB])
    event = house.event("rescued")
    assert event == {
        "at": EPOCH + 30,
        "event": "rescued",
        "seconds": 21.0,
        "count": 1,
        "users": [{"appid": 7, "uid": 2}],
    }
    house.trace.rescued(6, [BOB])
    assert house.trace.of_message(6) is None


def test_refused() -> None:
    """It has no number, and is told of to who asks about its sender."""
    house = House()
    house.trace.refused(house.ada, 17, AckStatus.IN_YOUR_BLACKLIST)
    nothing = dict.fromkeys(("message", "command", "group", "content", "pushes", "acknowledgements"))
    event = {
        "at": EPOCH + 10,
        "event": "refused",
        "connection": house.ada.number,
        "device": 4,
        "seq": 17,
        "status": 3,
        "reason": "in_your_blacklist",
    }
    assert house.trace.of_user(ADA, 10) == [{**nothing, "sender": {"appid": 7, "uid": 1}, "events": [event]}]
    assert house.trace.of_user(BOB, 10) == []


def test_of_a_user() -> None:
    """What they sent, what was sent to them and what was refused, the newest of it, in order; nobody else's."""
    house = House()
    for number in range(1, 6):
        house.seconds += 10
        house.store(number)
        house.store(number + 100, users=(CAROL,), timelines=(user_timeline(CAROL),))
        house.trace.refused(house.bob, number, AckStatus.MUTED)
        house.trace.refused(connection(UserKey(8, 2)), number, AckStatus.MUTED)
    house.store(200, users=(UserKey(8, 2),))
    shown = house.trace.of_user(BOB, 3)
    assert [(one["message"], one["events"][0].get("seq")) for one in shown] == [(None, 4), (5, None), (None, 5)]
    assert [one["message"] for one in house.trace.of_user(BOB, 100) if one["message"]] == [1, 2, 3, 4, 5]
    assert [one["message"] for one in house.trace.of_user(ADA, 2)] == [105, 200]
    assert [one["message"] for one in house.trace.of_user(UserKey(8, 2), 100)].count(200) == 1
    assert house.trace.of_user(UserKey(9, 2), 100) == []


def test_memory_is_bounded() -> None:
    """The newest are remembered. Floods of one kind do not take the place of another."""
    house = House(most=10)
    for number in range(1, 31):
        house.store(number)
    house.trace.resent(Stored(30, (30,), resent=True), house.ada)
    for seq in range(100):
        house.trace.refused(house.ada, seq, AckStatus.MUTED)
    assert house.trace.of_message(20) is None
    assert [one["message"] for one in house.trace.of_user(BOB, 100)] == list(range(21, 31))
    seqs = [event["seq"] for one in house.trace.of_user(ADA, 10) for event in one["events"] if "seq" in event]
    assert seqs == list(range(90, 100))
    for _ in range(100):
        house.trace.resent(Stored(1, (1,), resent=True), house.ada)
        house.trace.rescued(25, [BOB])
    assert len(house.events("resent", 1)) == 10
    assert len(house.events("rescued", 25)) == 10
    assert house.events("resent", 30) == []


def test_forgotten_acknowledgements_are_not_taken_for_none() -> None:
    """Where others may have taken their place, nobody can say how many there were."""
    house = House(most=10)
    house.store(5)
    house.store(6, told=())
    house.seconds += 1
    for _ in range(39):
        house.trace.acknowledged(house.ada, 999)
    assert house.of(5)["acknowledgements"] == 0
    house.trace.acknowledged(house.bob, 5)
    assert house.of(5)["acknowledgements"] is None
    assert len(house.events("acknowledged", 5)) == 1
    assert house.of(6)["acknowledgements"] == 0, "it was pushed to nobody"
    house.seconds += 10
    house.store(7)
    assert house.of(7)["acknowledgements"] == 0


def test_nothing_of_a_large_message_is_held() -> None:
    """Without content no body is kept, and no list of a large group."""
    house = House()
    house.store(5, body=bytes(30_000), users=[UserKey(7, uid) for uid in range(1, 1000)])
    [record] = house.trace._records
    assert (record.body, record.keys, record.timelines) == (b"", (), ())


def test_content() -> None:
    """Where it is kept, it is the beginning, whatever the command; bytes that are no text are shown as such."""
    house = House(keeps_content=True)
    house.store(5)
    assert house.of(5)["content"] == "hello"
    house.store(6, body=GroupNotification(b'{"create": 1}').encode(2), command=Command.GROUP_NOTIFICATION)
    assert house.of(6)["content"] == '{"create": 1}'
    house.store(7, body=IM(1, 2, 5, 0, b"\xff" + bytes(30_000)).encode(NEWEST_VERSION))
    assert house.of(7)["content"] == "\N{REPLACEMENT CHARACTER}" + "\0" * 999
    house.trace.resent(Stored(1, (1,), resent=True), house.ada)
    assert house.of(1)["content"] is None


def test_clock_that_was_set() -> None:
    """Times are those of the clock as it is now: the order stays what it was."""
    house = House()
    house.store()
    house.trace._now = lambda: EPOCH - 3600 + house.seconds
    assert [event["at"] for event in house.of()["events"]] == [EPOCH - 3600 + 8, *[EPOCH - 3600 + 9] * 3]
