"""Reading a user's timeline over HTTP."""

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imserver.http.history import MOST_BYTES, MOST_LISTED
from imserver.model import Entry, NewMessage, TimelineKey, UserKey, user_timeline
from imserver.protocol.commands import NEWEST_VERSION
from imserver.protocol.frame import MAX_BODY
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
from tests.fakes.timelines import FakeTimelines
from tests.http.server import Server

USER = UserKey(7, 1)
LATEST = "/load_latest_message?appid=7&uid=1&limit="
HISTORY = "/load_history_message?appid=7&uid=1&last_id="
COUNT = "/get_offline_count?appid=7&uid=1"


class Timelines(FakeTimelines):
    """Says how much was read at once; `oldest` is what retention has left."""

    def __init__(self, page_bytes: int = 256 * 1024) -> None:
        super().__init__(page_bytes=page_bytes)
        self.oldest = 0
        self.longest_page = 0

    def read(self, timeline: TimelineKey, after: int, limit: int, created_after: int = 0) -> Deferred[Sequence[Entry]]:
        def look(page: Sequence[Entry]) -> Sequence[Entry]:
            self.longest_page = max(self.longest_page, sum(len(entry.body) for entry in page))
            return page

        return super().read(timeline, max(after, self.oldest - 1), limit, created_after).addCallback(look)


def put(timelines: FakeTimelines, *messages: Message) -> None:
    """Into the user's timeline: the first gets key 2."""
    for message in messages:
        body = message.encode(NEWEST_VERSION)
        timelines.store(NewMessage(message.command, 0, body, 1000, (user_timeline(USER),)), lambda _: None)


@pytest.fixture
def timelines() -> Timelines:
    return Timelines()


@pytest.fixture
def server(timelines: Timelines) -> Server:
    return Server(timelines=timelines)


def im(content: str | bytes = "hi") -> IM:
    return IM(1, 2, 1000, 5, content.encode() if isinstance(content, str) else content)


def listed(server: Server, path: str) -> list[Any]:
    answer = server.call("GET", path)
    assert (answer.status, list(answer.json)) == (200, ["data"])
    messages: list[Any] = answer.json["data"]
    return messages


def keys(server: Server, path: str) -> list[int]:
    return [message["id"] for message in listed(server, path)]


NOT_LISTED = (
    GroupNotification(b"{}"),
    System(b"s"),
    Customer(7, 1, 2, 3, 4, b"c"),
    CustomerSupport(7, 1, 2, 3, 4, b"c"),
)


@pytest.mark.parametrize("path", [LATEST + "3000", HISTORY + "0"])
def test_what_is_listed(server: Server, timelines: Timelines, path: str) -> None:
    """Messages from one to others, with all that they say; CUSTOMER_V2 with its apps; of the rest nothing."""
    put(
        timelines,
        IM(1, 2, 1000, 5, '{"text": "hé\n😀\\"}'.encode()),
        *NOT_LISTED,
        GroupIM(3, 9, 1001, 0, b"to a group"),
        CustomerV2(7, 1, 17, 2**53 - 1, 1002, b"to a seller"),
    )
    assert listed(server, path) == [
        {"id": 2, "command": 4, "sender": 1, "receiver": 2, "timestamp": 1000, "content": '{"text": "hé\n😀\\"}'},
        {"id": 7, "command": 8, "sender": 3, "receiver": 9, "timestamp": 1001, "content": "to a group"},
        {
            "id": 8,
            "command": 64,
            "sender": 1,
            "receiver": 2**53 - 1,
            "timestamp": 1002,
            "content": "to a seller",
            "sender_appid": 7,
            "receiver_appid": 17,
        },
    ]


def test_bytes_that_are_no_text(server: Server, timelines: Timelines) -> None:
    """Clients may send any bytes; what is no UTF-8 shows as the replacement character and breaks nothing."""
    put(timelines, im(b"a\xff\xed\xa0\x80\x00z"), im("next"))
    assert [message["content"] for message in listed(server, HISTORY + "0")] == ["a\ufffd\ufffd\ufffd\ufffd\0z", "next"]


@pytest.mark.parametrize("path", [LATEST + "10", HISTORY + "0", HISTORY + str(2**53 - 1)])
def test_user_without_a_timeline(server: Server, path: str) -> None:
    """There is nothing, which is no mistake."""
    assert listed(server, path) == []


def test_other_users_and_apps(server: Server, timelines: Timelines) -> None:
    """A timeline is one user's of one app."""
    put(timelines, im())
    for path in (LATEST + "10", HISTORY + "0"):
        assert listed(server, path.replace("appid=7", "appid=8")) == []
        assert listed(server, path.replace("uid=1", "uid=2")) == []
        assert len(listed(server, path)) == 1


def test_newest_entries(server: Server, timelines: Timelines) -> None:
    """The newest `limit` entries, oldest first, whatever pages they are read in; not listed ones count too."""
    put(timelines, *[im(str(number)) for number in range(20)])
    assert keys(server, LATEST + "1") == [21]
    assert keys(server, LATEST + "3") == [19, 20, 21]
    assert keys(server, LATEST + "20") == keys(server, LATEST + "3000") == list(range(2, 22))
    put(timelines, *NOT_LISTED)
    assert keys(server, LATEST + "6") == [20, 21]
    assert keys(server, LATEST + "4") == []


def test_entries_after_a_key(server: Server, timelines: Timelines) -> None:
    """Those after `last_id`, oldest first."""
    put(timelines, *[im(str(number)) for number in range(20)])
    assert keys(server, HISTORY + "0") == keys(server, HISTORY + "1") == list(range(2, 22))
    assert keys(server, HISTORY + "2") == list(range(3, 22))
    assert keys(server, HISTORY + "20") == [21]
    assert keys(server, HISTORY + "21") == keys(server, HISTORY + "22") == []


