"""Order, whatever a command waits for: a client's messages take effect, and are answered, as they were sent."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.chat import backlog
from imserver.chat.backlog import MOST_ENTRIES
from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    AuthStatus,
    AuthToken,
    Customer,
    CustomerV2,
    GroupIM,
    Message,
    Ping,
    Pong,
    SyncGroup,
    SyncGroupEnd,
)
from tests.fakes.answers import Answers
from tests.unit.chat.line import Line, Outgoing, Server
from tests.unit.chat.world import APP, World

KEFU = 17
ALICE, BOB, STRANGER = 1, 2, 3
GROUP, SUPER, FOREIGN, NOWHERE, MUTED = 50, 60, 70, 80, 90

Say = Callable[[bytes], tuple[Message, int]]

#: All that Alice may say, each with its flag and the status of its ACK. Bob hears those that succeed.
SAYINGS: list[tuple[Say, AckStatus]] = [
    (lambda content: (IM(ALICE, BOB, 0, 0, content), 0), AckStatus.SUCCESS),
    (lambda content: (IM(ALICE, STRANGER, 0, 0, content), 0), AckStatus.IN_YOUR_BLACKLIST),
    (lambda content: (GroupIM(ALICE, GROUP, 0, 0, content), 0), AckStatus.SUCCESS),
    (lambda content: (GroupIM(ALICE, SUPER, 0, 0, content), 0), AckStatus.SUCCESS),
    (lambda content: (GroupIM(ALICE, FOREIGN, 0, 0, content), 0), AckStatus.GROUP_NONEXISTENT),
    (lambda content: (GroupIM(ALICE, NOWHERE, 0, 0, content), 0), AckStatus.NOT_GROUP_MEMBER),
    (lambda content: (GroupIM(ALICE, MUTED, 0, 0, content), 0), AckStatus.MUTED),
    (lambda content: (CustomerV2(APP, ALICE, KEFU, BOB, 0, content), 0), AckStatus.SUCCESS),
    (lambda content: (Customer(APP, ALICE, 5, BOB, 0, content), Flag.UNPERSISTENT), AckStatus.SUCCESS),
]
#: What has another answer, or none, and waits for all before it.
PING, SYNC, TYPING = range(100, 103)
#: Whom Bob hears as a user of the app, and whom as one of the customer-service app.
HEARD = (0, 2, 3, TYPING), (7, 8)

EVENTS = st.lists(
    st.integers(0, len(SAYINGS) - 1)
    | st.sampled_from([PING, SYNC, TYPING])
    | st.sampled_from(["groups held", "groups released", "relations held", "relations released"])
    | st.sampled_from(["disk slow", "disk quick", "read"]),
    max_size=40,
)


class Play:
    """Alice, who says it all, and Bob, who listens in both apps."""

    def __init__(self, crowded: bool) -> None:
        world = self.world = World(blacklist=True, kefu_appid=KEFU)
        world.relations.set_blocked(APP, STRANGER, ALICE, True)
        world.groups.add_group(APP, GROUP, (ALICE, BOB))
        world.groups.add_group(APP, SUPER, (ALICE, BOB), is_super=True)
        world.groups.add_group(8, FOREIGN, (ALICE, BOB))
        world.groups.add_group(APP, NOWHERE, (BOB,))
        world.groups.add_group(APP, MUTED, (ALICE, BOB), muted=[ALICE])
        if crowded:
            world.chat.delivery.backlog.entries = MOST_ENTRIES - 3
        self.server = Server(world, unfinished_commands=4)
        self.alice = self.enter(ALICE, APP)
        self.listeners = [self.enter(BOB, APP), self.enter(BOB, KEFU)]
        self.answers: list[Message] = []
        self.heard: list[list[bytes]] = [[], []]
        self.acts: dict[str, Callable[[], None]] = {
            "groups held": partial(hold, world.groups),
            "groups released": world.groups.release,
            "relations held": partial(hold, world.relations),
            "relations released": world.relations.release,
            "disk slow": world.timelines.hold,
            "disk quick": world.timelines.release,
            "read": self.read,
        }

    def enter(self, uid: int, appid: int) -> Line:
        line = self.server.connect()
        line.send(Outgoing(AuthToken(Platform.WEB, self.world.token(uid, appid), b"")))
        assert [said.message for said in line.read()] == [AuthStatus(0)]
        return line

    def say(self, event: int, seq: int) -> Message | None:
        """Gives the answer that is due."""
        content = b"%d" % seq
        if event == PING:
            self.alice.send(Outgoing(Ping(), seq))
            return Pong()
        if event == SYNC:
            self.alice.send(Outgoing(SyncGroup(FOREIGN, seq), seq))
            return SyncGroupEnd(FOREIGN, seq)
        if event == TYPING:
            self.alice.send(Outgoing(RT(ALICE, BOB, content), seq))
            return None
        say, status = SAYINGS[event]
        message, flag = say(content)
        self.alice.send(Outgoing(message, seq, flag))
        return Ack(seq, status)

    def read(self) -> None:
        self.answers += [
            said.message for said in self.alice.read() if isinstance(said.message, Ack | Pong | SyncGroupEnd)
        ]
        for line, heard in zip(self.listeners, self.heard, strict=True):
            heard += [said.message.content for said in line.read() if hasattr(said.message, "content")]

    def come_to_rest(self) -> None:
        for act in ("groups released", "relations released", "disk quick", "read"):
            self.acts[act]()


def hold(answers: Answers) -> None:
    """What is held already stays so: held answers must not be forgotten."""
    if not answers.holds:
        answers.hold()


@given(events=EVENTS, crowded=st.booleans())
def test_any_mix(events: list[int | str], crowded: bool) -> None:
    """Messages of all kinds, allowed or refused, to groups that are known or have to be found, to users whose relation
    is asked for, stored at once or later: ACKs come in the order of sending, and receivers hear in that order."""
    play = Play(crowded)
    due: list[Message | None] = []
    for seq, event in enumerate(events, 1):
        if isinstance(event, str):
            play.acts[event]()
        else:
            due.append(play.say(event, seq))
    play.come_to_rest()
    assert play.answers == [answer for answer in due if answer is not None]
    for heard, whom in zip(play.heard, HEARD, strict=True):
        assert heard == [b"%d" % seq for seq, event in enumerate(events, 1) if event in whom]


def test_what_waited_together() -> None:
    """Refused messages that waited for one on its way to disk are all answered before what the server reads then."""
    play = Play(crowded=False)
    play.acts["disk slow"]()
    due = [play.say(event, seq) for seq, event in enumerate([0, 5, 5, 5, 5, 5, 5], 1)]  # the server carries out four
    play.come_to_rest()
    assert play.answers == due


def test_members_of_a_super_group_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to them is one entry, but all of them are to be told: many such messages at once would keep everybody
    else waiting."""
    monkeypatch.setattr(backlog, "MOST_ENTRIES", 4)
    world = World()
    world.groups.add_group(APP, SUPER, (ALICE, BOB), is_super=True)
    alice = world.connect(ALICE)
    world.timelines.hold()
    said = [world.say(alice, GroupIM(ALICE, SUPER, 0, 0, b"%d" % n), seq=n) for n in range(3)]
    assert (said[:2], said[2] is None) == ([None, None], False)
    assert world.metrics.group_messages_waiting.read() == {"": 1}
    world.timelines.release()
    assert [one.message.seq for one in alice.said if isinstance(one.message, Ack)] == [0, 1, 2]
    assert world.chat.delivery.backlog.entries == 0
    world.posts.group(APP, ALICE, SUPER, b"3")
    assert world.chat.delivery.backlog.entries == 0
