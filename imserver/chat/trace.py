"""What became of the newest messages, for whoever asks why one did not arrive. In memory, and of this process alone.

While messages come, what is known anyway is put down, one small object for each thing that happens, and the oldest is
forgotten. What belongs together is found out when somebody asks. Times are put down as the monotonic clock has them.

Who tells what, where they were given a `Trace` (without one nothing is traced, and nothing of this is done):

* ``delivery``: `stored` for a message that is on disk, once all are told; instead of it `resent` or `refused`.
* whoever hears a client's ACK: `acknowledged`, with the message that the connection had pushed under its seq.
* ``rescue``: `rescued`, with what it hands to the push queue.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from imserver.interfaces import IConnection, WallClock
from imserver.model import GROUP_TIMELINE, USER_TIMELINE, NewMessage, Stored, TimelineKey, UserKey, user_timeline
from imserver.protocol.commands import NEWEST_VERSION, AckStatus, Command
from imserver.protocol.messages import MESSAGES

Thing = TypeVar("Thing")

#: Timelines, connections and users of one message that are listed. Of more timelines there is the number alone, of more
#: connections and users the number and the first.
MOST_LISTED: Final = 20
#: ACKs that are remembered, for each message: two users have a few devices, most groups have few who are online.
_ACKS: Final = 4
#: Bytes of a body that are kept, where content is: a message is to be recognised, not to be read again.
_MOST_BODY: Final = 1024
#: Asked for every message; a member of an enum takes longer to compare.
_GROUP_IM: Final = int(Command.GROUP_IM)


class _Record(msgspec.Struct, gc=False):
    """A stored message. What is counted may be more than what is listed."""

    number: int
    command: int
    sender: UserKey | None
    #: Of GROUP_IM, whose receiver stands in no timeline.
    group: int
    #: The connection that it came from; None: it came over HTTP.
    origin: int | None
    device: int
    arrived: float
    stored: float
    entries: int
    timelines: tuple[TimelineKey, ...]
    keys: tuple[int, ...]
    pushes: int
    #: The connections, by number, and whose they are.
    pushed: Sequence[tuple[int, UserKey]]
    offline: int
    offline_users: Sequence[UserKey]
    #: Those who are offline went to the push queue.
    queued: bool
    #: The beginning of it; b"" where content is not kept.
    body: bytes


class _Ack(msgspec.Struct, gc=False):
    at: float
    number: int
    connection: int
    user: UserKey


class _Resent(msgspec.Struct, gc=False):
    at: float
    number: int
    user: UserKey
    connection: int
    device: int


class _Refused(msgspec.Struct, gc=False):
    at: float
    user: UserKey
    connection: int
    device: int
    seq: int
    status: AckStatus


class _Rescued(msgspec.Struct, gc=False):
    at: float
    number: int
    count: int
    users: Sequence[UserKey]


#: When, and what is said of it.
_Event = tuple[float, Mapping[str, Any]]


class Trace:
    def __init__(
        self,
        most: int,
        keeps_content: bool,
        has_push_queue: bool,
        now: WallClock,
        monotonic: Callable[[], float],
    ) -> None:
        """
        Args:
            most: stored messages that are remembered. As many that were refused or resent, and more ACKs. Above 0.
            keeps_content: the beginning of what they say, too.
            has_push_queue: what is handed to the push queue is sent somewhere.
            now, monotonic: the same time, as people read it and as it is measured.
        """
        #: Stored messages that are remembered.
        self.most = most
        self._keeps_content = keeps_content
        self._has_push_queue = has_push_queue
        self._now = now
        self._monotonic = monotonic
        # The oldest first, each.
        self._records: deque[_Record] = deque(maxlen=most)
        self._acks: deque[_Ack] = deque(maxlen=_ACKS * most)
        self._resent: deque[_Resent] = deque(maxlen=most)
        self._refused: deque[_Refused] = deque(maxlen=most)
        self._rescued: deque[_Rescued] = deque(maxlen=most)

    # For those who know. `stored` and `acknowledged` are called for every message.

    def stored(
        self,
        stored: Stored,
        message: NewMessage,
        origin: IConnection | None,
        arrived: float,
        settled: float,
        told: Sequence[IConnection],
        offline: Sequence[UserKey],
        queued: bool,
    ) -> None:
        """A message is on disk, and all are told.

        Args:
            origin: the client's connection that it came from; None: it came over HTTP.
            arrived, settled: when it came, and when it was on disk, on the monotonic clock.
            told: the connections that it was pushed to.
            offline: those whom it is for who are not online.
            queued: they were handed to the push queue.
        """
        timelines, command = message.timelines, message.command
        few = len(timelines) <= MOST_LISTED
        self._records.append(
            _Record(
                stored.message,
                command,
                message.sender,
                int.from_bytes(message.body[8:16], "big") if command == _GROUP_IM else 0,
                None if origin is None else origin.number,
                message.device,
                arrived,
                settled,
                len(timelines),
                timelines if few else (),
                stored.keys if few else (),
                len(told),
                [(connection.number, connection.user) for connection in told[:MOST_LISTED]] if told else (),
                len(offline),
                offline[:MOST_LISTED] if offline else (),
                queued,
                message.body[:_MOST_BODY] if self._keeps_content else b"",
            )
        )

    def resent(self, stored: Stored, connection: IConnection) -> None:
        """A client's message came again that had been stored before; nobody is told but the client."""
        self._resent.append(
            _Resent(self._monotonic(), stored.message, connection.user, connection.number, connection.device)
        )

    def refused(self, connection: IConnection, seq: int, status: AckStatus) -> None:
        """A client's message, its frame `seq`, was not accepted, or not stored."""
        self._refused.append(
            _Refused(self._monotonic(), connection.user, connection.number, connection.device, seq, status)
        )

    def acknowledged(self, connection: IConnection, number: int) -> None:
        """A client says that it has the stored message of this number, which was pushed to it."""
        self._acks.append(_Ack(self._monotonic(), number, connection.number, connection.user))

    def rescued(self, number: int, users: Sequence[UserKey]) -> None:
        """None of these users answered when the stored message of this number was pushed: the push queue has it now."""
        self._rescued.append(_Rescued(self._monotonic(), number, len(users), users[:MOST_LISTED]))

    # For those who ask.

    def of_message(self, number: int) -> Mapping[str, Any] | None:
        """What became of the stored message of this number, as JSON can have it; None: it is not remembered.

        It has ``message`` (its number), ``command``, ``sender`` (null: the server itself), ``group`` (0: none),
        ``content`` (the beginning of it; null: not kept), ``pushes``, ``acknowledgements`` (null: some may be
        forgotten), and ``events``, in order. Where the message itself is forgotten, and known is only that it came
        again, all but ``message``, ``sender`` and ``events`` is null.

        An event has ``at`` (seconds since 1970) and ``event``:

        * ``accepted``: ``connection`` (its number; null: over HTTP), ``device``
        * ``stored``: ``entries``, ``timelines`` (``kind``, ``appid``, ``owner``, ``key``; none where there are many)
        * ``pushed``: ``count``, ``connections`` (``number``, ``appid``, ``uid``; the first of them)
        * ``queued``: ``count``, ``users`` (``appid``, ``uid``; the first of them); the push queue sees later who is not
          to be disturbed
        * ``not_queued``: ``reason``, ``count``, ``users``. The reasons: ``online``; ``silent``: no phone rings for
          such messages; ``no_push_queue``: the server has none
        * ``acknowledged``: ``connection``, ``appid``, ``uid``; the first of them
        * ``resent``: ``connection``, ``device``
        * ``rescued``: ``seconds`` after it was stored, ``count``, ``users``
        """
        record = next((record for record in self._records if record.number == number), None)
        return next(iter(self._shown({number: record})), None)

    def of_user(self, user: UserKey, last: int) -> Sequence[Mapping[str, Any]]:
        """A user's newest messages, at most `last`, in order: those that they sent, those that stand in their timeline,
        unless they stand in more than `MOST_LISTED`, and those of theirs that were refused.

        As `of_message`. Of a refused one all but ``sender`` and ``events`` is null; its event is ``refused`` with
        ``connection``, ``device``, ``seq`` (of the client's frame), ``status`` (of the ACK) and ``reason``.
        """
        timeline = user_timeline(user)
        known = {record.number for record in self._records}
        stored = _newest(self._records, last, lambda one: one.sender == user or timeline in one.timelines)
        again = _newest(self._resent, last, lambda one: one.user == user and one.number not in known)
        refused = _newest(self._refused, last, lambda one: one.user == user)
        records: dict[int, _Record | None] = {one.number: None for one in again}
        records.update({one.number: one for one in stored})
        shown = [*self._shown(records), *map(self._shown_refused, refused)]
        shown.sort(key=lambda one: float(one["events"][0]["at"]))
        return shown[-last:]

    def _shown(self, records: Mapping[int, _Record | None]) -> Iterator[Mapping[str, Any]]:
        """The messages of these numbers, and those who are remembered as such. Without a word if nothing is known."""
        acks = _by_number(self._acks, records)
        resent = _by_number(self._resent, records)
        rescued = _by_number(self._rescued, records)
        for number, record in records.items():
            later = [*map(_ack_event, acks[number][:MOST_LISTED]), *map(_resent_event, resent[number])]
            if record is not None:
                later += [_rescued_event(one, record) for one in rescued[number]]
                yield {
                    "message": number,
                    "command": Command(record.command).name,
                    "sender": record.sender and _user(record.sender),
                    "group": record.group,
                    "content": _content_of(record) if self._keeps_content else None,
                    "pushes": record.pushes,
                    "acknowledgements": None if self._has_forgotten_acks_of(record) else len(acks[number]),
                    "events": self._in_order([*self._events(record), *later]),
                }
            elif resent[number]:
                yield _little_known(number, resent[number][0].user, self._in_order(later))

    def _shown_refused(self, refused: _Refused) -> Mapping[str, Any]:
        event = {
            "event": "refused",
            "connection": refused.connection,
            "device": refused.device,
            "seq": refused.seq,
            "status": int(refused.status),
            "reason": refused.status.name.lower(),
        }
        return _little_known(None, refused.user, self._in_order([(refused.at, event)]))

    def _in_order(self, events: Iterable[_Event]) -> Sequence[Mapping[str, Any]]:
        since_1970 = self._now() - self._monotonic()
        return [{"at": at + since_1970, **said} for at, said in sorted(events, key=lambda event: event[0])]

    def _has_forgotten_acks_of(self, record: _Record) -> bool:
        """Has it had ACKs, perhaps, that others have taken the place of?"""
        acks = self._acks
        return len(acks) == acks.maxlen and acks[0].at > record.stored and record.pushes > 0

    def _events(self, record: _Record) -> Iterator[_Event]:
        yield record.arrived, {"event": "accepted", "connection": record.origin, "device": record.device}
        yield record.stored, {"event": "stored", "entries": record.entries, "timelines": _timelines(record)}
        connections = [{"number": number, **_user(user)} for number, user in record.pushed]
        yield record.stored, {"event": "pushed", "count": record.pushes, "connections": connections}
        receivers = [UserKey(appid, owner) for appid, kind, owner in record.timelines if kind == USER_TIMELINE]
        online = [user for user in receivers if user != record.sender and user not in record.offline_users]
        if online and record.offline == len(record.offline_users):  # who is not listed may be among them
            yield record.stored, {"event": "not_queued", "reason": "online", **_users(len(online), online)}
        if record.offline:
            whom = _users(record.offline, record.offline_users)
            if not record.queued:
                yield record.stored, {"event": "not_queued", "reason": "silent", **whom}
            elif not self._has_push_queue:
                yield record.stored, {"event": "not_queued", "reason": "no_push_queue", **whom}
            else:
                yield record.stored, {"event": "queued", **whom}


