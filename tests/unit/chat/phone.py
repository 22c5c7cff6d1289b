"""A client that keeps what it gets, by the rules that the GoBelieve clients follow (protocol.md, Timelines)."""

from collections import Counter, deque
from itertools import count

from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.messages import (
    IM,
    Ack,
    AuthStatus,
    AuthToken,
    GroupIM,
    GroupNotification,
    Message,
    Metadata,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncGroup,
    SyncGroupBegin,
    SyncGroupEnd,
    SyncGroupNotify,
    SyncKey,
    SyncNotify,
)
from tests.fakes.chat import Said
from tests.unit.chat.line import Line, Outgoing, Server

#: Of a message to a group, that it is refused for good.
_REFUSALS = (AckStatus.NOT_GROUP_MEMBER, AckStatus.GROUP_NONEXISTENT, AckStatus.MUTED)


class Held:
    """What a phone has of a super group."""

    def __init__(self) -> None:
        #: Entries by key: their contents.
        self.entries: dict[int, bytes] = {}
        self.key = 0


class Phone:
    """It remembers over its connections. What it holds is by sync key."""

    def __init__(self, server: Server, uid: int, device: bytes, platform: Platform, version: int) -> None:
        self.uid = uid
        self._server = server
        self._device = device
        self._platform = platform
        self.version = version
        self._seqs = count(1)
        #: Entries by key: their contents.
        self.held: dict[int, bytes] = {}
        #: The same of super groups.
        self.groups: dict[int, Held] = {}
        #: Where the first sync that brought anything began: nothing before it was asked for.
        self.began: int | None = None
        self.key = 0
        #: What it sent and nobody acknowledged, by content.
        self.unacknowledged: dict[bytes, IM | GroupIM] = {}
        self.acknowledged: dict[bytes, IM | GroupIM] = {}
        #: What it was not allowed to say, or so it was told.
        self.refused: dict[bytes, IM | GroupIM] = {}
        self.times_sent = Counter[bytes]()
        self.line: Line | None = None
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._signed_in = False
        self._syncing_from: int | None = None
        self._synced: list[Said] = []
        #: What it was notified of in the middle of a sync.
        self._pending = 0
        #: The syncs of groups that are not answered, each with what is to hold it, and from where.
        self._syncing_groups: dict[int, deque[tuple[Held, int]]] = {}
        self._synced_group: tuple[int, list[Said]] | None = None
        self._pending_groups: dict[int, int] = {}
        self._metadata: Metadata | None = None
        self._sent: dict[int, bytes] = {}
        self._resent: set[int] = set()
        #: By group; 0: the user's own timeline.
        self._pushed_keys: dict[int, int] = {}

    def connect(self) -> None:
        """Sign in, sync all and send again what is not acknowledged, in one go."""
        self.line = self._server.connect(self.version)
        self._forget_connection()
        token = self._server.world.token(self.uid)
        self.line.send(
            Outgoing(AuthToken(self._platform, token, self._device), next(self._seqs)),
            Outgoing(Sync(self.key), next(self._seqs)),
        )
        self._syncing_from = self.key
        for group in self.groups:
            self._sync_group(group)
        for message in self.unacknowledged.values():
            self._say(message, again=True)

    def hang_up(self) -> None:
        if self.line is not None:
            self.line.hang_up()
            self.line = None

    def send(self, receiver: int, content: bytes) -> None:
        self._send(IM(self.uid, receiver, 0, 0, content))

    def send_to_group(self, group: int, content: bytes) -> None:
        self._send(GroupIM(self.uid, group, 0, 0, content))

    def _send(self, message: IM | GroupIM) -> None:
        self.unacknowledged[message.content] = message
        self._say(message, again=False)

    def send_again(self, content: bytes) -> None:
        """Whether it was acknowledged or not."""
        self._say((self.unacknowledged | self.acknowledged)[content], again=True)

    def _say(self, message: IM | GroupIM, again: bool) -> None:
        assert self.line is not None
        seq = next(self._seqs)
        self._sent[seq] = message.content
        self.times_sent[message.content] += 1
        if again:
            self._resent.add(seq)
        self.line.send(Outgoing(message, seq))

    def read(self) -> None:
        """Take all that came, and ask for what is missing, until nothing is."""
        while self.line is not None:
            came = self.line.read()
            if not came:
                return
            for said in came:
                self._take(said)

    def _take(self, said: Said) -> None:
        metadata, self._metadata = self._metadata, None
        match said.message:
            case AuthStatus(status=status):
                assert (status, self._signed_in) == (0, False)
                self._signed_in = True
            case Metadata() as message:
                assert metadata is None
                assert message.previous == message.key - 1
                self._metadata = message
            case IM() | GroupIM() as message if said.flag & Flag.PUSH:
                assert metadata is not None, "a push without METADATA directly before it"
                self._pushed(message, said.flag, metadata)
            case IM() | GroupIM() | GroupNotification():
                assert metadata is None
                self._synced_entry(said)
            case Ack(seq=seq, status=status):
                self._answered(seq, status, said.flag, metadata)
            case message:
                assert metadata is None
                self._sync_said(message)

    def _sync_said(self, message: Message) -> None:
        match message:
            case SyncBegin(key=key):
                assert self._syncing_from is not None
                assert self._syncing_from in (0, key)
                self._syncing_from = key
                if self.key == 0:
                    self.began = key
            case SyncEnd(key=key):
                self._end_of_sync(key)
            case SyncNotify(key=key):
                if self._syncing_from is None:
                    self._sync_if_behind(key)
                else:
                    self._pending = max(self._pending, key)
            case SyncGroupBegin(group=group):
                assert self._synced_group is None
                assert self._syncing_groups[group]
                self._synced_group = (group, [])
            case SyncGroupEnd(group=group, key=key):
                self._end_of_group_sync(group, key)
            case SyncGroupNotify(group=group, key=key):
                self._group_notified(group, key)
            case message:
                raise AssertionError(f"the server said {message}")

    def _pushed(self, message: IM | GroupIM, flag: int, metadata: Metadata) -> None:
        if not flag & Flag.SUPER_GROUP:
            assert flag == Flag.PUSH
            self._rises(0, metadata.key)
            if metadata.previous == self.key != 0:
                self._hold(self.held, metadata.key, message.content)
                self.key = metadata.key
            return
        assert flag == Flag.PUSH | Flag.SUPER_GROUP
        assert isinstance(message, GroupIM)
        self._rises(message.receiver, metadata.key)
        self._follow_group(message.receiver, metadata, message.content)

    def _follow_group(self, group: int, metadata: Metadata, content: bytes) -> None:
        held = self.groups.get(group)
        if held is not None and metadata.previous == held.key != 0:
            self._hold(held.entries, metadata.key, content)
            held.key = metadata.key

    def _answered(self, seq: int, status: int, flag: int, metadata: Metadata | None) -> None:
        content = self._sent.pop(seq)
        said = (self.unacknowledged | self.acknowledged | self.refused)[content]
        if status in _REFUSALS:
            assert isinstance(said, GroupIM)
            assert metadata is None
            if content in self.unacknowledged:
                self.refused[content] = self.unacknowledged.pop(content)
            return
        if status != AckStatus.SUCCESS:
            assert (status, metadata) == (AckStatus.NOT_STORED, None)
            return
        if content in self.unacknowledged:
            self.acknowledged[content] = self.unacknowledged.pop(content)
        if metadata is None:
            # Refused, and this client knows no status; or a resend of what stands in another timeline.
            assert isinstance(said, GroupIM)
            assert self.version < 2 or seq in self._resent
            return
        group = said.receiver if flag & Flag.SUPER_GROUP else 0
        if seq not in self._resent:
            self._rises(group, metadata.key)
        if group:
            self._follow_group(group, metadata, content)
        elif metadata.previous == self.key != 0:
            self._hold(self.held, metadata.key, content)
            self.key = metadata.key

    def _rises(self, group: int, key: int) -> None:
        """METADATA leaves in the order of the keys."""
        assert key > self._pushed_keys.get(group, 0)
        self._pushed_keys[group] = key

    def _synced_entry(self, said: Said) -> None:
        if said.flag & Flag.SUPER_GROUP:
            assert self._synced_group is not None
            self._synced_group[1].append(said)
        else:
            assert self._syncing_from is not None
            assert self._synced_group is None
            self._synced.append(said)

    def _end_of_sync(self, key: int) -> None:
        begin, self._syncing_from = self._syncing_from, None
        assert begin is not None
        entries, self._synced = self._synced, []
        for at, said in enumerate(entries, max(begin, 1) + 1):
            self._hold(self.held, at, self._checked(said, 0))
        if entries:
            assert key == max(begin, 1) + len(entries)
        self.key = key
        pending, self._pending = self._pending, 0
        self._sync_if_behind(pending)

    def _checked(self, said: Said, flag: int) -> bytes:
        """The content of an entry, whose flags say whether it was sent from here."""
        assert isinstance(said.message, IM | GroupIM | GroupNotification)
        by_this_device = said.message.content.startswith(self.mark) and self._platform != Platform.WEB
        assert said.flag == flag | (Flag.SELF if by_this_device else 0)
        return said.message.content

    def _hold(self, held: dict[int, bytes], key: int, content: bytes) -> None:
        """A sync may bring once more what was pushed since it was asked for; it must be the same."""
        assert held.setdefault(key, content) == content

    def _sync_if_behind(self, key: int) -> None:
        if key > self.key:
            assert self.line is not None
            self._syncing_from = self.key
            self.line.send(Outgoing(Sync(self.key), next(self._seqs)))

    # Super groups.

    def learn_group(self, group: int) -> None:
        """The application has heard of a super group."""
        if group not in self.groups:
            self.groups[group] = Held()
            if self.line is not None:
                self._sync_group(group)

    def forget_group(self, group: int) -> None:
        """The application has heard that it is none of its user's any more. Answers that are under way are nobody's."""
        self.groups.pop(group, None)
        self._pending_groups.pop(group, None)

    def _sync_group(self, group: int) -> None:
        assert self.line is not None
        held = self.groups[group]
        self._syncing_groups.setdefault(group, deque()).append((held, held.key))
        self.line.send(Outgoing(SyncGroup(group, held.key), next(self._seqs)))

    def _group_notified(self, group: int, key: int) -> None:
        if group not in self.groups:
            self.learn_group(group)
        elif self._syncing_groups.get(group):
            self._pending_groups[group] = max(self._pending_groups.get(group, 0), key)
        elif key > self.groups[group].key:
            self._sync_group(group)

    def _end_of_group_sync(self, group: int, key: int) -> None:
        assert self._synced_group is not None
        (of, entries), self._synced_group = self._synced_group, None
        assert of == group
        held, begin = self._syncing_groups[group].popleft()
        first = key - len(entries) + 1
        assert not entries or first > begin
        for at, said in enumerate(entries, first):
            self._hold(held.entries, at, self._checked(said, Flag.SUPER_GROUP))
        held.key = key
        pending = self._pending_groups.pop(group, 0)
        if group in self.groups and pending > self.groups[group].key:
            self._sync_group(group)

    def save_key(self) -> None:
        """Tell the server what this device has."""
        assert self.line is not None
        self.line.send(Outgoing(SyncKey(self.key), next(self._seqs)))

    @property
    def mark(self) -> bytes:
        """What everything begins with that this device says."""
        return b'{"by":"%d %s"' % (self.uid, self._device)
