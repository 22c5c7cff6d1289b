"""Whoever comes and goes: every member has every message of their membership once and in order, on every device."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.python.failure import Failure

from imserver.chat import sync
from imserver.interfaces import Invalid, NotFound, Unavailable
from imserver.model import Group, NewMember, NewMessage, Stored, UserKey, group_timeline, user_timeline
from imserver.protocol.commands import Command, Platform
from imserver.protocol.messages import GroupIM, decode_from_server
from tests.unit.chat.line import Server
from tests.unit.chat.phone import Phone
from tests.unit.chat.world import APP, World

USERS = (1, 2, 3, 4)
NORMAL, UPGRADED, SUPER = GROUPS = (50, 60, 70)
PHONES = range(8)
SIZES = st.sampled_from((0, 0, 0, 20_000))


class Membership:
    """When a user was a member: between which of the messages that were handed to storage."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.until: int | None = None

    def has(self, number: int) -> bool:
        return self.since <= number and (self.until is None or number < self.until)


class EveryMember(RuleBasedStateMachine):
    """Phones that come and go, send, send again, read or do not; members that join, leave, are muted; a group that
    becomes a super group; a database that stores late, or not at all, or does not say who is in a group."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sync, "SYNC_ENTRIES", 5)
        self.world = World()
        self.world.timelines.page = 2
        self.server = Server(self.world, queue_messages=3, unfinished_commands=4)
        for group in GROUPS:
            self.world.groups.add_group(APP, group, USERS[:3], is_super=group == SUPER)
        #: What was handed to storage, in order.
        self.submitted: list[NewMessage] = []
        self.memberships: dict[tuple[int, int], list[Membership]] = {
            (group, uid): [Membership(0)] for group in GROUPS for uid in USERS[:3]
        }
        self.patch.setattr(self.world.timelines, "store", self.watch_store(self.world.timelines.store))
        self.patch.setattr(self.world.groups, "_change", self.watch_change(self.world.groups._change))
        self.phones = [
            Phone(self.server, 1, b"phone of 1", Platform.ANDROID, 2),
            Phone(self.server, 1, b"phone of 1", Platform.ANDROID, 2),  # its connection from before, or after
            Phone(self.server, 1, b"tab", Platform.WEB, 1),
            Phone(self.server, 2, b"phone of 2", Platform.IOS, 2),
            Phone(self.server, 2, b"desk of 2", Platform.WINDOWS, 0),
            Phone(self.server, 3, b"phone of 3", Platform.ANDROID, 2),
            Phone(self.server, 4, b"phone of 4", Platform.ANDROID, 2),
            Phone(self.server, 4, b"tab of 4", Platform.WEB, 1),
        ]
        self.said = 0

    def watch_store(self, store: Callable[..., None]) -> Callable[..., None]:
        """A message goes to those who are members at that moment, and is from one who may speak."""

        def watched(message: NewMessage, settled: Callable[[Stored | Failure], None]) -> None:
            if message.command == Command.GROUP_IM:
                group = self.now(GroupIM.decode(message.body, 2).receiver)
                assert message.timelines == group.timelines
                assert message.sender is not None
                assert not group.members[message.sender.uid].muted
            self.submitted.append(message)
            store(message, settled)

        return watched

    def watch_change(self, change_group: Callable[..., Any]) -> Callable[..., Any]:
        """Note who joins and leaves. Applications of those who left forget what they had of a super group."""

        def watched(appid: int, group: int, change: Callable[[Any], None]) -> Any:
            def noted(rows: Any) -> None:
                before = set(rows.group().members)
                change(rows)
                after = set(rows.group().members)
                for uid in after - before:
                    self.memberships.setdefault((group, uid), []).append(Membership(len(self.submitted)))
                for uid in before - after:
                    self.memberships[group, uid][-1].until = len(self.submitted)
                    for phone in self.phones:
                        if phone.uid == uid:
                            phone.forget_group(group)

            return change_group(appid, group, noted)

        return watched

    def now(self, group: int) -> Group:
        """The group as it stands, whoever may know it."""
        found = self.world.groups._find(APP, group)
        assert found is not None
        return found

    # What clients do.

    @initialize()
    def some_are_there(self) -> None:
        for phone in self.phones[::2]:
            phone.connect()

    @rule(phone=st.sampled_from(PHONES))
    def come_or_go(self, phone: int) -> None:
        if self.phones[phone].line is None:
            self.phones[phone].connect()
        else:
            self.phones[phone].hang_up()

    @rule(phone=st.sampled_from(PHONES), groups=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=6), size=SIZES)
    def send(self, phone: int, groups: list[int], size: int) -> None:
        sender = self.phones[phone]
        if sender.line is not None:
            for group in groups:
                self.said += 1
                filling = b"x" * size
                sender.send_to_group(group, sender.mark + b',"uuid":"%d","text":"%s"}' % (self.said, filling))

    @rule(phone=st.sampled_from(PHONES), back=st.integers(1, 6))
    def send_again(self, phone: int, back: int) -> None:
        sender = self.phones[phone]
        sent = [*sender.acknowledged, *sender.unacknowledged]
        if sender.line is not None and back <= len(sent):
            sender.send_again(sent[-back])

    @rule(phone=st.sampled_from(PHONES))
    def read(self, phone: int) -> None:
        self.phones[phone].read()

    @rule()
    def all_read(self) -> None:
        for phone in self.phones:
            phone.read()

    # What becomes of groups.

    @rule(group=st.sampled_from(GROUPS), uids=st.lists(st.sampled_from(USERS), min_size=1, max_size=2))
    def join(self, group: int, uids: list[int]) -> None:
        self.begin(self.world.changes.add(APP, group, [NewMember(uid) for uid in uids], None))

    @rule(group=st.sampled_from(GROUPS), uids=st.lists(st.sampled_from(USERS), min_size=1, max_size=2))
    def leave(self, group: int, uids: list[int]) -> None:
        self.begin(self.world.changes.remove(APP, group, uids))

    @rule(group=st.sampled_from(GROUPS), uid=st.sampled_from(USERS), on=st.booleans())
    def mute(self, group: int, uid: int, on: bool) -> None:
        if uid in self.now(group).members:
            self.begin(self.world.groups.change_member(APP, group, uid, muted=on))

    @rule()
    def upgrade(self) -> None:
        self.begin(self.world.changes.upgrade(APP, UPGRADED))

    @rule(group=st.sampled_from(GROUPS))
    def post(self, group: int) -> None:
        self.begin(self.world.posts.group_notification(APP, group, b'{"posted":%d}' % len(self.submitted), ()))

    def begin(self, change: Any) -> None:
        """What cannot be done now is not done."""
        change.addErrback(lambda failure: failure.trap(Unavailable, NotFound, Invalid))

    # What becomes of the database, and of time.

    @rule(seconds=st.sampled_from((0.3, 1, 1, 100)))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def the_disk_is_slow(self) -> None:
        self.world.timelines.hold()

    @rule()
    def the_disk_is_quick(self) -> None:
        self.world.timelines.release()

    @rule()
    def the_disk_is_full(self) -> None:
        self.world.timelines.failing = Unavailable("as the test wants it")
        self.world.timelines.release()

    @precondition(lambda self: self.world.timelines.failing)
    @rule()
    def the_disk_has_room(self) -> None:
        self.world.timelines.failing = None

    @precondition(lambda self: not self.world.groups.holds)
    @rule()
    def groups_are_slow(self) -> None:
        self.world.groups.hold()

    @precondition(lambda self: self.world.groups.holds)
    @rule(unavailable=st.sampled_from((False, False, True)))
    def groups_are_there(self, unavailable: bool) -> None:
        self.world.groups.unavailable = unavailable
        self.world.groups.release()

    @rule(unavailable=st.booleans())
    def the_database_is_read_or_not(self, unavailable: bool) -> None:
        self.world.timelines.unavailable = unavailable

    # The end.

    def teardown(self) -> None:
        try:
            self.come_to_rest()
            self.check_timelines()
            for phone in self.phones:
                self.check(phone)
        finally:
            for phone in self.phones:
                phone.hang_up()
            self.patch.undo()

    def come_to_rest(self) -> None:
        """Everything works again. All come, and say what was not acknowledged; their applications name them the super
        groups that they are in; then they come again for what they missed."""
        self.world.timelines.failing = None
        self.world.timelines.unavailable = self.world.groups.unavailable = False
        self.world.timelines.release()
        self.world.groups.release()
        self.world.timelines.release()
        for group in GROUPS:
            for uid in self.now(group).members:
                self.world.groups.change_member(APP, group, uid, muted=False)
        for _ in range(2):
            for phone in self.phones:
                phone.hang_up()
                phone.connect()
                for group in GROUPS:
                    if self.now(group).is_super and phone.uid in self.now(group).members:
                        phone.learn_group(group)
            for _ in range(3):
                for phone in self.phones:
                    phone.read()

    def check_timelines(self) -> None:
        """What was acknowledged is stored once; what was refused, and sent that once, is not. What is stored stands
        once in each of its timelines."""
        stored = Counter(content_of(message) for message in self.world.timelines.messages)
        for phone in self.phones:
            assert phone.unacknowledged == {}
            for content in phone.acknowledged:
                # Older clients know no status: to them some refusals look like this.
                assert stored[content] == 1 or (stored[content] == 0 and phone.version < 2)
            for content in phone.refused:
                assert stored[content] <= (phone.times_sent[content] > 1)
        for message in self.world.timelines.messages:
            if message.command == Command.GROUP_IM:
                for timeline in message.timelines:
                    assert [*self.contents(timeline).values()].count(content_of(message)) == 1

    def check(self, phone: Phone) -> None:
        own = self.contents(user_timeline(UserKey(APP, phone.uid)))
        assert phone.key == len(own) + 1
        assert phone.began is not None
        assert phone.held == {key: content for key, content in own.items() if key > phone.began}
        for group in GROUPS:
            if not self.now(group).is_super:
                continue
            timeline = self.contents(group_timeline(APP, group))
            held = phone.groups[group].entries if group in phone.groups else {}
            assert held.items() <= timeline.items()
            numbers = self.numbers(group)
            memberships = self.memberships.get((group, phone.uid), [])
            theirs = {key for key, number in numbers.items() if any(each.has(number) for each in memberships)}
            assert held.keys() <= theirs
            if phone.uid in self.now(group).members:
                since_they_joined = {key for key, number in numbers.items() if memberships[-1].has(number)}
                assert since_they_joined <= held.keys()
                assert phone.groups[group].key == len(timeline) + 1

    def contents(self, timeline: Any) -> dict[int, bytes]:
        return {
            entry.key: decode_from_server(entry.command, 2, entry.body).content  # type: ignore[attr-defined]  # all have it
            for entry in self.world.timelines.entries.get(timeline, ())
        }

    def numbers(self, group: int) -> dict[int, int]:
        """Which of the submitted messages stands under which key of a super group."""
        places = {id(message): number for number, message in enumerate(self.submitted)}
        timeline = group_timeline(APP, group)
        stored = [message for message in self.world.timelines.messages if timeline in message.timelines]
        return {key: places[id(message)] for key, message in enumerate(stored, 2)}


def content_of(message: NewMessage) -> bytes:
    content: bytes = decode_from_server(message.command, 2, message.body).content  # type: ignore[attr-defined]
    return content


TestEveryMember = EveryMember.TestCase
TestEveryMember.settings = settings(max_examples=min(settings().max_examples, 2_000))
