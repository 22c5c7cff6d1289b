"""What became of a message, in words. The answers are those that the server's own memory gives."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from click.testing import Result

from imserver.chat.trace import Trace
from imserver.model import NewMessage, SignIn, Stored, UserKey, group_timeline, user_timeline
from imserver.protocol.commands import NEWEST_VERSION, AckStatus, Command, Platform
from imserver.protocol.messages import IM, GroupIM
from tests.fakes.admin import Asked, FakeAdmin
from tests.fakes.chat import FakeConnection

Call = Callable[..., Result]

ADA, BOB, SELLER = UserKey(7, 1), UserKey(7, 2), UserKey(17, 9)
SECONDS = 1_700_000_000
WHEN = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(SECONDS))


class House:
    def __init__(self, admin: FakeAdmin, call: Call, keeps_content: bool = False, has_push_queue: bool = True) -> None:
        self.admin = admin
        self.call = call
        self.seconds = 0.25
        self.trace = Trace(100, keeps_content, has_push_queue, lambda: SECONDS + self.seconds, lambda: self.seconds)
        self.ada, self.bob, self.web = connection(1, ADA, 4), connection(2, BOB, 3), connection(3, BOB, 0)

    def store(
        self,
        command: Command = Command.IM,
        users: Sequence[UserKey] = (ADA, BOB),
        told: Sequence[FakeConnection] = (),
        offline: Sequence[UserKey] = (),
        queued: bool = True,
        origin: FakeConnection | None = None,
        sender: UserKey | None = ADA,
        body: bytes = IM(1, 2, 5, 0, b'{"text": "hello\\u001b[2J"}').encode(NEWEST_VERSION),
        group: int = 0,
    ) -> None:
        timelines = (group_timeline(7, group),) if group else tuple(map(user_timeline, users))
        message = NewMessage(command, 0, body, 5, timelines, 4, None, sender)
        stored = Stored(12, tuple(range(30, 30 + len(timelines))))
        self.trace.stored(stored, message, origin, self.seconds, self.seconds, told, offline, queued)

    def lines(self) -> list[str]:
        """What imctl says of the message, each line without its time."""
        answer = self.trace.of_message(12)
        assert answer is not None
        self.admin.answers["GET", "/admin/trace?message=12"] = (200, answer)
        result = self.call("trace", "12")
        assert (result.exit_code, result.stderr) == (0, "")
        title, *lines = result.stdout.splitlines()
        return [title, *[re.sub(r"^  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  ", "", line) for line in lines]]


def connection(number: int, user: UserKey, device: int) -> FakeConnection:
    connection = FakeConnection()
    connection.number = number
    connection.signed_in(SignIn(user, device), Platform.ANDROID, b"phone", 2)
    return connection


@pytest.fixture
def house(admin: FakeAdmin, call: Call) -> House:
    return House(admin, call)


def test_arrived(house: House) -> None:
    """Each line with its time, to the millisecond."""
    house.store(told=[house.bob, house.web], origin=house.ada)
    house.seconds = 0.375
    house.trace.acknowledged(house.bob, 12)
    house.trace.acknowledged(house.web, 12)
    house.admin.answers["GET", "/admin/trace?message=12"] = (200, house.trace.of_message(12))
    assert house.call("trace", "12").stdout == (
        "message 12: IM from user 1 of app 7\n"
        f"  {WHEN}.250  accepted on connection 1, device 4\n"
        f"  {WHEN}.250  stored: entry 30 of user 1, entry 31 of user 2\n"
        f"  {WHEN}.250  pushed to connection 2 (user 2), connection 3 (user 2)\n"
        f"  {WHEN}.250  no offline push: online is user 2 on connection 2, 3\n"
        f"  {WHEN}.375  acknowledged by connection 2 (user 2)\n"
        f"  {WHEN}.375  acknowledged by connection 3 (user 2)\n"
    )
    assert json.loads(house.call("trace", "12", as_json=True).stdout) == house.trace.of_message(12)


def test_offline(house: House) -> None:
    """Over HTTP, to nobody who is there."""
    house.store(offline=[BOB])
    assert house.lines() == [
        "message 12: IM from user 1 of app 7",
        "accepted over HTTP",
        "stored: entry 30 of user 1, entry 31 of user 2",
        "pushed to nobody: no other connection was there",
        "to the push queue, which leaves out who is not to be disturbed: user 2",
    ]


def test_no_push_queue(admin: FakeAdmin, call: Call) -> None:
    """The configuration wants no pushes."""
    house = House(admin, call, has_push_queue=False)
    house.store(offline=[BOB])
    assert house.lines()[-1] == 'no offline push: [push] kind is "none"; offline is user 2'


def test_online_elsewhere(house: House) -> None:
    """Online, and with no connection to this process."""
    house.store()
    assert house.lines()[-1] == "no offline push: online is user 2 on another node"


def test_notification(house: House) -> None:
    """Clients are told to sync, and phones do not ring. The server itself sent it."""
    house.store(Command.GROUP_NOTIFICATION, told=[house.bob], offline=[ADA], queued=False, sender=None, body=b"{}")
    assert house.lines() == [
        "message 12: GROUP_NOTIFICATION from the server itself",
        "accepted over HTTP",
        "stored: entry 30 of user 1 of app 7, entry 31 of user 2 of app 7",
        "told to sync: connection 2 (user 2 of app 7)",
        "no offline push: online is user 2 of app 7 on connection 2",
        "no offline push: phones do not ring for GROUP_NOTIFICATION; offline is user 1 of app 7",
    ]


def test_customer(house: House) -> None:
    """Users of another app are told apart."""
    house.store(Command.CUSTOMER_V2, users=(ADA, SELLER), told=[connection(4, SELLER, 1)])
    assert house.lines()[2:] == [
        "stored: entry 30 of user 1, entry 31 of user 9 of app 17",
        "pushed to connection 4 (user 9 of app 17)",
        "no offline push: online is user 9 of app 17 on connection 4",
    ]


def test_super_group(house: House) -> None:
    """One timeline, and more connections than are listed."""
    body = GroupIM(1, 20, 5, 0, b"hello").encode(NEWEST_VERSION)
    told = [connection(100 + uid, UserKey(7, uid), 1) for uid in range(2, 3002)]
    offline = [UserKey(7, uid) for uid in range(5000, 5030)]
    house.store(Command.GROUP_IM, told=told, offline=offline, body=body, group=20)
    title, _, stored, pushed, queued = house.lines()
    assert title == "message 12: GROUP_IM from user 1 of app 7 to group 20"
    assert stored == "stored: entry 30 of group 20"
    assert pushed.startswith("pushed to connection 102 (user 2), ")
    assert pushed.endswith("connection 121 (user 21), and 2,980 more")
    assert queued.endswith("user 5019, and 10 more")


def test_normal_group(house: House) -> None:
    """Many timelines are counted."""
    users = [UserKey(7, uid) for uid in range(1, 3001)]
    body = GroupIM(1, 20, 5, 0, b"hello").encode(NEWEST_VERSION)
    house.store(Command.GROUP_IM, users=users, body=body)
    assert house.lines()[2] == "stored: in 3,000 timelines"


def test_sent_again_and_rescued(house: House) -> None:
    """What happens later."""
    house.store(told=[house.bob])
    house.seconds = 3.0
    house.trace.resent(Stored(12, (30,), resent=True), house.ada)
    house.seconds = 20.25
    house.trace.rescued(12, [BOB])
    assert house.lines()[-2:] == [
        "came again on connection 1, device 4, and was recognised: nothing was stored or pushed a second time",
        "no answer for 20 s: to the push queue after all: user 2",
    ]


def test_forgotten(house: House) -> None:
    """Of a message that came again, and whose first is forgotten, there is little to say."""
    house.trace.resent(Stored(12, (30,), resent=True), connection(5, ADA, 0))
    assert house.lines() == [
        "message 12, from user 1 of app 7",
        "came again on connection 5, and was recognised: nothing was stored or pushed a second time",
    ]


def test_forgotten_acknowledgements(house: House) -> None:
    """None known is not the same as none."""
    house.store(told=[house.bob])
    house.seconds += 1
    for _ in range(400):
        house.trace.acknowledged(house.ada, 999)
    assert "there may have been more" in house.lines()[-1]


def test_content(admin: FakeAdmin, call: Call) -> None:
    """The text of it, where it is kept; it cannot steer the terminal."""
    house = House(admin, call, keeps_content=True)
    house.store()
    assert house.lines()[1].split() == ["content", "hello\N{REPLACEMENT CHARACTER}[2J"]


@pytest.mark.parametrize("status", [status for status in AckStatus if status])
def test_refused(house: House, status: AckStatus) -> None:
    """Every reason has its words."""
    house.trace.refused(house.ada, 17, status)
    house.admin.answers["GET", "/admin/trace?appid=7&uid=1&last=10"] = (200, {"messages": house.trace.of_user(ADA, 10)})
    title, line = house.call("trace", "7", "1").stdout.splitlines()
    assert title == "a message that was refused, from user 1 of app 7"
    reason = re.fullmatch(
        rf"  {WHEN}\.250  refused on connection 1, device 4: (.*) \(ACK status {int(status)}, frame 17\)", line
    )
    assert reason is not None
    assert "_" not in reason[1]
    assert " " in reason[1]


def test_user(house: House) -> None:
    """One paragraph a message; as many as are wanted."""
    house.store()
    house.trace.refused(house.ada, 17, AckStatus.MUTED)
    answer: Mapping[str, Any] = {"messages": house.trace.of_user(ADA, 10)}
    for words, path in (((), "last=10"), (("--last", "100"), "last=100")):
        house.admin.answers["GET", f"/admin/trace?appid=7&uid=1&{path}"] = (200, answer)
        stored, refused = house.call("trace", "7", "1", *words).stdout.split("\n\n")
        assert stored.startswith("message 12: IM")
        assert refused.startswith("a message that was refused")
    assert json.loads(house.call("trace", "7", "1", as_json=True).stdout) == answer
    house.admin.answers["GET", "/admin/trace?appid=7&uid=1&last=10"] = (200, {"messages": []})
    assert house.call("trace", "7", "1").stdout == "no message of user 1 of app 7 is remembered\n"


def test_not_remembered(call: Call, admin: FakeAdmin) -> None:
    """The server's own words, and exit status 1."""
    admin.answers["GET", "/admin/trace?message=12"] = (404, "message 12 is not among the newest 100")
    result = call("trace", "12")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "message 12 is not among the newest 100" in result.stderr
    assert admin.asked == [Asked("GET", "/admin/trace?message=12", None)]


@pytest.mark.parametrize(
    "words", [(), ("0",), ("x",), ("7", "x"), ("7", "1", "2"), ("7", "1", "--last", "0"), ("7", "1", "--last", "101")]
)
def test_mistakes(call: Call, admin: FakeAdmin, words: tuple[str, ...]) -> None:
    """Neither a message nor a user."""
    assert call("trace", *words).exit_code != 0
    assert admin.asked == []
