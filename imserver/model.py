"""The values that cross rooms: who, where in a timeline, what is stored. No behaviour beyond their own arithmetic."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from imserver.protocol.commands import Command
from imserver.protocol.frame import HEADER_SIZE, SEQ_MASK, Envelope, OutFrame, pack_header, write_frames
from imserver.protocol.messages import (
    METADATA_SIZE,
    SYNC_NOTIFY_SIZE,
    Ack,
    Metadata,
    SyncNotify,
    encode_ack,
    encode_metadata,
    encode_sync_notify,
)

#: Where a timeline without entries stands (protocol.md, Timelines and sync keys).
EMPTY_TIMELINE: Final = 1
#: The most entries that one answer to SYNC or SYNC_GROUP holds (protocol.md, the same).
SYNC_ENTRIES: Final = 3000
#: Sync keys, uids and group ids stay below this, since JavaScript reads them as doubles.
SAFE_INTEGER: Final = 2**53


class UserKey(NamedTuple):
    """A user of an app. Users of other apps with the same uid are somebody else."""

    appid: int
    uid: int


#: Kinds of timelines. Plain integers: database drivers take five times as long for an IntEnum.
USER_TIMELINE: Final = 0
GROUP_TIMELINE: Final = 1


class TimelineKey(NamedTuple):
    """Whose timeline: a user's, or a super group's."""

    appid: int
    #: `USER_TIMELINE` or `GROUP_TIMELINE`.
    kind: int
    #: uid or group id.
    owner: int


def user_timeline(user: UserKey) -> TimelineKey:
    return TimelineKey(user.appid, USER_TIMELINE, user.uid)


def group_timeline(appid: int, group_id: int) -> TimelineKey:
    """The timeline of a super group."""
    return TimelineKey(appid, GROUP_TIMELINE, group_id)


#: Seconds that the newest member of a group may have joined ahead of the clock: those who join after each other are a
#: second apart at least, so that what is said between is told from what is said after; and clocks differ a little.
MOST_AHEAD: Final = 60


class Member(NamedTuple):
    """What a group knows about one who is in it."""

    #: Seconds since 1970, later than who joined before (`MOST_AHEAD`).
    joined: int
    muted: bool = False
    nickname: str = ""


class NewMember(NamedTuple):
    """Who is to join a group, as the caller describes them."""

    uid: int
    #: For people, in the notification of it alone (protocol.md, Group notification contents); None: not given.
    name: str | None = None
    avatar: str | None = None


class Group:
    """A group and its members, as they stand. It is never changed: a change makes a new one."""

    __slots__ = (
        "appid",
        "group_id",
        "is_super",
        "last_joined",
        "master",
        "members",
        "name",
        "notice",
        "timelines",
        "users",
    )

    def __init__(
        self,
        appid: int,
        group_id: int,
        master: int,
        name: str,
        notice: str,
        is_super: bool,
        members: Mapping[int, Member],
    ) -> None:
        self.appid = appid
        self.group_id = group_id
        self.master = master
        self.name = name
        self.notice = notice
        self.is_super = is_super
        #: By uid, in the order of uids.
        self.members = dict(sorted(members.items()))
        #: When the newest of the members joined; 0: there are none.
        self.last_joined = max([member.joined for member in members.values()], default=0)
        #: The members, in the same order.
        self.users = tuple([UserKey(appid, uid) for uid in self.members])
        #: Where a message to the group stands: the members' timelines, in the order of `users`, or the group's own.
        self.timelines = (
            (group_timeline(appid, group_id),) if is_super else tuple([user_timeline(user) for user in self.users])
        )


class Entry(NamedTuple):
    """One entry of a timeline, as a reader gets it."""

    key: int
    command: int
    flag: int
    #: The message's body in the layout of the newest protocol version.
    body: bytes
    #: The device number that the owner of the timeline sent it from; 0: sent by another, or from no known device.
    device: int


class Resend(NamedTuple):
    """How a message is recognised when its client sends it again (protocol.md, Resending)."""

    digest: bytes
    #: Seconds for which a second message of this digest counts as the same.
    window: int


class NewMessage(msgspec.Struct, frozen=True):
    """A message on its way into storage."""

    command: int
    flag: int
    #: In the layout of the newest protocol version.
    body: bytes
    #: Seconds since 1970.
    created: int
    #: The timelines that get an entry, each once.
    timelines: tuple[TimelineKey, ...]
    #: The device number that it was sent from; it marks the entry of the sender's timeline.
    device: int = 0
    resend: Resend | None = None
    #: Whose message it is. None: nobody's, it is the server's own (notifications).
    sender: UserKey | None = None
    #: Which of the timelines is the sender's: its key goes into METADATA of the ACK. (A super group's has index 0.)
    own: int = 0


class Stored(NamedTuple):
    """What became of a `NewMessage`. It is on disk."""

    #: The message's id in the database.
    message: int
    #: A key for each of the timelines, in their order. Of a resend only that in the sender's timeline, as `NewMessage`
    #: names it, or none where the first does not stand there: meanwhile the group became a super group, say.
    keys: tuple[int, ...]
    #: It had been stored before: nothing was added, nobody is to be told but the sender.
    resent: bool = False


class Unit:
    """Frames that leave together or not at all, encoded once and shared by all connections they go to."""

    __slots__ = ("_frames", "commands", "size")

    #: See `Push`.
    number = 0

    def __init__(self, frames: tuple[OutFrame, ...]) -> None:
        self._frames = frames
        #: Of its frames, in order.
        self.commands: tuple[int, ...] = tuple([frame.command for frame in frames])
        #: Bytes on the wire, at most.
        self.size = HEADER_SIZE * len(frames) + sum([len(frame.bodies[2]) for frame in frames])

    @property
    def frames(self) -> tuple[OutFrame, ...]:
        return self._frames

    def write(self, append: Callable[[bytes], None], seq: int, version: int, envelope: Envelope) -> int:
        """As `write_frames`, of its frames."""
        return write_frames(append, self._frames, seq, version, envelope)


class Push(Unit):
    """A unit that may be dropped where a client does not take it.

    ``timeline`` and ``notify`` are set where it pushes a stored entry: whoever loses it gets ``notify`` (SYNC_NOTIFY)
    instead, the newest of each timeline. ``number`` is the stored message's, where the connection is to remember under
    which seq it left, so that the client's ACK of it can be told: that of the frame before the last. ``key`` is that of
    the entry, where its message is pushed with it.
    """

    __slots__ = ("_notify", "key", "number", "timeline")

    def __init__(
        self,
        frames: tuple[OutFrame, ...],
        timeline: TimelineKey | None = None,
        notify: OutFrame | None = None,
        number: int = 0,
        key: int = 0,
    ) -> None:
        Unit.__init__(self, frames)
        self.number = number
        self.key = key
        self.timeline = timeline
        self._notify = notify

    @property
    def notify(self) -> OutFrame | None:
        return self._notify


# The two units of which a stored message makes one for its sender and one for each timeline. They are packed in whole
# frames as they leave; the frames as such are made only where somebody asks for them.


class AckOfStored(Unit):
    """METADATA with the key that a message got, and its ACK."""

    __slots__ = ("_acked", "_flag", "_key")

    def __init__(self, acked: int, key: int, flag: int) -> None:
        """
        Args:
            acked: the seq of the client's frame.
            key: the message's, in the sender's timeline or the super group's.
            flag: of the ACK.
        """
        self._acked = acked
        self._key = key
        self._flag = flag
        self.commands = _ACK_COMMANDS
        self.size = _ACK_SIZE

    @property
    def frames(self) -> tuple[OutFrame, ...]:
        return Metadata(self._key, self._key - 1).frame(), Ack(self._acked).frame(self._flag)

    def write(self, append: Callable[[bytes], None], seq: int, version: int, envelope: Envelope) -> int:
        metadata = encode_metadata(seq + 1, version, self._key)
        ack = encode_ack(seq + 2, version, self._flag, self._acked)
        if envelope is not None:
            append(envelope(METADATA_SIZE))
            append(metadata)
            append(envelope(len(ack)))
        else:
            append(metadata)
        append(ack)
        return seq + 2


_ACK_COMMANDS: Final = (int(Command.METADATA), int(Command.ACK))
_ACK_SIZE: Final = METADATA_SIZE + HEADER_SIZE + 5


class EntryPush(Push):
    """METADATA, a message of a user's timeline, and SYNC_NOTIFY."""

    __slots__ = ("_pushed",)

    def __init__(self, timeline: TimelineKey, key: int, pushed: OutFrame, number: int = 0) -> None:
        """
        Args:
            timeline, key: of the entry.
            pushed: the message, as `stored_frame` makes it; shared by all timelines that it stands in.
            number: as of `Push`.
        """
        self.number = number
        self.timeline = timeline
        self.key = key
        self._pushed = pushed
        self.commands = (_ACK_COMMANDS[0], pushed.command, _SYNC_NOTIFY)
        self.size = METADATA_SIZE + HEADER_SIZE + len(pushed.bodies[2]) + SYNC_NOTIFY_SIZE

    @property
    def frames(self) -> tuple[OutFrame, ...]:
        return Metadata(self.key, self.key - 1).frame(), self._pushed, self.notify

    @property
    def notify(self) -> OutFrame:
        return SyncNotify(self.key).frame()

    def write(self, append: Callable[[bytes], None], seq: int, version: int, envelope: Envelope) -> int:
        pushed = self._pushed
        body = pushed.bodies[version]
        length = len(body)
        if envelope is not None:
            append(envelope(METADATA_SIZE))
        append(encode_metadata(seq + 1, version, self.key))
        if envelope is not None:
            append(envelope(HEADER_SIZE + length))
        append(pack_header(length, seq + 2 & SEQ_MASK, pushed.command, version, pushed.flag, 0))
        append(body)
        if envelope is not None:
            append(envelope(SYNC_NOTIFY_SIZE))
        append(encode_sync_notify(seq + 3, version, self.key))
        return seq + 3


