"""Whatever happens on the way: every device ends with every entry of its user's timeline, in order, each once."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from imserver.chat import sync
from imserver.interfaces import Unavailable
from imserver.model import UserKey, user_timeline
from imserver.protocol.commands import Platform
from imserver.protocol.messages import IM
from tests.unit.chat.line import Server
from tests.unit.chat.phone import Phone
from tests.unit.chat.world import APP, World

USERS = (1, 2, 3)
PHONES = range(7)
#: Of large ones a few fill the socket of a client that does not read, and then its queue.
SIZES = st.sampled_from((0, 0, 0, 20_000))


class EveryDevice(RuleBasedStateMachine):
    """Phones that come and go, send, send again, read or do not; a database that stores late, or not at all, or cannot
    be read. Limits are small, so that pushes are dropped and answers to SYNC have several pages and a border."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sync, "SYNC_ENTRIES", 5)
        self.world = World()
        self.world.timelines.page = 2
        self.server = Server(self.world, queue_messages=3, unfinished_commands=4)
        self.phones = [
            Phone(self.server, 1, b"phone of 1", Platform.ANDROID, 2),
            Phone(self.server, 1, b"phone of 1", Platform.ANDROID, 2),  # its connection from before, or after
            Phone(self.server, 1, b"tab", Platform.WEB, 1),
            Phone(self.server, 1, b"tab", Platform.WEB, 1),
            Phone(self.server, 2, b"phone of 2", Platform.IOS, 2),
            Phone(self.server, 2, b"desk of 2", Platform.WINDOWS, 0),
            Phone(self.server, 3, b"phone of 3", Platform.ANDROID, 2),
        ]
        self.said = 0

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

    @rule(phone=st.sampled_from(PHONES), receivers=st.lists(st.sampled_from(USERS), min_size=1, max_size=8), size=SIZES)
    def send(self, phone: int, receivers: list[int], size: int) -> None:
        sender = self.phones[phone]
        if sender.line is not None:
            for receiver in receivers:
                self.said += 1
                filling = b"x" * size
                sender.send(receiver, sender.mark + b',"uuid":"%d","text":"%s"}' % (self.said, filling))

    @rule(phone=st.sampled_from(PHONES), back=st.integers(1, 10))
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

    @rule(phone=st.sampled_from(PHONES))
    def save_key(self, phone: int) -> None:
        if self.phones[phone].line is not None:
            self.phones[phone].save_key()

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

    @rule(unavailable=st.booleans())
    def the_database_is_read_or_not(self, unavailable: bool) -> None:
        self.world.timelines.unavailable = unavailable

    def teardown(self) -> None:
        try:
            self.come_to_rest()
            self.check()
        finally:
            for phone in self.phones:
                phone.hang_up()
            self.patch.undo()

    def come_to_rest(self) -> None:
        """Everything works again. All come, and say what was not acknowledged; then come again for what they missed."""
        self.world.timelines.failing = None
        self.world.timelines.unavailable = False
        self.world.timelines.release()
        for _ in range(2):
            for phone in self.phones:
                phone.hang_up()
                phone.connect()
            for _ in range(2):
                self.all_read()

    def check(self) -> None:
        said: dict[bytes, tuple[int, int]] = {}
        for phone in self.phones:
            assert phone.unacknowledged == {}
            said |= {content: (phone.uid, message.receiver) for content, message in phone.acknowledged.items()}
        for uid in USERS:
            entries = self.world.timelines.entries.get(user_timeline(UserKey(APP, uid)), [])
            assert [entry.key for entry in entries] == list(range(2, len(entries) + 2))
            timeline = {entry.key: IM.decode(entry.body, 2).content for entry in entries}
            assert Counter(timeline.values()) == Counter(content for content in said if uid in said[content])
            for phone in self.phones:
                if phone.uid == uid:
                    assert phone.key == len(entries) + 1
                    assert phone.began is not None
                    assert phone.held == {key: timeline[key] for key in timeline if key > phone.began}


TestEveryDevice = EveryDevice.TestCase
#: An example is an afternoon of seven devices: of these a long search has fewer.
TestEveryDevice.settings = settings(max_examples=min(settings().max_examples, 2_000))
