"""Storage in memory, for the tests of the domain. The contract tests hold it to what the SQL one does."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from imserver.interfaces import ISyncKeys, ITimelines, Unavailable, WallClock
from imserver.model import EMPTY_TIMELINE, SAFE_INTEGER, Entry, NewMessage, Stored, TimelineKey, UserKey

#: What one `read` gives of bodies, unless a test says otherwise.
PAGE_BYTES: Final = 256 * 1024


@implementer(ITimelines)
class FakeTimelines:
    """Answers at once. While `broken` nothing is stored or read; while `held` stored messages wait for `release`."""

    def __init__(self, now: WallClock = lambda: 0.0, page_bytes: int = PAGE_BYTES) -> None:
        self._now = now
        self._page_bytes = page_bytes
        #: The messages that were stored, in order; a message's id is its place, from 1 on.
        self.messages: list[NewMessage] = []
        self.entries: defaultdict[TimelineKey, list[Entry]] = defaultdict(list)
        self._created: defaultdict[TimelineKey, list[int]] = defaultdict(list)
        self.broken = False
        self.held = False
        #: Each with its end, and the timeline in which its key is.
        self._resends: dict[bytes, tuple[float, Stored, TimelineKey]] = {}
        self._waiting: list[Callable[[], None]] = []

    def store(self, message: NewMessage, settled: Callable[[Stored | Failure], None]) -> None:
        if self.broken:
            raise Unavailable("the fake is broken")
        stored = self._store(message)
        if self.held:
            self._waiting.append(lambda: settled(stored))
        else:
            settled(stored)

    def release(self) -> None:
        """What was stored and held is known now, in order."""
        waiting, self._waiting = self._waiting, []
        for fire in waiting:
            fire()

    def _store(self, message: NewMessage) -> Stored:
        now = self._now()
        if message.resend is not None and message.resend.digest in self._resends:
            expires, before, timeline = self._resends[message.resend.digest]
            if expires > now:
                return before if timeline == message.timelines[message.own] else before._replace(keys=())
        self.messages.append(message)
        keys = []
        for place, timeline in enumerate(message.timelines):
            entries = self.entries[timeline]
            key = EMPTY_TIMELINE + 1 + len(entries)
            device = message.device if place == message.own else 0
            entries.append(Entry(key, message.command, message.flag, message.body, device))
            self._created[timeline].append(message.created)
            keys.append(key)
        stored = Stored(len(self.messages), tuple(keys))
        if message.resend is not None:
            again = Stored(stored.message, (stored.keys[message.own],), resent=True)
            expires = now + message.resend.window
            self._resends[message.resend.digest] = (expires, again, message.timelines[message.own])
        return stored

    def head(self, timeline: TimelineKey) -> Deferred[int]:
        if self.broken:
            return fail(Unavailable("the fake is broken"))
        return succeed(EMPTY_TIMELINE + len(self.entries[timeline]))

    def read(self, timeline: TimelineKey, after: int, limit: int, created_after: int = 0) -> Deferred[Sequence[Entry]]:
        if self.broken:
            return fail(Unavailable("the fake is broken"))
        page: list[Entry] = []
        size = 0
        for entry, created in zip(self.entries[timeline], self._created[timeline], strict=True):
            if entry.key <= after or (created_after and created <= created_after):
                continue
            size += len(entry.body)
            if len(page) == limit or (page and size > self._page_bytes):
                break
            page.append(entry)
        return succeed(page)


@implementer(ISyncKeys)
class FakeSyncKeys:
    """Answers at once. While `broken` nothing is saved or read."""

    def __init__(self) -> None:
        #: By user and group; group 0 is the user's own timeline.
        self.keys: dict[tuple[UserKey, int], int] = {}
        self.broken = False

    def saved_key(self, user: UserKey, group: int = 0) -> Deferred[int]:
        if self.broken:
            return fail(Unavailable("the fake is broken"))
        return succeed(self.keys.get((user, group), 0))

    def save_key(self, user: UserKey, key: int, group: int = 0) -> Deferred[None]:
        if self.broken:
            return fail(Unavailable("the fake is broken"))
        if self.keys.get((user, group), 0) < key < SAFE_INTEGER:
            self.keys[user, group] = key
        return succeed(None)
