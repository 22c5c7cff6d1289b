"""Bodies <-> values: one class a command (protocol.md, Commands).

Each class has the command it stands for, ``decode(body, version)``, ``encode(version)`` and ``frame(flag)``, which
encodes it for every version at once. ``decode`` raises `ProtocolError` (kind ``short``) where the body is too short,
and nothing else; bytes beyond a body of fixed size are passed over. ``encode`` of an integer, or of a token's or
device's length, that does not fit its field is the caller's mistake and raises `struct.error`.
"""

import struct
from struct import Struct
from typing import ClassVar, Final, Self

import msgspec

from imserver.protocol.commands import CLIENT_MAY_SEND, NEWEST_VERSION, SERVER_MAY_SEND, Command
from imserver.protocol.errors import ProtocolError
from imserver.protocol.frame import SEQ_MASK, OutFrame

_INT8 = Struct("!b")
_UINT8 = Struct("!B")
_INT32 = Struct("!i")
_INT64 = Struct("!q")
_TWO_INT64 = Struct("!qq")
_ACK = Struct("!ib")
_IM_HEAD = Struct("!qqii")
_IM_HEAD_V0 = Struct("!qqi")
_CUSTOMER_HEAD = Struct("!qqqqi")
_METADATA = Struct("!qq16x")


def _short(command: Command, body: bytes) -> ProtocolError:
    return ProtocolError("short", f"a body of {len(body)} bytes is too short for {command.name}")


class Message(msgspec.Struct, frozen=True, gc=False):
    """What every message can do. A subclass gives `command`, `decode` and `encode`."""

    command: ClassVar[Command]

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        raise NotImplementedError

    def encode(self, version: int) -> bytes:
        """The body, as a peer of this version reads it."""
        raise NotImplementedError

    def frame(self, flag: int = 0) -> OutFrame:
        """This message ready to leave to connections of any version."""
        body = self.encode(NEWEST_VERSION)
        return OutFrame(self.command, flag, (body, body, body))


class _Empty(Message, frozen=True, gc=False):
    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        return cls()

    def encode(self, version: int) -> bytes:
        return b""


class Ping(_Empty, frozen=True, gc=False):
    command = Command.PING


class Pong(_Empty, frozen=True, gc=False):
    command = Command.PONG


class AuthStatus(Message, frozen=True, gc=False):
    """int32 status: 0 ok, 1 refused."""

    command = Command.AUTH_STATUS
    status: int

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        if len(body) < 4:
            raise _short(cls.command, body)
        return cls(_INT32.unpack_from(body)[0])

    def encode(self, version: int) -> bytes:
        return _INT32.pack(self.status)


class AuthToken(Message, frozen=True, gc=False):
    """int8 platform, uint8 n, n bytes token, uint8 m, m bytes device id.

    Token and device stay bytes: they are a stranger's, and nothing says that they are text.
    """

    command = Command.AUTH_TOKEN
    platform: int
    token: bytes
    device: bytes

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        size = len(body)
        if size < 3:
            raise _short(cls.command, body)
        token_end = 2 + body[1]
        if size < token_end + 1:
            raise _short(cls.command, body)
        device_end = token_end + 1 + body[token_end]
        if size < device_end:
            raise _short(cls.command, body)
        return cls(_INT8.unpack_from(body)[0], body[2:token_end], body[token_end + 1 : device_end])

    def encode(self, version: int) -> bytes:
        return b"".join(
            (
                _INT8.pack(self.platform),
                _UINT8.pack(len(self.token)),
                self.token,
                _UINT8.pack(len(self.device)),
                self.device,
            )
        )


