"""The push queue of the webhook: what is sent, when again, what is dropped, and what is on disk meanwhile."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent

from imserver.interfaces import Unavailable
from imserver.model import Conversation, NewMessage, UserKey
from imserver.protocol.commands import Command
from imserver.protocol.errors import ProtocolError
from imserver.protocol.messages import IM, CustomerV2, GroupIM, GroupNotification, System
from imserver.push.request import NoAnswer
from imserver.push.stored import Change, StoredPushes
from tests.contract.push_house import ALICE, BOB, CAROL, NOW, House, stored
from tests.leaks import FlushLoggedErrors

GROUP = 1000


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await leave(house)


async def leave(house: House) -> None:
    """Stop everything, with whatever request is under way given up."""
    stopped = house.queue.stop()
    while not stopped.called:
        house.clock.advance(5)
        await house.lanes.settled()
    await stopped
    await house.lanes.stop()
    assert house.clock.getDelayedCalls() == []


def say(house: House, *texts: str, created: int = NOW) -> None:
    """Alice writes to Bob, who is not online."""
    for text in texts:
        content = json.dumps({"text": text}).encode()
        house.queue.push(stored(IM(1, 2, created, 0, content), ALICE, created), [BOB])


def say_to_group(house: House, text: str, receivers: list[UserKey]) -> None:
    content = json.dumps({"text": text}).encode()
    house.queue.push(stored(GroupIM(1, GROUP, NOW, 0, content), ALICE), receivers)


def lines(events: Sequence[LogEvent]) -> list[tuple[str, str]]:
    """Level and text of what the push queue logged."""
    return [
        (event["log_level"].name, str(formatEvent(event)))
        for event in events
        if event["log_namespace"].startswith("imserver.push")
    ]


# What is sent.


@pytest_twisted.ensureDeferred
async def test_shapes(house: House) -> None:
    """Each push has its id, its queue, and the members that workers of this queue know."""
    house.queue.push(stored(IM(1, 2, NOW, 0, b"hi"), ALICE), [BOB])
    house.queue.push(stored(GroupIM(1, GROUP, NOW, 0, b'{"a":1}'), ALICE), [BOB, CAROL])
    house.queue.push(stored(CustomerV2(7, 1, 17, 2, NOW, b"{}"), ALICE), [UserKey(17, 2)])
    house.queue.push(stored(System(b"{}"), ALICE), [BOB, CAROL])
    house.queue.push(stored(GroupNotification(b"{}"), ALICE), [BOB])
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert json.loads(request.body) == {
        "pushes": [
            {
                "id": 1,
                "queue": "push_queue",
                "appid": 7,
                "sender": 1,
                "receiver": 2,
                "content": '{"text":"hi"}',
                "devices": {},
            },
            {
                "id": 2,
                "queue": "group_push_queue",
                "appid": 7,
                "sender": 1,
                "receivers": [2, 3],
                "group_id": GROUP,
                "content": '{"a":1}',
                "devices": {},
            },
            {
                "id": 3,
                "queue": "customer_push_queue_v2",
                "appid": 17,
                "sender_appid": 7,
                "sender": 1,
                "receiver_appid": 17,
                "receiver": 2,
                "content": "{}",
                "devices": {},
            },
            {"id": 4, "queue": "system_push_queue", "appid": 7, "receiver": 2, "content": "{}", "devices": {}},
            {"id": 5, "queue": "system_push_queue", "appid": 7, "receiver": 3, "content": "{}", "devices": {}},
        ]
    }
    request.answer(200)
    await house.lanes.settled()
    assert house.counts == (5, 5, 0)


@pytest_twisted.ensureDeferred
async def test_tokens_of_phones(house: House) -> None:
    """Where the server knows the push tokens of a receiver's phones, they are there by uid and kind; asked for once."""
    await house.accounts.create_app("app", 7)
    await house.accounts.bind_devices(BOB, {"apns": "bob's", "gcm": "bob's other"})
    await house.accounts.bind_devices(ALICE, {"apns": "alice's"})
    say_to_group(house, "a", [BOB, CAROL])
    say(house, "b")
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert [push["devices"] for push in request.pushes] == [{"2": {"apns": "bob's", "gcm": "bob's other"}}] * 2
    assert house.accounts.asked_for_tokens == [[BOB, CAROL]]


