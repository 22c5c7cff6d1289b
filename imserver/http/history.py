"""A user's timeline, as the two APIs read it (ecosystem.md, HTTP)."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from imserver.http.calls import Reply
from imserver.interfaces import ISyncKeys, ITimelines
from imserver.model import EMPTY_TIMELINE, Entry, UserKey, user_timeline
from imserver.protocol.commands import NEWEST_VERSION
from imserver.protocol.messages import IM, CustomerV2, GroupIM, decode_from_server

#: Messages that one answer lists at most.
MOST_LISTED: Final = 3000
#: Bytes that one answer has at most, all messages together; the longest message is a tenth of that.
MOST_BYTES: Final = 2 * 1024 * 1024


class Message(msgspec.Struct, frozen=True):
    """One message of a timeline. `sender_appid` and `receiver_appid` are those of CUSTOMER_V2."""

    #: The sync key.
    id: int
    command: int
    sender: int
    receiver: int
    #: Seconds since 1970.
    timestamp: int
    content: str
    sender_appid: int | msgspec.UnsetType = msgspec.UNSET
    receiver_appid: int | msgspec.UnsetType = msgspec.UNSET


class History:
    """Reads page by page, so that in memory there are one page of the timeline and the answer, which is bounded."""

    def __init__(self, timelines: ITimelines, sync_keys: ISyncKeys) -> None:
        self._timelines = timelines
        self._sync_keys = sync_keys

    async def latest(self, user: UserKey, limit: int) -> Reply:
        """The messages among the newest `limit` entries, oldest first. Where they have more than `MOST_BYTES`, the
        oldest are left out. Fails with `Unavailable`."""
        timeline = user_timeline(user)
        head = await self._timelines.head(timeline)
        after = max(head - limit, EMPTY_TIMELINE)
        listed: deque[bytes] = deque()
        size = 0
        while after < head and (page := await self._timelines.read(timeline, after, head - after)):
            for message in _listed(page):
                listed.append(message)
                size += len(message) + 1
                while size > MOST_BYTES:
                    size -= len(listed.popleft()) + 1
            after = page[-1].key
        return _answer(listed)

    async def after(self, user: UserKey, key: int) -> Reply:
        """The first `MOST_LISTED` messages after this key, or as many of them as have `MOST_BYTES`. None are listed
        only where there are none. Fails with `Unavailable`."""
        timeline = user_timeline(user)
        head = await self._timelines.head(timeline)
        listed: list[bytes] = []
        size = 0
        while key < head and (page := await self._timelines.read(timeline, key, MOST_LISTED)):
            for message in _listed(page):
                size += len(message) + 1
                if size > MOST_BYTES or len(listed) == MOST_LISTED:
                    return _answer(listed)
                listed.append(message)
            key = page[-1].key
        return _answer(listed)

    async def count(self, user: UserKey, key: int | None) -> int:
        """How many entries there are after this key, or where it is None after the one that the user has saved. Fails
        with `Unavailable`."""
        if key is None:
            key = await self._sync_keys.saved_key(user)
        timeline = user_timeline(user)
        head: int = await self._timelines.head(timeline)
        # The entries right after the key may be kept no more; of those that are, none is missing.
        first: Sequence[Entry] = await self._timelines.read(timeline, key, 1)
        return max(head - first[0].key + 1, 0) if first else 0


def _listed(page: Iterable[Entry]) -> Iterable[bytes]:
    """The messages of a page as JSON. What is not from one user to others is left out."""
    for entry in page:
        message = decode_from_server(entry.command, NEWEST_VERSION, entry.body)
        if isinstance(message, IM | GroupIM | CustomerV2):
            listed = Message(
                entry.key,
                entry.command,
                message.sender,
                message.receiver,
                message.timestamp,
                message.content.decode(errors="replace"),  # clients may send any bytes
            )
            if isinstance(message, CustomerV2):
                listed = msgspec.structs.replace(
                    listed, sender_appid=message.sender_appid, receiver_appid=message.receiver_appid
                )
            yield msgspec.json.encode(listed)


def _answer(listed: Iterable[bytes]) -> Reply:
    return Reply(b'{"data":[' + b",".join(listed) + b"]}")