class _PeerMessage(Message, frozen=True, gc=False):
    """int64 sender, int64 receiver, int32 timestamp (s), int32 msgid, content. Version 0 has no timestamp."""

    sender: int
    receiver: int
    timestamp: int
    msgid: int
    content: bytes

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        try:
            if version == 0:
                sender, receiver, msgid = _IM_HEAD_V0.unpack_from(body)
                return cls(sender, receiver, 0, msgid, body[20:])
            sender, receiver, timestamp, msgid = _IM_HEAD.unpack_from(body)
        except struct.error:
            raise _short(cls.command, body) from None
        return cls(sender, receiver, timestamp, msgid, body[24:])

    def encode(self, version: int) -> bytes:
        if version == 0:
            return _IM_HEAD_V0.pack(self.sender, self.receiver, self.msgid) + self.content
        return _IM_HEAD.pack(self.sender, self.receiver, self.timestamp, self.msgid) + self.content

    def frame(self, flag: int = 0) -> OutFrame:
        body = self.encode(NEWEST_VERSION)
        return OutFrame(self.command, flag, (_without_timestamp(body), body, body))


def _without_timestamp(body: bytes) -> bytes:
    """A body of IM or GROUP_IM as version 0 reads it."""
    return body[:16] + body[20:]


def stamped_body(body: bytes, version: int, seconds: int) -> bytes:
    """The body of an IM or GROUP_IM that a client sent, in the layout of the newest version and with this timestamp."""
    return body[:16] + _INT32.pack(seconds) + body[16 if version == 0 else 20 :]


def sender_of(body: bytes) -> int:
    """Whom an IM or GROUP_IM is from, by its body."""
    sender: int = _INT64.unpack_from(body)[0]
    return sender


class IM(_PeerMessage, frozen=True, gc=False):
    command = Command.IM


class GroupIM(_PeerMessage, frozen=True, gc=False):
    """As IM; the receiver is the group."""

    command = Command.GROUP_IM


class Ack(Message, frozen=True, gc=False):
    """int32 seq that is acknowledged; from version 2 also int8 status."""

    command = Command.ACK
    seq: int
    status: int = 0

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        try:
            if version >= 2:
                return cls(*_ACK.unpack_from(body))
            return cls(_INT32.unpack_from(body)[0])
        except struct.error:
            raise _short(cls.command, body) from None

    def encode(self, version: int) -> bytes:
        if version >= 2:
            return _ACK.pack(self.seq, self.status)
        return _INT32.pack(self.seq)

    def frame(self, flag: int = 0) -> OutFrame:
        body = _ACK.pack(self.seq, self.status)
        plain = body[:4]
        return OutFrame(Command.ACK, flag, (plain, plain, body))


class _Content(Message, frozen=True, gc=False):
    """Nothing but content."""

    content: bytes

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        return cls(body)

    def encode(self, version: int) -> bytes:
        return self.content


class GroupNotification(_Content, frozen=True, gc=False):
    """JSON text (protocol.md, Group notification contents)."""

    command = Command.GROUP_NOTIFICATION


class System(_Content, frozen=True, gc=False):
    command = Command.SYSTEM


class Notification(_Content, frozen=True, gc=False):
    command = Command.NOTIFICATION


class _Realtime(Message, frozen=True, gc=False):
    """int64 sender, int64 receiver, content."""

    sender: int
    receiver: int
    content: bytes

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        try:
            sender, receiver = _TWO_INT64.unpack_from(body)
        except struct.error:
            raise _short(cls.command, body) from None
        return cls(sender, receiver, body[16:])

    def encode(self, version: int) -> bytes:
        return _TWO_INT64.pack(self.sender, self.receiver) + self.content


class RT(_Realtime, frozen=True, gc=False):
    command = Command.RT


class RoomIM(_Realtime, frozen=True, gc=False):
    """The receiver is the room."""

    command = Command.ROOM_IM


class _Room(Message, frozen=True, gc=False):
    """int64 room."""

    room: int

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        if len(body) < 8:
            raise _short(cls.command, body)
        return cls(_INT64.unpack_from(body)[0])

    def encode(self, version: int) -> bytes:
        return _INT64.pack(self.room)


class EnterRoom(_Room, frozen=True, gc=False):
    command = Command.ENTER_ROOM


class LeaveRoom(_Room, frozen=True, gc=False):
    command = Command.LEAVE_ROOM