def _newest(things: deque[Thing], last: int, is_wanted: Callable[[Thing], bool]) -> Sequence[Thing]:
    """The last of those that are wanted, the oldest first."""
    return list(islice(filter(is_wanted, reversed(things)), last))[::-1]


def _by_number(things: Iterable[Any], numbers: Collection[int]) -> Mapping[int, Sequence[Any]]:
    """Those of the things that are about these messages."""
    found: dict[int, list[Any]] = {number: [] for number in numbers}
    for thing in things:
        if thing.number in found:
            found[thing.number].append(thing)
    return found


def _ack_event(ack: _Ack) -> _Event:
    return ack.at, {"event": "acknowledged", "connection": ack.connection, **_user(ack.user)}


def _resent_event(resent: _Resent) -> _Event:
    return resent.at, {"event": "resent", "connection": resent.connection, "device": resent.device}


def _rescued_event(rescued: _Rescued, record: _Record) -> _Event:
    seconds = rescued.at - record.stored
    return rescued.at, {"event": "rescued", "seconds": seconds, **_users(rescued.count, rescued.users)}


def _little_known(number: int | None, sender: UserKey, events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {
        "message": number,
        "command": None,
        "sender": _user(sender),
        "group": None,
        "content": None,
        "pushes": None,
        "acknowledgements": None,
        "events": events,
    }


def _content_of(record: _Record) -> str:
    said: Any = MESSAGES[record.command].decode(record.body, NEWEST_VERSION)
    content: bytes = said.content
    return content.decode("utf-8", "replace")


def _timelines(record: _Record) -> Sequence[Mapping[str, Any]]:
    return [
        {
            "kind": "group" if timeline.kind == GROUP_TIMELINE else "user",
            "appid": timeline.appid,
            "owner": timeline.owner,
            "key": key,
        }
        for timeline, key in zip(record.timelines, record.keys, strict=True)
    ]


def _user(user: UserKey) -> Mapping[str, int]:
    return {"appid": user.appid, "uid": user.uid}


def _users(count: int, users: Iterable[UserKey]) -> Mapping[str, Any]:
    """So many, of whom the first are listed."""
    return {"count": count, "users": [_user(user) for user in users]}