@pytest_twisted.ensureDeferred
async def test_long_tokens_are_left_out(house: House) -> None:
    """Anybody may bind long tokens: they take no room from others, and none from a usual one of the same user."""
    await house.accounts.create_app("app", 7)
    await house.accounts.bind_devices(BOB, {"apns": "x" * 2000, "gcm": "y" * 2000, "xm": "z" * 40})
    say(house, "a")
    house.queue.start()
    request = await house.request()
    assert request.pushes[0]["devices"] == {"2": {"apns": "x" * 2000, "xm": "z" * 40}}


@pytest_twisted.ensureDeferred
async def test_large_groups_are_told_in_parts(house: House) -> None:
    """So that no push is too large for a request; each receiver is in one."""
    receivers = [UserKey(7, uid) for uid in range(2, 252)]
    say_to_group(house, "a", receivers)
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert [len(push["receivers"]) for push in request.pushes] == [100, 100, 50]
    assert [uid for push in request.pushes for uid in push["receivers"]] == [user.uid for user in receivers]


@pytest_twisted.ensureDeferred
async def test_batches_in_order_one_at_a_time(tmp_path: Path) -> None:
    """The next request begins when the last was taken, with what was pushed next."""
    house = House(tmp_path, batch=3)
    say(house, *"abcdefg")
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert request.texts == ["a", "b", "c"]
    say(house, "h")
    await house.lanes.settled()
    assert house.webhook.count == 1
    request.answer(200)
    request = await house.request()
    assert request.texts == ["d", "e", "f"]
    request.answer(204)
    request = await house.request()
    assert request.texts == ["g", "h"]
    assert house.counts == (8, 6, 2)
    request.answer(200)
    await house.lanes.settled()
    assert house.counts == (8, 8, 0)
    assert await house.lanes.rows("SELECT id FROM push") == []
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_an_idle_queue_sends_at_once(house: House) -> None:
    """No timer gathers: a push that comes while nothing is under way leaves with those that were written with it."""
    house.queue.start()
    await house.lanes.settled()
    for text in "abc":
        say(house, text)
        request = await house.request()
        assert request.texts == [text]
        request.answer(200)
        await house.lanes.settled()
    assert house.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_what_comes_while_nothing_was_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that is written while the loop reads an empty table is neither passed over nor forgotten in the count."""
    oldest = StoredPushes.oldest
    held: list[tuple[Deferred[Any], Any]] = []

    def late(self: StoredPushes, most: int) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        oldest(self, most).addCallback(lambda found: held.append((done, found)))
        return done

    monkeypatch.setattr(StoredPushes, "oldest", late)
    house.queue.start()
    await house.lanes.settled()
    say(house, "a")
    await house.lanes.settled()
    monkeypatch.setattr(StoredPushes, "oldest", oldest)
    ((done, found),) = held
    done.callback(found)
    assert house.counts == (1, 0, 1)
    assert (await house.request()).texts == ["a"]


@pytest_twisted.ensureDeferred
async def test_a_request_is_no_larger_than_web_servers_take(tmp_path: Path) -> None:
    """Bytes bound it, too, with the tokens that only then come in; what does not fit goes with the next."""
    house = House(tmp_path, batch=1000)
    await house.accounts.create_app("app", 7)
    receivers = [UserKey(7, uid) for uid in range(2, 102)]
    for user in receivers:
        await house.accounts.bind_devices(user, {"apns": f"{user.uid:04}" * 475})
    for text in "abcd":
        say_to_group(house, text, receivers)
    # The largest there is: each of its characters takes seven where JSON stands in JSON.
    house.queue.push(stored(GroupIM(1, GROUP, NOW, 0, b"\x01" * 32_743), ALICE), receivers)
    await house.lanes.settled()
    house.queue.start()
    sizes, ids = [], []
    for _ in range(3):
        request = await house.request()
        sizes.append(len(request.body))
        ids.append(request.ids)
        request.answer(200)
    assert ids == [[1, 2], [3, 4], [5]]
    assert max(sizes) <= 512 * 1024
    assert sizes[2] > 400 * 1024
    await leave(house)


# Who does not want to be disturbed.


@pytest_twisted.ensureDeferred
async def test_do_not_disturb(house: House) -> None:
    """Who wants no pushes from a peer or a group is taken out; a push for nobody is none."""
    await house.accounts.create_app("app", 7)
    await house.accounts.set_do_not_disturb(BOB, Conversation(is_group=False, other=1), on=True)
    await house.accounts.set_do_not_disturb(CAROL, Conversation(is_group=True, other=GROUP), on=True)
    say(house, "to Bob")
    house.queue.push(stored(IM(1, 3, NOW, 0, b'{"text":"to Carol"}'), ALICE), [CAROL])
    house.queue.push(stored(IM(3, 2, NOW, 0, b'{"text":"Carol to Bob"}'), CAROL), [BOB])
    say_to_group(house, "to the group", [BOB, CAROL])
    say_to_group(house, "to Carol in the group", [CAROL])
    house.queue.push(stored(System(b'{"text":"from the system"}'), ALICE), [BOB])
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert request.texts == ["to Carol", "Carol to Bob", "to the group", "from the system"]
    assert request.pushes[2]["receivers"] == [2]
    assert await house.lanes.rows("SELECT id FROM push") == [(2,), (3,), (4,), (6,)]
    request.answer(200)
    await house.lanes.settled()
    assert house.dropped == {"do_not_disturb": 2}
    assert house.counts == (6, 4, 0)


@pytest_twisted.ensureDeferred
async def test_conversations_are_asked_about_once_in_a_batch(house: House) -> None:
    """For all of their receivers together; system and customer messages belong to none."""
    say(house, "a", "b")
    say_to_group(house, "c", [BOB])
    say_to_group(house, "d", [CAROL, BOB])
    house.queue.push(stored(System(b'{"text":"e"}'), ALICE), [BOB])
    house.queue.push(stored(CustomerV2(7, 1, 17, 2, NOW, b'{"text":"f"}'), ALICE), [UserKey(17, 2)])
    await house.lanes.settled()
    house.queue.start()
    assert (await house.request()).texts == list("abcdef")
    assert house.accounts.asked == [
        (Conversation(is_group=False, other=1), [BOB]),
        (Conversation(is_group=True, other=GROUP), [BOB, CAROL]),
    ]


@pytest_twisted.ensureDeferred
async def test_a_batch_that_nobody_wants(tmp_path: Path) -> None:
    """No request is made of it, and the next batch is looked at."""
    house = House(tmp_path, batch=2)
    await house.accounts.create_app("app", 7)
    await house.accounts.set_do_not_disturb(BOB, Conversation(is_group=False, other=1), on=True)
    say(house, "a", "b", "c")
    house.queue.push(stored(IM(1, 3, NOW, 0, b'{"text":"d"}'), ALICE), [CAROL])
    await house.lanes.settled()
    house.queue.start()
    assert (await house.request()).texts == ["d"]
    assert house.dropped == {"do_not_disturb": 3}
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_nobody_is_disturbed_for_want_of_an_answer(house: House) -> None:
    """Where the directory cannot say, nothing is sent; it is asked again later."""
    house.accounts.unavailable = True
    say(house, "a")
    await house.lanes.settled()
    house.queue.start()
    await house.lanes.settled()
    assert house.webhook.count == 0
    assert house.metrics.push_retries.values == {"database": 1}
    assert 0.5 <= house.until_next_try() <= 1
    house.accounts.unavailable = False
    house.pass_time(1)
    assert (await house.request()).texts == ["a"]
    assert house.counts == (1, 0, 1)


# Trying again.


@pytest.mark.parametrize(
    ("status", "kind", "level"),
    [
        (100, "answer", "error"),
        (199, "answer", "error"),
        (300, "redirect", "error"),
        (302, "redirect", "error"),
        (400, "refused", "error"),
        (401, "refused", "error"),
        (404, "refused", "error"),
        (413, "refused", "error"),
        (408, "busy", "warn"),
        (429, "busy", "warn"),
        (500, "busy", "warn"),
        (503, "busy", "warn"),
        (600, "answer", "error"),
        (-1, "answer", "error"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_anything_but_2xx_is_tried_again(house: House, status: int, kind: str, level: str) -> None:
    """The same pushes with the same ids, after a while; what a person has to mend is said as an error."""
    say(house, "a", "b")
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    with capturedLogs() as events:
        request.answer(status)
    (line,) = lines(events)
    assert line[0] == level
    assert line[1].startswith(
        f"pushes to https://app.example.com were not delivered: it answered with status {status}; 2 wait, "
    )
    assert house.metrics.push_retries.values == {kind: 1}
    assert 0.5 <= house.until_next_try() <= 1
    house.pass_time(1)
    again = await house.request()
    assert (again.ids, again.texts) == (request.ids, request.texts)
    assert house.counts == (2, 0, 2)
    with capturedLogs() as events:
        again.answer(200)
    assert lines(events) == [("info", "https://app.example.com takes pushes again")]
    await house.lanes.settled()
    assert house.counts == (2, 2, 0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest_twisted.ensureDeferred
async def test_2xx_is_delivered(house: House, status: int) -> None:
    """Any of them."""
    say(house, "a")
    house.queue.start()
    (await house.request()).answer(status)
    await house.lanes.settled()
    assert house.counts == (1, 1, 0)
    assert house.metrics.push_retries.values == {}


@pytest.mark.parametrize(("timed_out", "kind"), [(True, "timeout"), (False, "connection")])
@pytest_twisted.ensureDeferred
async def test_no_answer_is_tried_again(house: House, timed_out: bool, kind: str) -> None:
    """With the reason in the log."""
    say(house, "a")
    house.queue.start()
    request = await house.request()
    with capturedLogs() as events:
        request.fail(NoAnswer("nobody is there", timed_out))
    assert [level for level, _ in lines(events)] == ["warn"]
    assert "were not delivered: nobody is there; 1 wait" in lines(events)[0][1]
    assert house.metrics.push_retries.values == {kind: 1}
    house.pass_time(1)
    assert (await house.request()).ids == request.ids


@pytest_twisted.ensureDeferred
async def test_waits_grow_up_to_a_minute(house: House) -> None:
    """Each twice the last, with jitter of a half; after a success it begins anew."""
    say(house, "a")
    house.queue.start()
    waits = []
    for longest in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        (await house.request()).answer(503)
        waits.append(house.until_next_try() / longest)
        house.clock.advance(house.until_next_try())
    assert all(0.5 <= wait <= 1 for wait in waits)
    assert len(set(waits)) == len(waits)  # servers that failed together shall not come back together
    (await house.request()).answer(200)
    await house.lanes.settled()
    say(house, "b")
    (await house.request()).answer(503)
    assert 0.5 <= house.until_next_try() <= 1


@pytest_twisted.ensureDeferred
async def test_a_long_outage(house: House) -> None:
    """The wait does not overflow after thousands of tries."""
    say(house, "a")
    await house.lanes.settled()
    house.queue._failures = 5000
    house.queue.start()
    (await house.request()).answer(503)
    assert 30 <= house.until_next_try() <= 60


@pytest_twisted.ensureDeferred
async def test_the_webhook_says_when(house: House) -> None:
    """What its answer asks for goes before what would be waited otherwise, whether it is more or less."""
    say(house, "a")
    house.queue.start()
    (await house.request()).answer(429, delay=90.0)
    assert house.until_next_try() == 90
    house.clock.advance(89.9)
    await house.lanes.settled()
    assert house.webhook.count == 1
    house.clock.advance(0.1)
    for _ in range(6):
        (await house.request()).answer(503)
        house.clock.advance(60)
    (await house.request()).answer(503, delay=3.0)
    assert house.until_next_try() == 3


@pytest_twisted.ensureDeferred
async def test_newer_pushes_do_not_shorten_the_wait(house: House) -> None:
    """They join those that are tried again, behind them."""
    say(house, "a")
    house.queue.start()
    (await house.request()).answer(503)
    say(house, "b")
    await house.lanes.settled()
    assert house.webhook.count == 1
    house.pass_time(1)
    assert (await house.request()).texts == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_a_bug_is_no_end(house: House, flush_logged_errors: FlushLoggedErrors) -> None:
    """Whatever a delivery raises is logged, and it is tried again."""
    say(house, "a")
    house.queue.start()
    (await house.request()).fail(ZeroDivisionError("a bug"))
    assert house.metrics.push_retries.values == {"bug": 1}
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    house.pass_time(1)
    assert (await house.request()).texts == ["a"]


def failing_delete(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next so many deletions fail."""
    left = [times]
    delete = StoredPushes.delete

    def failing(self: StoredPushes, ids: Any) -> Deferred[Change]:
        left[0] -= 1
        return delete(self, ids) if left[0] < 0 else fail(Unavailable("the disk is full"))

    monkeypatch.setattr(StoredPushes, "delete", failing)


