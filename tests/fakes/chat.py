"""What the domain talks to: a client's connection, the other nodes, the push queue, timelines. Each remembers."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.interfaces import IBus, IConnection, IPushQueue, ISyncKeys, ITimelines, Unavailable, WallClock
from imserver.model import (
    SYNC_ENTRIES,
    Entry,
    NewMessage,
    Push,
    SignIn,
    Stored,
    TimelineKey,
    Unit,
    UserKey,
)
from imserver.protocol.commands import NEWEST_VERSION
from imserver.protocol.messages import AuthStatus, Message, decode_from_server
from tests.fakes.timelines import FakeSyncKeys, FakeTimelines

Result = TypeVar("Result")

_numbers = count(1)


class Said(NamedTuple):
    """One frame that a connection was given, as its client reads it."""

    message: Message
    flag: int = 0


def read(unit: Unit, version: int) -> list[Said]:
    """What a client of this version makes of a unit."""
    return [
        Said(decode_from_server(frame.command, version, frame.bodies[version]), frame.flag) for frame in unit.frames
    ]


@implementer(IConnection)
class FakeConnection:
    """Takes everything at once, unless `full` is set: then `drained` waits for `drain`."""

    def __init__(self, version: int = NEWEST_VERSION) -> None:
        self.number = next(_numbers)
        self.address = "192.0.2.1"
        self.transport_name = "tcp"
        self.version = version
        self.user: UserKey | None = None
        self.appid = 0
        self.uid = 0
        self.device = 0
        self.device_id = ""
        self.platform_id = 0
        self.forbidden = False
        self.notification_on = False
        self.room = 0
        self.closed = False
        self.signed_in_at = 0.0
        self.heard_at = 0.0
        #: The keys of pushes of this timeline.
        self.watched: TimelineKey | None = None
        self.noted: list[int] = []
        #: Of the pushes that left under these seq, the numbers.
        self.numbers: dict[int, int] = {}
        #: What `may_sign_in` answers.
        self.throttled = False
        #: The client does not take its replies.
        self.full = False
        #: Why it is to be closed later; "" while it is not.
        self.closing = ""
        #: Everything that it was given, a list of frames for each unit.
        self.units: list[list[Said]] = []
        #: Of these, the ones that might be dropped.
        self.pushes: list[Push] = []
        self._waiting: Deferred[None] | None = None
        #: Commands that store, under way.
        self.unfinished = 0

    def command_began(self) -> None:
        self.unfinished += 1

    def command_ended(self) -> None:
        assert self.unfinished, "more ended than began"
        self.unfinished -= 1

    def enqueue(self, unit: Unit) -> None:
        assert not isinstance(unit, Push), "a reply must not be droppable"
        self._take(unit)

    def enqueue_many(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self.enqueue(unit)

    def enqueue_non_block(self, push: Push) -> None:
        if not self.closed:
            self.pushes.append(push)
        if self.watched is not None and push.timeline == self.watched:
            self.noted.append(push.key)
        self._take(push)

    def _take(self, unit: Unit) -> None:
        if not self.closed:
            self.units.append(read(unit, self.version))

    def drained(self) -> Deferred[None] | None:
        if not self.full or self.closed:
            return None
        if self._waiting is None:
            self._waiting = Deferred()
        return self._waiting

    def drain(self) -> None:
        """The client has taken what it was given so far. It stays `full`: the next page waits again."""
        waiting, self._waiting = self._waiting, None
        assert waiting is not None, "nobody waits"
        waiting.callback(None)

    def watch_pushes(self, timeline: TimelineKey) -> None:
        self.watched = timeline
        self.noted.clear()

    def pushed_meanwhile(self) -> list[int]:
        noted, self.noted = self.noted, []
        self.watched = None
        return noted

    def pushed_under(self, seq: int) -> int:
        return self.numbers.pop(seq, 0)

    def may_sign_in(self) -> bool:
        return not self.throttled

    def signed_in(self, sign_in: SignIn, platform: int, device: bytes, version: int) -> None:
        self.user = sign_in.user
        self.appid, self.uid = sign_in.user
        self.device = sign_in.device
        self.forbidden = sign_in.forbidden
        self.notification_on = sign_in.notification_on
        self.platform_id = platform
        self.device_id = device.decode("utf-8", "backslashreplace")
        self.version = min(version, NEWEST_VERSION)
        self.signed_in_at = 1.0

    def refuse(self) -> None:
        self.enqueue(Unit((AuthStatus(1).frame(),)))
        self.close_later("refused")

    def close_later(self, reason: str) -> None:
        self.closing = self.closing or reason

    def close(self, reason: str) -> None:
        self.closing = self.closing or reason
        self.lose()

    def lose(self) -> None:
        """The transport is gone. Whoever waits for this client to take something is told."""
        self.closed = True
        if self._waiting is not None:
            self.drain()

    # For tests.

    @property
    def said(self) -> list[Said]:
        """All frames, whatever unit they came in."""
        return [said for unit in self.units for said in unit]

    def forget(self) -> None:
        """Look only at what comes from here on."""
        self.units.clear()
        self.pushes.clear()


class Published(NamedTuple):
    """What went to the other nodes for a user."""

    user: UserKey
    said: list[Said]
    device: int


class PublishedToRoom(NamedTuple):
    """What went to the other nodes for a room."""

    appid: int
    room: int
    said: list[Said]
    origin: UserKey
    device: int


@implementer(IBus)
class FakeBus:
    """Other nodes that hear everything and say nothing."""

    alone = False

    def __init__(self) -> None:
        self.subscribed: list[UserKey] = []
        self.unsubscribed: list[UserKey] = []
        self.published: list[Published] = []
        self.published_to_rooms: list[PublishedToRoom] = []
        #: Who is online, for push purposes, on another node.
        self.elsewhere: set[UserKey] = set()
        #: What `subscribe` gives to whoever subscribes next.
        self.subscribing: Deferred[None] | None = None

    def subscribe(self, user: UserKey) -> Deferred[None] | None:
        self.subscribed.append(user)
        return self.subscribing

    def unsubscribe(self, user: UserKey) -> None:
        self.unsubscribed.append(user)

    def publish_to_user(self, user: UserKey, push: Push, device: int) -> None:
        self.published.append(Published(user, read(push, NEWEST_VERSION), device))

    def publish_to_room(self, appid: int, room: int, push: Push, origin: UserKey, device: int) -> None:
        self.published_to_rooms.append(PublishedToRoom(appid, room, read(push, NEWEST_VERSION), origin, device))

    def online_elsewhere(self, user: UserKey) -> bool:
        return user in self.elsewhere


@implementer(IPushQueue)
class FakePushQueue:
    def __init__(self) -> None:
        self.pushed: list[tuple[NewMessage, list[UserKey]]] = []

    def push(self, message: NewMessage, receivers: Sequence[UserKey]) -> None:
        self.pushed.append((message, list(receivers)))


@implementer(ITimelines, ISyncKeys)
class SlowTimelines:
    """Storage in memory behind a database that answers when, and if, the test wants it."""

    def __init__(self, now: WallClock) -> None:
        self._timelines = FakeTimelines(now)
        self._sync_keys = FakeSyncKeys()
        self.entries = self._timelines.entries
        #: The messages that were stored, in order.
        self.messages = self._timelines.messages
        #: By user and group.
        self.saved = self._sync_keys.keys
        #: The most entries that one read gives.
        self.page = SYNC_ENTRIES
        #: The next reads, as many as there are, wait for these, and fail if they do.
        self.reads: list[Deferred[None]] = []
        #: Nothing can be read.
        self.unavailable = False
        #: Nothing more is taken.
        self.full = False
        #: Why nothing is stored.
        self.failing: Exception | None = None
        self._held: list[tuple[NewMessage, Callable[[Stored | Failure], None]]] | None = None
        self._oldest: dict[TimelineKey, int] = {}

    def hold(self) -> None:
        """Store nothing until `release`."""
        self._held = self._held or []

    def release(self) -> None:
        """Store what was held, in order, and what comes meanwhile after it."""
        while self._held:
            message, settled = self._held.pop(0)
            self._store(message, settled)
        self._held = None

    def forget(self, timeline: TimelineKey, before: int) -> None:
        """Retention: let go of the entries whose keys are below `before`."""
        self._oldest[timeline] = before

    def store(self, message: NewMessage, settled: Callable[[Stored | Failure], None]) -> None:
        if self.full:
            raise Unavailable("too many wait")
        if self._held is None:
            self._store(message, settled)
        else:
            self._held.append((message, settled))

    def _store(self, message: NewMessage, settled: Callable[[Stored | Failure], None]) -> None:
        if self.failing is None:
            self._timelines.store(message, settled)
        else:
            settled(Failure(self.failing))

    def head(self, timeline: TimelineKey) -> Deferred[int]:
        return self._answer(lambda: self._timelines.head(timeline))

    def read(self, timeline: TimelineKey, after: int, limit: int, created_after: int = 0) -> Deferred[Sequence[Entry]]:
        def page() -> Deferred[Sequence[Entry]]:
            kept = max(after, self._oldest.get(timeline, 0) - 1)
            return self._timelines.read(timeline, kept, min(limit, self.page), created_after)

        return self._answer(page)

    def saved_key(self, user: UserKey, group: int = 0) -> Deferred[int]:
        return self._answer(lambda: self._sync_keys.saved_key(user, group))

    def save_key(self, user: UserKey, key: int, group: int = 0) -> Deferred[None]:
        return self._answer(lambda: self._sync_keys.save_key(user, key, group))

    def _answer(self, ask: Callable[[], Deferred[Result]]) -> Deferred[Result]:
        if self.reads:
            return self.reads.pop(0).addCallback(lambda _: ask())
        return fail(Unavailable("as the test wants it")) if self.unavailable else ask()
