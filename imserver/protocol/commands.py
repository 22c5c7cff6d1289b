"""The words of the protocol: commands, flags, statuses, platforms, and who may say what (protocol.md, Commands)."""

from enum import IntEnum
from typing import Final


class Command(IntEnum):
    AUTH_STATUS = 3
    IM = 4
    ACK = 5
    GROUP_NOTIFICATION = 7
    GROUP_IM = 8
    PING = 13
    PONG = 14
    AUTH_TOKEN = 15
    RT = 17
    ENTER_ROOM = 18
    LEAVE_ROOM = 19
    ROOM_IM = 20
    SYSTEM = 21
    UNREAD_COUNT = 22
    CUSTOMER = 24
    CUSTOMER_SUPPORT = 25
    SYNC = 26
    SYNC_BEGIN = 27
    SYNC_END = 28
    SYNC_NOTIFY = 29
    SYNC_GROUP = 30
    SYNC_GROUP_BEGIN = 31
    SYNC_GROUP_END = 32
    SYNC_GROUP_NOTIFY = 33
    SYNC_KEY = 34
    GROUP_SYNC_KEY = 35
    NOTIFICATION = 36
    METADATA = 37
    CUSTOMER_V2 = 64


class Flag:
    """Bits. Plain numbers: each `&` of an IntFlag takes a microsecond, and a message has several."""

    TEXT: Final = 0x01
    UNPERSISTENT: Final = 0x02
    GROUP: Final = 0x04
    SELF: Final = 0x08
    PUSH: Final = 0x10
    SUPER_GROUP: Final = 0x20


class AckStatus(IntEnum):
    SUCCESS = 0
    NOT_MY_FRIEND = 1
    NOT_YOUR_FRIEND = 2
    IN_YOUR_BLACKLIST = 3
    NOT_GROUP_MEMBER = 64
    GROUP_NONEXISTENT = 65
    MUTED = 66
    RATE_LIMIT = 67
    NOT_STORED = 68


class Platform(IntEnum):
    IOS = 1
    ANDROID = 2
    WEB = 3
    WINDOWS = 4
    MACOS = 5


#: Platforms that count as a phone (protocol.md, Who a connection is).
MOBILE: Final = frozenset((Platform.IOS, Platform.ANDROID))

#: Of a client's flag bits, those that mean anything (protocol.md, Flags are the server's).
CLIENT_FLAGS: Final = Flag.TEXT | Flag.UNPERSISTENT

#: The newest version that this server speaks; a client that claims a later one is answered in this.
NEWEST_VERSION: Final = 2

#: Their entries are not pushed: clients are told that there is something to sync (protocol.md, Timelines).
NOT_PUSHED: Final = frozenset((Command.GROUP_NOTIFICATION, Command.SYSTEM))

CLIENT_MAY_SEND: Final = frozenset(
    (
        Command.IM,
        Command.ACK,
        Command.GROUP_IM,
        Command.PING,
        Command.PONG,
        Command.AUTH_TOKEN,
        Command.RT,
        Command.ENTER_ROOM,
        Command.LEAVE_ROOM,
        Command.ROOM_IM,
        Command.UNREAD_COUNT,
        Command.CUSTOMER,
        Command.CUSTOMER_SUPPORT,
        Command.SYNC,
        Command.SYNC_GROUP,
        Command.SYNC_KEY,
        Command.GROUP_SYNC_KEY,
        Command.METADATA,
        Command.CUSTOMER_V2,
    )
)

SERVER_MAY_SEND: Final = frozenset(
    (
        Command.AUTH_STATUS,
        Command.IM,
        Command.ACK,
        Command.GROUP_NOTIFICATION,
        Command.GROUP_IM,
        Command.PONG,
        Command.RT,
        Command.ROOM_IM,
        Command.SYSTEM,
        Command.CUSTOMER,
        Command.CUSTOMER_SUPPORT,
        Command.SYNC_BEGIN,
        Command.SYNC_END,
        Command.SYNC_NOTIFY,
        Command.SYNC_GROUP_BEGIN,
        Command.SYNC_GROUP_END,
        Command.SYNC_GROUP_NOTIFY,
        Command.NOTIFICATION,
        Command.METADATA,
        Command.CUSTOMER_V2,
    )
)