_SYNC_NOTIFY: Final = int(Command.SYNC_NOTIFY)


class SignIn(NamedTuple):
    """Who a token stands for, on which device, with which settings."""

    user: UserKey
    #: protocol.md, Who a connection is: the device number.
    device: int
    forbidden: bool = False
    notification_on: bool = False


class UserSettings(msgspec.Struct, frozen=True):
    """What the server knows about a user besides messages."""

    user: UserKey
    name: str = ""
    forbidden: bool = False
    notification_on: bool = False
    unread: int = 0
    #: Tokens that are in force.
    tokens: int = 0
    #: No sounds on this user's phones.
    mute: bool = False


class Relation(NamedTuple):
    """How one user stands to another."""

    #: The other is a friend of this user.
    friend: bool = False
    #: This user is a friend of the other.
    friend_of: bool = False
    #: This user is on the other's blacklist.
    blocked: bool = False


class Conversation(NamedTuple):
    """With whom a user talks: a peer, or a group."""

    is_group: bool
    #: uid or group id.
    other: int


class App(msgspec.Struct, frozen=True):
    appid: int
    name: str


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one server and one client may cost. 0 means no limit where a limit of 0 would make no sense."""

    connections: int = 100_000
    connections_per_address: int = 20_000
    sign_in_seconds: float = 30.0
    failed_sign_ins_per_address: int = 300
    refused_hold_seconds: float = 5.0
    idle_seconds: float = 360.0
    unfinished_commands: int = 64
    messages_per_second: int = 3_000
    bytes_per_second: int = 8 * 1024 * 1024
    queue_messages: int = 1_000
    queue_bytes: int = 1024 * 1024
    reply_bytes: int = 256 * 1024
    stalled_seconds: float = 60.0
    websocket_handshake_seconds: float = 10.0
    storage_messages: int = 10_000
    storage_bytes: int = 64 * 1024 * 1024
    storage_seconds: float = 2.0
    read_seconds: float = 2.0
    page_bytes: int = 256 * 1024
    cached_group_members: int = 250_000