class UnreadCount(Message, frozen=True, gc=False):
    """int32 count."""

    command = Command.UNREAD_COUNT
    count: int

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        if len(body) < 4:
            raise _short(cls.command, body)
        return cls(_INT32.unpack_from(body)[0])

    def encode(self, version: int) -> bytes:
        return _INT32.pack(self.count)


class Customer(Message, frozen=True, gc=False):
    """int64 customer appid, int64 customer id, int64 store id, int64 seller id, int32 timestamp, content."""

    command = Command.CUSTOMER
    customer_appid: int
    customer: int
    store: int
    seller: int
    timestamp: int
    content: bytes

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        try:
            a, b, c, d, timestamp = _CUSTOMER_HEAD.unpack_from(body)
        except struct.error:
            raise _short(cls.command, body) from None
        return cls(a, b, c, d, timestamp, body[36:])

    def encode(self, version: int) -> bytes:
        return (
            _CUSTOMER_HEAD.pack(self.customer_appid, self.customer, self.store, self.seller, self.timestamp)
            + self.content
        )


class CustomerSupport(Customer, frozen=True, gc=False):
    command = Command.CUSTOMER_SUPPORT


class CustomerV2(Message, frozen=True, gc=False):
    """int64 sender appid, int64 sender, int64 receiver appid, int64 receiver, int32 timestamp, content."""

    command = Command.CUSTOMER_V2
    sender_appid: int
    sender: int
    receiver_appid: int
    receiver: int
    timestamp: int
    content: bytes

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        try:
            a, b, c, d, timestamp = _CUSTOMER_HEAD.unpack_from(body)
        except struct.error:
            raise _short(cls.command, body) from None
        return cls(a, b, c, d, timestamp, body[36:])

    def encode(self, version: int) -> bytes:
        return (
            _CUSTOMER_HEAD.pack(self.sender_appid, self.sender, self.receiver_appid, self.receiver, self.timestamp)
            + self.content
        )


class _Key(Message, frozen=True, gc=False):
    """int64 sync key."""

    key: int

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        if len(body) < 8:
            raise _short(cls.command, body)
        return cls(_INT64.unpack_from(body)[0])

    def encode(self, version: int) -> bytes:
        return _INT64.pack(self.key)


class Sync(_Key, frozen=True, gc=False):
    command = Command.SYNC


class SyncBegin(_Key, frozen=True, gc=False):
    command = Command.SYNC_BEGIN


class SyncEnd(_Key, frozen=True, gc=False):
    command = Command.SYNC_END


class SyncNotify(_Key, frozen=True, gc=False):
    command = Command.SYNC_NOTIFY


class SyncKey(_Key, frozen=True, gc=False):
    command = Command.SYNC_KEY


class _GroupKey(Message, frozen=True, gc=False):
    """int64 group, int64 sync key."""

    group: int
    key: int

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        if len(body) < 16:
            raise _short(cls.command, body)
        return cls(*_TWO_INT64.unpack_from(body))

    def encode(self, version: int) -> bytes:
        return _TWO_INT64.pack(self.group, self.key)


class SyncGroup(_GroupKey, frozen=True, gc=False):
    command = Command.SYNC_GROUP


class SyncGroupBegin(_GroupKey, frozen=True, gc=False):
    command = Command.SYNC_GROUP_BEGIN


class SyncGroupEnd(_GroupKey, frozen=True, gc=False):
    command = Command.SYNC_GROUP_END


class SyncGroupNotify(_GroupKey, frozen=True, gc=False):
    command = Command.SYNC_GROUP_NOTIFY


class GroupSyncKey(_GroupKey, frozen=True, gc=False):
    command = Command.GROUP_SYNC_KEY