@pytest_twisted.ensureDeferred
async def test_delivered_is_not_sent_again_for_want_of_a_database(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be deleted is deleted later, and nothing is sent until then."""
    say(house, "a")
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    failing_delete(monkeypatch, 2)
    with capturedLogs() as events:
        request.answer(200)
        say(house, "b")
        await house.lanes.settled()
        house.clock.advance(1)
    assert lines(events) == [("warn", "pushes that were delivered could not be deleted: the disk is full")] * 2
    assert house.counts == (2, 0, 2)
    house.clock.advance(1)
    assert (await house.request()).texts == ["b"]
    assert house.counts == (2, 1, 1)


# What is dropped.


@pytest_twisted.ensureDeferred
async def test_old_pushes_are_dropped(tmp_path: Path) -> None:
    """At the age that was set, counted from the message: before a first try, and between two."""
    house = House(tmp_path, max_age_seconds=60)
    say(house, "old", created=NOW - 61)
    say(house, "just", created=NOW - 60)
    say(house, "new", created=NOW)
    say(house, "from the future", created=NOW + 1000)
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert request.texts == ["just", "new", "from the future"]
    assert house.dropped == {"age": 1}
    request.answer(503)
    house.pass_time(1)
    request = await house.request()
    assert request.texts == ["new", "from the future"]
    request.answer(503, delay=600)
    house.pass_time(600)
    request = await house.request()
    assert request.texts == ["from the future"]
    assert house.dropped == {"age": 3}
    request.answer(200)
    await house.lanes.settled()
    assert house.counts == (4, 1, 0)
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_the_oldest_make_room(tmp_path: Path) -> None:
    """Over the bound the oldest go, at once and not only when they are sent."""
    house = House(tmp_path, most_waiting=3)
    say(house, *"abcde")
    await house.lanes.settled()
    assert await house.lanes.rows("SELECT id FROM push") == [(3,), (4,), (5,)]
    assert house.dropped == {"full": 2}
    assert house.counts == (5, 0, 3)
    house.queue.start()
    assert (await house.request()).texts == ["c", "d", "e"]
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_each_push_is_counted_once(tmp_path: Path) -> None:
    """What made room while it was on its way counts as dropped, not as delivered, too; nothing is counted twice."""
    house = House(tmp_path, most_waiting=3)
    say(house, *"abc")
    await house.lanes.settled()
    house.queue.start()
    request = await house.request()
    assert request.texts == ["a", "b", "c"]
    say(house, *"de")
    await house.lanes.settled()
    request.answer(200)
    await house.lanes.settled()
    assert house.dropped == {"full": 2}
    assert house.counts == (5, 1, 2)
    assert (await house.request()).texts == ["d", "e"]
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_what_the_database_does_not_take(house: House) -> None:
    """It is counted, and said at most once a second; nobody waits and nothing is raised."""
    await house.lanes.writes.stop()
    with capturedLogs() as events:
        say(house, *"abc")
        house.clock.advance(0.9)
        say(house, "d")
        house.clock.advance(0.1)
        house.queue.push(stored(System(b"{}"), ALICE), [BOB, CAROL])
    said = "pushes were dropped since this was last said, the last for this reason: database"
    assert lines(events) == [("warn", f"1 {said}"), ("warn", f"5 {said}")]
    assert house.dropped == {"database": 6}
    assert house.counts == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_a_lane_that_is_full(tmp_path: Path) -> None:
    """What the lane has no room for is dropped, the rest is kept."""
    house = House(tmp_path, items=2)
    say(house, *"abcde")
    assert house.dropped == {"database": 3}
    house.queue.start()
    assert (await house.request()).texts == ["a", "b"]
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_none(house: House, flush_logged_errors: FlushLoggedErrors) -> None:
    """A bug of whoever pushes is logged and counted, never raised."""
    house.queue.push(NewMessage(Command.IM, 0, b"short", NOW, ()), [BOB])
    assert house.dropped == {"bug": 1}
    (failure,) = flush_logged_errors()
    assert failure.check(ProtocolError)


@pytest_twisted.ensureDeferred
async def test_many_receivers_are_written_in_steps(house: House) -> None:
    """A message for thousands takes few places in the lane, and all of them are told."""
    house.queue.push(stored(System(b"{}"), ALICE), [UserKey(7, uid) for uid in range(1000)])
    assert house.metrics.writes_waiting.read() == {"": 10}
    await house.lanes.settled()
    assert await house.lanes.rows("SELECT count(*), count(DISTINCT payload) FROM push") == [(1000, 1000)]


# Restart and stop.


@pytest_twisted.ensureDeferred
async def test_a_killed_server_goes_on(tmp_path: Path) -> None:
    """What was not answered is sent again by the next process, with the same ids, and then the rest."""
    killed = House(tmp_path, batch=2)
    say(killed, *"abcde")
    await killed.lanes.settled()
    killed.queue.start()
    (await killed.request()).answer(200)
    lost = await killed.request()
    assert lost.texts == ["c", "d"]
    await killed.lanes.stop()  # nothing is told to the queue; the answer never comes

    house = House(tmp_path, batch=2)
    say(house, "f")
    await house.lanes.settled()
    house.queue.start()
    again = await house.request()
    assert (again.ids, again.texts) == (lost.ids, lost.texts)
    assert house.counts[2] == 4
    again.answer(200)
    request = await house.request()
    assert request.texts == ["e", "f"]
    request.answer(200)
    await house.lanes.settled()
    assert house.counts == (1, 4, 0)
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_waiting_is_known_from_the_start(tmp_path: Path) -> None:
    """What an earlier process left counts before anything is added, though the webhook does not answer."""
    before = House(tmp_path)
    say(before, *"abc")
    await before.lanes.settled()
    await before.lanes.stop()
    house = House(tmp_path)
    house.queue.start()
    await house.request()
    assert house.counts == (0, 0, 3)
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_stopping_an_idle_queue(house: House) -> None:
    """It ends at once, with its connections; what is pushed afterwards is on disk for the next start."""
    house.queue.start()
    await house.lanes.settled()
    stopped = house.queue.stop()
    assert stopped.called
    assert house.webhook.closed
    say(house, "a")
    await house.lanes.settled()
    assert house.webhook.count == 0
    assert await house.lanes.rows("SELECT id FROM push") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_a_stop_loses_nothing(tmp_path: Path) -> None:
    """What was pushed just before it is on disk when the lanes have ended."""
    house = House(tmp_path)
    house.queue.start()
    await house.lanes.settled()
    say(house, *"abc")
    await house.queue.stop()
    await house.lanes.stop()
    house = House(tmp_path)
    house.queue.start()
    assert (await house.request()).texts == ["a", "b", "c"]
    await leave(house)


@pytest_twisted.ensureDeferred
async def test_stopping_while_it_waits_for_the_next_try(house: House) -> None:
    """It does not wait that long."""
    say(house, "a")
    house.queue.start()
    (await house.request()).answer(503)
    stopped = house.queue.stop()
    assert stopped.called
    assert house.webhook.closed
    assert house.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_stopping_lets_a_request_end(house: House) -> None:
    """Its answer is taken, what it delivered is deleted, and no other begins."""
    say(house, "a")
    house.queue.start()
    request = await house.request()
    say(house, "b")
    await house.lanes.settled()
    stopped = house.queue.stop()
    house.clock.advance(4.9)
    assert not stopped.called
    request.answer(200)
    await stopped
    assert house.webhook.closed
    assert house.counts == (2, 1, 1)
    assert await house.lanes.rows("SELECT id FROM push") == [(2,)]
    assert house.webhook.count == 1
    assert house.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_stopping_gives_a_request_up(house: House) -> None:
    """After 5 s; its pushes stay for the next start."""
    say(house, "a")
    house.queue.start()
    request = await house.request()
    stopped = house.queue.stop()
    house.clock.advance(4.9)
    assert request.cancelled == 0
    with capturedLogs() as events:
        house.clock.advance(0.1)
    assert request.cancelled == 1
    await stopped
    assert lines(events) == [
        ("warn", "a request was given up, for the server stops; its pushes are sent at the next start")
    ]
    assert house.metrics.push_retries.values == {"stop": 1}
    assert house.webhook.closed
    assert await house.lanes.rows("SELECT id FROM push") == [(1,)]
    assert house.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_stopping_while_a_batch_is_read(house: House) -> None:
    """No request is begun any more."""
    say(house, "a")
    await house.lanes.settled()
    house.queue.start()
    await house.queue.stop()
    assert house.webhook.count == 0
    assert await house.lanes.rows("SELECT id FROM push") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_stopping_without_a_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was delivered and cannot be deleted is left; it will come a second time."""
    say(house, "a")
    house.queue.start()
    request = await house.request()
    failing_delete(monkeypatch, 1000)
    request.answer(200)
    stopped = house.queue.stop()
    assert stopped.called
    assert await house.lanes.rows("SELECT id FROM push") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_stopping_what_never_started(house: House) -> None:
    """A server whose start failed stops all the same."""
    stopped = house.queue.stop()
    assert stopped.called


# What is not said.


@pytest_twisted.ensureDeferred
async def test_logs_have_no_secrets(house: House) -> None:
    """Neither contents, nor tokens of phones, nor the path of the webhook, whatever happens."""
    await house.accounts.create_app("app", 7)
    await house.accounts.bind_devices(BOB, {"apns": "s3cret"})
    with capturedLogs() as events:
        say(house, "s3cret", "s3cret")
        house.queue.start()
        (await house.request()).answer(404)
        house.pass_time(1)
        (await house.request()).fail(NoAnswer("nobody is there", timed_out=False))
        house.pass_time(2)
        (await house.request()).answer(200)
        await house.lanes.settled()
        say(house, "s3cret", created=1)
        await house.lanes.settled()
    assert {event["log_level"] for event in events} == {LogLevel.error, LogLevel.warn, LogLevel.info}
    assert "s3cret" not in "".join(repr(event) + str(formatEvent(event)) for event in events)
