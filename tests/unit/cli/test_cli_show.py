"""Messages as lines."""

import json
import time

import pytest

from imserver.cli.show import for_people, for_programs, printable, text_of
from imserver.protocol.commands import Flag
from imserver.protocol.messages import IM, RT, Customer, GroupIM, GroupNotification

WHEN = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"text": "hello", "uuid": "u"}', "hello"),
        (b'{"text": 5}', '{"text": 5}'),
        (b'["text"]', '["text"]'),
        (b"plain", "plain"),
        (b"\xff\x00", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"", ""),
        (b'{"text": "a\\u001b[2J\\nb"}', "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b"),
        ("grüß dich \N{GRINNING FACE}".encode(), "grüß dich \N{GRINNING FACE}"),
    ],
)
def test_text(content: bytes, text: str) -> None:
    """The text of the clients' JSON, or all of the content; nothing that steers a terminal."""
    assert text_of(content) == text


def test_printable() -> None:
    """Right-to-left overrides and the like go too."""
    assert printable("a\N{RIGHT-TO-LEFT OVERRIDE}b\x9b1m") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}1m"


def test_for_people() -> None:
    """When, who to whom, what; the kind where it is not a peer message."""
    content = b'{"text": "hi"}'
    assert for_people(IM(1, 2, 1_700_000_000, 5, content), 0, 3) == f"{WHEN}  1 -> 2: hi"
    assert for_people(GroupIM(1, 20, 1_700_000_000, 5, content), 0, 3) == f"{WHEN}  GROUP_IM 1 -> 20: hi"
    assert for_people(Customer(7, 1, 2, 9, 1_700_000_000, content), 0, 3) == f"{WHEN}  CUSTOMER 1 -> 9: hi"
    assert for_people(RT(1, 2, b"typing"), 0, 0).endswith("  RT 1 -> 2: typing")
    assert for_people(GroupNotification(b"{}"), 0, 3).endswith("  GROUP_NOTIFICATION {}")


def test_for_programs() -> None:
    """Everything, as JSON can carry it."""
    shown = for_programs(IM(1, 2, 1_700_000_000, 5, b'{"text": "hi"}'), Flag.PUSH, 3)
    assert shown == {
        "command": "IM",
        "key": 3,
        "pushed": True,
        "self": False,
        "sender": 1,
        "receiver": 2,
        "timestamp": 1_700_000_000,
        "msgid": 5,
        "content": '{"text": "hi"}',
    }
    shown = for_programs(RT(1, 2, b"\xff\x00"), Flag.SELF, 0)
    assert (shown["content_base64"], shown["self"]) == ("/wA=", True)
    assert "content" not in shown
    json.dumps(shown)
