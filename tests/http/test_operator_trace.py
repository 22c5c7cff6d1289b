"""The operator's question what became of a message."""

import pytest

from imserver.chat.trace import Trace
from imserver.model import NewMessage, Stored, UserKey, user_timeline
from imserver.protocol.commands import Command
from tests.http.server import Server

ADA, BOB = UserKey(7, 1), UserKey(7, 2)


@pytest.fixture
def trace() -> Trace:
    """Ada has sent Bob messages 1 to 12."""
    trace = Trace(100, False, True, lambda: 1_700_000_000.0, lambda: 50.0)
    timelines = (user_timeline(ADA), user_timeline(BOB))
    message = NewMessage(Command.IM, 0, bytes(24), 5, timelines, sender=ADA)
    for number in range(1, 13):
        trace.stored(Stored(number, (number + 1, number + 1)), message, None, 40.0, 41.0, [], [BOB], True)
    return trace


@pytest.fixture
def server(trace: Trace) -> Server:
    server = Server(trace=trace)
    for user in (ADA, BOB):
        server.accounts.add_user(f"token {user.uid}", user)
    return server


def test_message(server: Server, trace: Trace) -> None:
    """All that is known about one message."""
    answer = server.call("GET", "/admin/trace?message=3")
    assert answer.json == trace.of_message(3)
    assert answer.json["sender"] == {"appid": 7, "uid": 1}
    assert answer.json["events"][-1] == {
        "at": 1_699_999_991.0,
        "event": "queued",
        "count": 1,
        "users": [{"appid": 7, "uid": 2}],
    }


def test_user(server: Server) -> None:
    """The newest messages of a user, ten of them or as many as are asked for."""
    for query, numbers in (("", range(3, 13)), ("&last=2", (11, 12)), ("&last=100", range(1, 13))):
        messages = server.call("GET", f"/admin/trace?appid=7&uid=2{query}").json["messages"]
        assert [message["message"] for message in messages] == list(numbers)
    assert server.call("GET", "/admin/trace?appid=7&uid=3").json == {"messages": []}


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("", "either `message`, or `appid` and `uid`"),
        ("?appid=7", "either"),
        ("?uid=7", "either"),
        ("?message=1&appid=7&uid=1", "either"),
        ("?message=1&uid=1", "either"),
        ("?message=0", "message"),
        ("?message=x", "message in the query has to be one decimal number"),
        ("?message=-1", "message"),
        ("?message=1&message=2", "message"),
        (f"?message={2**53}", "message"),
        ("?appid=0&uid=1", "appid"),
        (f"?appid=7&uid={2**53}", "uid"),
        ("?appid=7&uid=1&last=0", "last"),
        ("?appid=7&uid=1&last=101", "last"),
    ],
)
def test_wrong_query(server: Server, query: str, word: str) -> None:
    """What is neither a message nor a user is named."""
    assert server.call("GET", f"/admin/trace{query}").is_error(400, word)


def test_message_that_is_not_remembered(server: Server) -> None:
    """It says how far back memory goes."""
    assert server.call("GET", "/admin/trace?message=13").is_error(404, "message 13", "newest 100")


def test_nothing_is_traced() -> None:
    """It says how that is changed."""
    server = Server()
    for query in ("message=1", "appid=7&uid=1"):
        assert server.call("GET", f"/admin/trace?{query}").is_error(404, "[trace] messages")
