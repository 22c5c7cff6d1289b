"""The words of the protocol against its tables, copied here from protocol.md by hand."""

import pytest

from imserver.protocol.commands import (
    CLIENT_FLAGS,
    CLIENT_MAY_SEND,
    MOBILE,
    NEWEST_VERSION,
    SERVER_MAY_SEND,
    AckStatus,
    Command,
    Flag,
    Platform,
)
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import HEADER_SIZE, MAX_BODY
from imserver.protocol.messages import MESSAGES, Message, decode_from_client, decode_from_server

#: Number, name, and who may send it; (c) is a client whose frame is tolerated.
COMMANDS = """
     3  AUTH_STATUS         s
     4  IM                  c s
     5  ACK                 c s
     7  GROUP_NOTIFICATION  s
     8  GROUP_IM            c s
    13  PING                c
    14  PONG                s (c)
    15  AUTH_TOKEN          c
    17  RT                  c s
    18  ENTER_ROOM          c
    19  LEAVE_ROOM          c
    20  ROOM_IM             c s
    21  SYSTEM              s
    22  UNREAD_COUNT        c
    24  CUSTOMER            c s
    25  CUSTOMER_SUPPORT    c s
    26  SYNC                c
    27  SYNC_BEGIN          s
    28  SYNC_END            s
    29  SYNC_NOTIFY         s
    30  SYNC_GROUP          c
    31  SYNC_GROUP_BEGIN    s
    32  SYNC_GROUP_END      s
    33  SYNC_GROUP_NOTIFY   s
    34  SYNC_KEY            c
    35  GROUP_SYNC_KEY      c
    36  NOTIFICATION        s
    37  METADATA            s (c)
    64  CUSTOMER_V2         c s
"""
TABLE = [line.split(maxsplit=2) for line in COMMANDS.strip().splitlines()]


def test_numbers() -> None:
    """The commands are those of the table and no others."""
    assert {command.name: command.value for command in Command} == {name: int(number) for number, name, _ in TABLE}


def test_who_may_send_what() -> None:
    """A tolerated frame of a client counts as one that it may send; all else is the table's."""
    assert {command.name for command in CLIENT_MAY_SEND} == {name for _, name, who in TABLE if "c" in who}
    assert {command.name for command in SERVER_MAY_SEND} == {name for _, name, who in TABLE if "s" in who}


@pytest.mark.parametrize("command", Command)
def test_each_command_has_a_message(command: Command) -> None:
    """Each command has a class of its own, which knows its command, and its frame carries it."""
    message = MESSAGES[command]
    assert issubclass(message, Message)
    assert message.command is command
    assert message.decode(bytes(100), NEWEST_VERSION).frame(3).command == command
    assert message.decode(bytes(100), NEWEST_VERSION).frame(3).flag == 3


def test_no_message_without_a_command() -> None:
    """The table of classes has the commands' numbers as keys, and each class once."""
    assert set(MESSAGES) == set(Command)
    assert len(set(MESSAGES.values())) == len(Command)


@pytest.mark.parametrize("number", range(256))
def test_what_each_side_may_send(number: int) -> None:
    """For each of the 256 numbers the readers of both sides take what the table allows and refuse the rest."""
    who = next((who for value, _, who in TABLE if int(value) == number), "")
    for side, decode in (("c", decode_from_client), ("s", decode_from_server)):
        if side in who:
            assert decode(number, NEWEST_VERSION, bytes(100)).command == number
        else:
            with pytest.raises(ProtocolError, match=f"command {number}") as refused:
                decode(number, NEWEST_VERSION, bytes(100))
            assert refused.value.kind == "command"


def test_flags() -> None:
    """The bits of the table; of a client's only TEXT and UNPERSISTENT count."""
    assert {name: value for name, value in vars(Flag).items() if name.isupper()} == {
        "TEXT": 0x01,
        "UNPERSISTENT": 0x02,
        "GROUP": 0x04,
        "SELF": 0x08,
        "PUSH": 0x10,
        "SUPER_GROUP": 0x20,
    }
    assert CLIENT_FLAGS == 0x03


def test_statuses() -> None:
    """What an ACK says: the clients' statuses, and 66 to 68, which are this server's."""
    assert {status.name: status.value for status in AckStatus} == {
        "SUCCESS": 0,
        "NOT_MY_FRIEND": 1,
        "NOT_YOUR_FRIEND": 2,
        "IN_YOUR_BLACKLIST": 3,
        "NOT_GROUP_MEMBER": 64,
        "GROUP_NONEXISTENT": 65,
        "MUTED": 66,
        "RATE_LIMIT": 67,
        "NOT_STORED": 68,
    }


def test_platforms() -> None:
    """The platforms of AUTH_TOKEN; iOS and Android are mobile."""
    assert {platform.name: platform.value for platform in Platform} == {
        "IOS": 1,
        "ANDROID": 2,
        "WEB": 3,
        "WINDOWS": 4,
        "MACOS": 5,
    }
    assert {1, 2} == MOBILE


def test_sizes() -> None:
    """The header, the longest body of a client, and the newest version."""
    assert (HEADER_SIZE, MAX_BODY, NEWEST_VERSION) == (12, 32767, 2)


def test_error_tells_kind_and_text() -> None:
    """A ProtocolError has a word for the metric, a text for people, and nothing of what the peer sent."""
    with pytest.raises(ProtocolError) as refused:
        decode_from_client(Command.SYNC, 2, b"secret")
    assert refused.value.kind == "short"
    assert str(refused.value) == refused.value.text == "a body of 6 bytes is too short for SYNC"