@pytest.mark.parametrize("page_bytes", [1, 100, 256 * 1024])
def test_pages(page_bytes: int) -> None:
    """How much the storage gives at once changes nothing."""
    timelines = Timelines(page_bytes)
    put(timelines, *[im(str(number)) for number in range(20)])
    server = Server(timelines=timelines)
    assert keys(server, LATEST + "15") == list(range(7, 22))
    assert keys(server, HISTORY + "6") == list(range(7, 22))


def test_bounded_number(server: Server, timelines: Timelines) -> None:
    """One answer has 3000 messages at most; from its last one the next goes on, until there are no more."""
    put(timelines, *NOT_LISTED, *[im() for _ in range(MOST_LISTED + 5)])
    first = keys(server, HISTORY + "0")
    assert first == list(range(6, 6 + MOST_LISTED))
    second = keys(server, HISTORY + str(first[-1]))
    assert second == list(range(6 + MOST_LISTED, 6 + MOST_LISTED + 5))
    assert keys(server, HISTORY + str(second[-1])) == []


def test_nothing_to_list_is_the_end(server: Server, timelines: Timelines) -> None:
    """A list is empty only where no message follows, however many entries that are not listed lie before it."""
    put(timelines, *[System(b"s")] * (2 * MOST_LISTED), im())
    assert keys(server, HISTORY + "0") == [2 * MOST_LISTED + 2]


@pytest.mark.parametrize("content", [b"x" * (MAX_BODY - 24), b"\x01" * (MAX_BODY - 24)], ids=["plain", "escaped"])
def test_bounded_bytes(server: Server, timelines: Timelines, content: bytes) -> None:
    """However long messages are, also in JSON: an answer is bounded, and never more than a page is read at once. The
    latest are the newest that fit, a history the oldest; where one ends the next goes on."""
    put(timelines, *[im(content) for _ in range(100)])
    answer = server.call("GET", LATEST + "100")
    assert MOST_BYTES * 0.9 < len(answer.content) < MOST_BYTES + 100
    latest = [message["id"] for message in answer.json["data"]]
    assert latest == list(range(latest[0], 102))
    key, pages = 0, []
    while True:
        answer = server.call("GET", HISTORY + str(key))
        assert len(answer.content) < MOST_BYTES + 100
        found = [message["id"] for message in answer.json["data"]]
        if not found:
            break
        pages.append(found)
        key = found[-1]
    assert [key for page in pages for key in page] == list(range(2, 102))
    assert len(pages) > 1
    assert timelines.longest_page <= 256 * 1024


def test_wrong_limit(server: Server) -> None:
    """Who asks for more than one answer can have is told so."""
    for limit in ("", "0", "-1", "x", str(MOST_LISTED + 1), "9" * 30):
        assert server.call("GET", LATEST + limit).is_error(400, "limit"), limit


@pytest.mark.parametrize("path", [LATEST + "10", HISTORY + "0", COUNT, COUNT + "&sync_key=2"])
def test_wrong_parameters(server: Server, path: str) -> None:
    """A parameter that is missing, no number or out of range is named."""
    base, _, query = path.partition("?")
    given = dict(pair.split("=") for pair in query.split("&"))
    for name in given:
        rest = {other: value for other, value in given.items() if other != name}
        wrong = ["", "x", "-1", "1.5", str(2**53), *(["0"] if name in ("appid", "uid") else [])]
        for value in wrong:
            asked = {**rest, name: value}
            answer = server.call("GET", f"{base}?" + "&".join(f"{key}={asked[key]}" for key in asked))
            assert answer.is_error(400, name), value
        if name != "sync_key":
            answer = server.call("GET", f"{base}?" + "&".join(f"{key}={rest[key]}" for key in rest))
            assert answer.is_error(400, name)


# What retention has taken.


def test_entries_that_are_kept_no_more(server: Server, timelines: Timelines) -> None:
    """What is kept is listed and counted, as if the rest had never been asked for."""
    put(timelines, *[im() for _ in range(20)])
    timelines.oldest = 15
    assert keys(server, HISTORY + "3") == keys(server, LATEST + "3000") == list(range(15, 22))
    for key, count in ((0, 7), (13, 7), (14, 7), (15, 6), (21, 0)):
        assert server.call("GET", f"{COUNT}&sync_key={key}").json == {"data": {"count": count}}
    timelines.oldest = 22
    assert keys(server, HISTORY + "3") == keys(server, LATEST + "3000") == []
    assert server.call("GET", f"{COUNT}&sync_key=3").json == {"data": {"count": 0}}


# The count.


def count(server: Server, more: str = "") -> Any:
    answer = server.call("GET", COUNT + more)
    assert answer.status == 200
    return answer.json


def test_count(server: Server, timelines: Timelines) -> None:
    """All entries after the key, listed ones or not; without one, after the key that the user saved."""
    assert count(server) == count(server, "&sync_key=0") == {"data": {"count": 0}}
    put(timelines, *[im() for _ in range(6)], *NOT_LISTED)
    assert count(server) == count(server, "&sync_key=0") == count(server, "&sync_key=1") == {"data": {"count": 10}}
    assert count(server, "&sync_key=2") == {"data": {"count": 9}}
    assert count(server, "&sync_key=11") == count(server, "&sync_key=500") == {"data": {"count": 0}}
    server.sync_keys.save_key(USER, 9)
    assert count(server) == {"data": {"count": 2}}
    assert count(server, "&sync_key=10") == {"data": {"count": 1}}
    assert count(server, "&sync_key=0") == {"data": {"count": 10}}