class Metadata(Message, frozen=True, gc=False):
    """int64 sync key, int64 previous sync key, 16 zero bytes."""

    command = Command.METADATA
    key: int
    previous: int

    @classmethod
    def decode(cls, body: bytes, version: int) -> Self:
        if len(body) < 32:
            raise _short(cls.command, body)
        return cls(*_TWO_INT64.unpack_from(body))

    def encode(self, version: int) -> bytes:
        return _METADATA.pack(self.key, self.previous)


#: Every command's class.
MESSAGES: Final[dict[int, type[Message]]] = {
    message.command: message
    for message in (
        AuthStatus,
        IM,
        Ack,
        GroupNotification,
        GroupIM,
        Ping,
        Pong,
        AuthToken,
        RT,
        EnterRoom,
        LeaveRoom,
        RoomIM,
        System,
        UnreadCount,
        Customer,
        CustomerSupport,
        Sync,
        SyncBegin,
        SyncEnd,
        SyncNotify,
        SyncGroup,
        SyncGroupBegin,
        SyncGroupEnd,
        SyncGroupNotify,
        SyncKey,
        GroupSyncKey,
        Notification,
        Metadata,
        CustomerV2,
    )
}

_FROM_CLIENT: Final = {int(command): MESSAGES[command].decode for command in CLIENT_MAY_SEND}
_FROM_SERVER: Final = {int(command): MESSAGES[command].decode for command in SERVER_MAY_SEND}


def decode_from_client(command: int, version: int, body: bytes) -> Message:
    """The message of a client's frame. Raises `ProtocolError`: kind ``command`` (not a client's to send), ``short``."""
    decode = _FROM_CLIENT.get(command)
    if decode is None:
        raise ProtocolError("command", f"clients may not send command {command}")
    return decode(body, version)


def decode_from_server(command: int, version: int, body: bytes) -> Message:
    """The message of a server's frame. Raises `ProtocolError`: kind ``command`` (not a server's to send), ``short``."""
    decode = _FROM_SERVER.get(command)
    if decode is None:
        raise ProtocolError("command", f"servers do not send command {command}")
    return decode(body, version)


def stored_frame(command: int, flag: int, body: bytes) -> OutFrame:
    """A stored body (in the layout of the newest version) ready to leave to connections of any version."""
    if command == Command.IM or command == Command.GROUP_IM:
        return OutFrame(command, flag, (_without_timestamp(body), body, body))
    return OutFrame(command, flag, (body, body, body))


# What is said of every stored message: whole frames, ready to leave, without an object of their class.

_METADATA_FRAME = Struct("!iiBBBBqq16x")
_SYNC_NOTIFY_FRAME = Struct("!iiBBBBq")
_ACK_FRAME = Struct("!iiBBBBib")
_ACK_FRAME_OLD = Struct("!iiBBBBi")
METADATA_SIZE: Final = _METADATA_FRAME.size
SYNC_NOTIFY_SIZE: Final = _SYNC_NOTIFY_FRAME.size
_METADATA_CODE: Final = int(Command.METADATA)
_SYNC_NOTIFY_CODE: Final = int(Command.SYNC_NOTIFY)
_ACK_CODE: Final = int(Command.ACK)


def encode_metadata(seq: int, version: int, key: int) -> bytes:
    """METADATA of an entry: keys are dense, so that the previous one is known (protocol.md, Timelines)."""
    return _METADATA_FRAME.pack(32, seq & SEQ_MASK, _METADATA_CODE, version, 0, 0, key, key - 1)


def encode_sync_notify(seq: int, version: int, key: int) -> bytes:
    """SYNC_NOTIFY of an entry."""
    return _SYNC_NOTIFY_FRAME.pack(8, seq & SEQ_MASK, _SYNC_NOTIFY_CODE, version, 0, 0, key)


def encode_ack(seq: int, version: int, flag: int, acked: int) -> bytes:
    """ACK that says success."""
    if version >= 2:
        return _ACK_FRAME.pack(5, seq & SEQ_MASK, _ACK_CODE, version, flag, 0, acked, 0)
    return _ACK_FRAME_OLD.pack(4, seq & SEQ_MASK, _ACK_CODE, version, flag, 0, acked)
