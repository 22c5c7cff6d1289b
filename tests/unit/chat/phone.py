"""A client that keeps what it gets, by the rules that the GoBelieve clients follow (protocol.md, Timelines)."""

from itertools import count

from imserver.protocol.commands import AckStatus, Flag, Platform
from imserver.protocol.messages import (
    IM,
    Ack,
    AuthStatus,
    AuthToken,
    Metadata,
    Sync,
    SyncBegin,
    SyncEnd,
    SyncKey,
    SyncNotify,
)
from tests.fakes.chat import Said
from tests.unit.chat.line import Line, Outgoing, Server


class Phone:
    """It remembers over its connections. What it holds is by sync key."""

    def __init__(self, server: Server, uid: int, device: bytes, platform: Platform, version: int) -> None:
        self.uid = uid
        self._server = server
        self._device = device
        self._platform = platform
        self._version = version
        self._seqs = count(1)
        #: Entries by key: their contents.
        self.held: dict[int, bytes] = {}
        #: Where the first sync that brought anything began: nothing before it was asked for.
        self.began: int | None = None
        self.key = 0
        #: What it sent and nobody acknowledged: content -> receiver.
        self.unacknowledged: dict[bytes, int] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.line: Line | None = None
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._signed_in = False
        self._syncing_from: int | None = None
        self._synced: list[Said] = []
        #: What it was notified of in the middle of a sync.
        self._pending = 0
        self._metadata: Metadata | None = None
        self._sent: dict[int, bytes] = {}
        self._resent: set[int] = set()
        self._pushed_key = 0

    def connect(self) -> None:
        """Sign in, sync and send again what is not acknowledged, in one go."""
        self.line = self._server.connect(self._version)
        self._forget_connection()
        token = self._server.world.token(self.uid)
        self.line.send(
            Outgoing(AuthToken(self._platform, token, self._device), next(self._seqs)),
            Outgoing(Sync(self.key), next(self._seqs)),
        )
        self._syncing_from = self.key
        for content, receiver in self.unacknowledged.items():
            self._say(receiver, content, again=True)

    def hang_up(self) -> None:
        if self.line is not None:
            self.line.hang_up()
            self.line = None

    def send(self, receiver: int, content: bytes) -> None:
        self.unacknowledged[content] = receiver
        self._say(receiver, content, again=False)

    def send_again(self, content: bytes) -> None:
        """Whether it was acknowledged or not."""
        self._say((self.unacknowledged | self.acknowledged)[content], content, again=True)

    def _say(self, receiver: int, content: bytes, again: bool) -> None:
        assert self.line is not None
        seq = next(self._seqs)
        self._sent[seq] = content
        if again:
            self._resent.add(seq)
        self.line.send(Outgoing(IM(self.uid, receiver, 0, 0, content), seq))

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
            case IM() as message if said.flag & Flag.PUSH:
                assert metadata is not None, "a push without METADATA directly before it"
                assert said.flag == Flag.PUSH
                self._rises(metadata.key)
                if metadata.previous == self.key != 0:
                    self._hold(metadata.key, message.content)
                    self.key = metadata.key
            case IM():
                assert (metadata, self._syncing_from is not None) == (None, True)
                self._synced.append(said)
            case Ack(seq=seq, status=status):
                self._acknowledged(seq, status, metadata)
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
            case message:
                raise AssertionError(f"the server said {message}")

    def _acknowledged(self, seq: int, status: int, metadata: Metadata | None) -> None:
        content = self._sent.pop(seq)
        if status != AckStatus.SUCCESS:
            assert (status, metadata) == (AckStatus.NOT_STORED, None)
            return
        assert metadata is not None, "the ACK of a stored message without METADATA directly before it"
        if content in self.unacknowledged:
            self.acknowledged[content] = self.unacknowledged.pop(content)
        if seq not in self._resent:
            self._rises(metadata.key)
        if metadata.previous == self.key != 0:
            self._hold(metadata.key, content)
            self.key = metadata.key

    def _rises(self, key: int) -> None:
        """METADATA leaves in the order of the keys."""
        assert key > self._pushed_key
        self._pushed_key = key

    def _end_of_sync(self, key: int) -> None:
        begin, self._syncing_from = self._syncing_from, None
        assert begin is not None
        entries, self._synced = self._synced, []
        for at, said in enumerate(entries, max(begin, 1) + 1):
            assert isinstance(said.message, IM)
            by_this_device = said.message.content.startswith(self.mark)
            assert said.flag == (Flag.SELF if by_this_device and self._platform != Platform.WEB else 0)
            self._hold(at, said.message.content)
        if entries:
            assert key == max(begin, 1) + len(entries)
        self.key = key
        pending, self._pending = self._pending, 0
        self._sync_if_behind(pending)

    def _hold(self, key: int, content: bytes) -> None:
        """A sync may bring once more what was pushed since it was asked for; it must be the same."""
        assert self.held.setdefault(key, content) == content

    def _sync_if_behind(self, key: int) -> None:
        if key > self.key:
            assert self.line is not None
            self._syncing_from = self.key
            self.line.send(Outgoing(Sync(self.key), next(self._seqs)))

    def save_key(self) -> None:
        """Tell the server what this device has."""
        assert self.line is not None
        self.line.send(Outgoing(SyncKey(self.key), next(self._seqs)))

    @property
    def mark(self) -> bytes:
        """What everything begins with that this device says."""
        return b'{"by":"%d %s"' % (self.uid, self._device)
