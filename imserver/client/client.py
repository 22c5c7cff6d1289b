"""What an application's client does: sign in, come back, sync, and take and send each message once.

The way of a message to the application (protocol.md, Timelines and sync keys):

* The client holds the key of the last entry that it has. A push is taken if the METADATA directly before it says that
  it comes right after that entry; else it is passed over, and the SYNC_NOTIFY behind it starts a sync.
* The entries of a sync wait for their SYNC_END and are delivered then: only there are their keys known (they are the
  last ones up to the key of SYNC_END), and a sync that breaks off leaves nothing half delivered.
* Whatever is delivered moves the key. An answer to SYNC that was overtaken, by a push or by another answer, is taken
  only as far as it lies above the key. So nothing comes twice.
* A super group has a timeline of its own, and the same holds for it, with SYNC_GROUP and the commands around it. The
  client follows those that it is told of, by the application or by the server.

The way of a message to the server: it waits until fewer than ``WINDOW`` are on the wire, then for its ACK; a lost
connection puts it back, and it goes again on the next one, with its uuid, by which the server knows it.
"""

import json
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from imserver.client.address import Address
from imserver.client.connection import TIMEOUT, ClientConnection, Received
from imserver.client.endpoints import connect
from imserver.client.errors import (
    CannotConnect,
    ClientError,
    Closed,
    NotAcknowledged,
    NotConnected,
    Refused,
    SignInRefused,
    TookTooLong,
    TooManyOutstanding,
)
from imserver.client.synckeys import MemorySyncKeyStore, SyncKeyStore
from imserver.model import SYNC_ENTRIES
from imserver.protocol.commands import NEWEST_VERSION, AckStatus, Command, Flag, Platform
from imserver.protocol.frame import MAX_BODY
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    EnterRoom,
    GroupIM,
    GroupSyncKey,
    LeaveRoom,
    Message,
    Metadata,
    RoomIM,
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

#: Seconds between PINGs, and for a PONG; both as the GoBelieve clients have them.
PING_SECONDS: Final = 180.0
PONG_SECONDS: Final = 3.0
#: Seconds for an ACK; without it the connection counts as dead.
ACK_SECONDS: Final = 5.0
#: Seconds for the answer to a SYNC, and until it is asked for again where the answer had nothing new.
SYNC_SECONDS: Final = 4.0
#: Messages on the wire that have no ACK yet: as many as the server takes before it stops reading.
WINDOW: Final = 64
#: Seconds for a connection, and for its sign-in.
CONNECT_SECONDS: Final = 10.0
#: Seconds that a message waits for its ACK over all connections.
GIVE_UP_SECONDS: Final = 60.0
#: Seconds for which SYNC_KEYs are gathered, so that not every pushed message costs one.
SAVE_KEY_SECONDS: Final = 3.0
#: Seconds that the first reconnect waits at most, and the most that any does; the least is half of it.
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
#: Super groups that a client follows, at most.
MAX_GROUPS: Final = 10_000
#: A connection that was signed in for so many seconds was a good one: the delays start anew.
LIVED_SECONDS: Final = 10.0

#: What stands in a user's timeline.
_ENTRIES: Final = frozenset(
    (
        Command.IM,
        Command.GROUP_IM,
        Command.GROUP_NOTIFICATION,
        Command.SYSTEM,
        Command.CUSTOMER,
        Command.CUSTOMER_SUPPORT,
        Command.CUSTOMER_V2,
    )
)
#: Of these, what clients acknowledge to the server.
_ACKNOWLEDGED: Final = _ENTRIES - {Command.CUSTOMER, Command.CUSTOMER_SUPPORT}
#: Delivered as it comes, without a key.
_PASSING: Final = frozenset((Command.RT, Command.ROOM_IM, Command.NOTIFICATION))

_NO_ACK: Final = f"no ACK within {ACK_SECONDS:.0f} s"

T = TypeVar("T")

_log = Logger()


class State(Enum):
    #: Not started, or stopped, or the server refused the token.
    STOPPED = "stopped"
    CONNECTING = "connecting"
    SIGNED_IN = "signed in"
    #: The connection was lost or could not be made; the next attempt waits its time.
    WAITING = "waiting"


class Acknowledged(NamedTuple):
    """A message that the server has: a peer or group message is on its disk."""

    #: Its key in the sender's timeline, or in the super group's; 0 where the server gave none (room messages).
    key: int
    #: ``""`` where the caller sent bytes.
    uuid: str


class _Outgoing:
    """A message that waits for its ACK."""

    __slots__ = ("deadline", "fired", "message", "resend", "seq", "timer", "uuid")

    def __init__(self, message: Message, uuid: str, resend: bool) -> None:
        self.message = message
        self.uuid = uuid
        self.resend = resend
        self.seq = 0
        self.fired: Deferred[Acknowledged] = Deferred()
        #: For the ACK, while it is on the wire.
        self.timer: IDelayedCall | None = None
        #: For the message as a whole.
        self.deadline: IDelayedCall | None = None


class _Timeline:
    """How much of a timeline the client has, and what it has asked for."""

    __slots__ = (
        "begin",
        "entries",
        "fruitless",
        "group",
        "key",
        "key_timer",
        "key_told",
        "notified",
        "sync_timer",
        "syncing",
    )

    def __init__(self, group: int, key: int = 0) -> None:
        #: The super group's whose timeline it is; 0: the user's own.
        self.group = group
        #: The key of the last entry that the client has; 0: none known.
        self.key = key
        self.sync_timer: IDelayedCall | None = None
        self.key_timer: IDelayedCall | None = None
        self.forget_connection()

    def forget_connection(self) -> None:
        """What was asked for will not be answered any more."""
        for timer in (self.sync_timer, self.key_timer):
            _cancel(timer)
        #: The key of the SYNC_BEGIN whose entries are coming in; None outside.
        self.begin: int | None = None
        self.entries: list[Received[Message]] = []
        self.syncing = False
        #: Answers in a row that had nothing, though the server had said that there is something.
        self.fruitless = 0
        self.notified = 0
        self.key_told = 0


class Client:
    """One user on one device.

    Args:
        reactor: connects, and is the clock.
        address: see `imserver.client.address`.
        uid: who the token stands for.
        token: signs in.
        received: called with each message, its flag (`protocol.commands.Flag`) and its key. In the order of the
            timeline and once for each key; RT, room messages and notifications have key 0. With the flag SUPER_GROUP
            the key is one of that group's timeline. What this user sent comes too: from other devices, and from this
            one (marked SELF) where the client had fallen out of step. What it raises is logged, and the message counts
            as received.
        state_changed: called with the new state and a line about why.
        sync_keys: where the key is kept between runs; None: nowhere, each run starts at the key that the server saved,
            as it does for super groups in any case.
        platform: `protocol.commands.Platform`.
        device: names the device; ``""``: a device without a number.
        trust_root: see `connect`.
        max_outstanding: messages without ACK; with one more `TooManyOutstanding` is raised.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: str | Address,
        uid: int,
        token: str,
        *,
        received: Callable[[Message, int, int], None],
        state_changed: Callable[[State, str], None] = lambda state, why: None,
        sync_keys: SyncKeyStore | None = None,
        platform: int = Platform.WINDOWS,
        device: str = "",
        trust_root: Any = None,
        max_outstanding: int = 1000,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._uid = uid
        self._token = token
        self._received = received
        self._state_changed = state_changed
        self._sync_keys = sync_keys if sync_keys is not None else MemorySyncKeyStore()
        self._platform = platform
        self._device = device
        self._trust_root = trust_root
        self._max_outstanding = max_outstanding

        self.state = State.STOPPED
        self._own = _Timeline(0)
        #: Of the super groups that it follows.
        self._groups: dict[int, _Timeline] = {}
        #: Of the signed-in connection; None while there is none.
        self.connection: ClientConnection | None = None
        #: The room that it is in, or will be once it is connected; 0: none.
        self.room = 0

        self._running = False
        self._stopping = False
        self._stop_waiters: list[Deferred[None]] = []
        #: What `_run` waits for, so that `stop` can cut it short.
        self._wait: Deferred[Any] | None = None
        self._failed_with: ClientError | None = None

        self._unsent: deque[_Outgoing] = deque()
        #: Those on the wire, in the order in which they were sent.
        self._by_seq: dict[int, _Outgoing] = {}
        self._msgid = random.randrange(1, 2**30)

        #: The newest METADATA with its seq; it belongs to the frame directly behind it.
        self._metadata: tuple[int, Metadata] | None = None
        #: Whose entries are coming in, between BEGIN and END.
        self._answered: _Timeline | None = None
        self._ping_timer: IDelayedCall | None = None

    @property
    def key(self) -> int:
        """The key of the last entry that this client has of the user's own timeline; 0: none known."""
        return self._own.key

    def _timelines(self) -> list[_Timeline]:
        return [self._own, *self._groups.values()]

    # Life

    def run(self) -> Deferred[None]:
        """Connect, and stay connected until `stop`. A client runs once.

        Fires (with None) when stopped. Fails with `SignInRefused`, or with another `ClientError` where the sync key
        cannot be read or saved: then it has stopped too.
        """
        if self._running or self._stopping:
            raise ClientError("a client runs once")
        self._running = True
        return Deferred.fromCoroutine(self._run())

    def stop(self) -> Deferred[None]:
        """Save the key, close the connection, fail what waits for an ACK.

        Fires (with None) when all that is done, at most 5 s later. Never fails.
        """
        stopped: Deferred[None] = Deferred()
        if not self._running:
            self._stopping = True
            stopped.callback(None)
            return stopped
        self._stop_waiters.append(stopped)
        if not self._stopping:
            self._stopping = True
            if self.connection is not None:
                self._tell_all_keys_and_close(self.connection)
            elif self._wait is not None:
                self._wait.cancel()
        return stopped

    def _tell_all_keys_and_close(self, connection: ClientConnection) -> None:
        for timeline in self._timelines():
            self._tell_key(timeline)
        if not self._groups:
            connection.close()
            return
        # Each waits for the one before it, and none is carried out for a client that is gone. A PONG comes after all.
        told = connection.ping(PONG_SECONDS)
        told.addErrback(lambda failure: failure.trap(TookTooLong, Closed))
        told.addCallback(lambda _: connection.close(TIMEOUT - PONG_SECONDS))

    async def _run(self) -> None:
        failures = 0
        try:
            self._own.key = self._sync_keys.load()
            while not self._stopping:
                lived, why = await self._connect_once()
                if lived >= LIVED_SECONDS:
                    failures = 0
                await self._wait_before_reconnect(failures, why)
                failures += 1
            if self._failed_with is not None:
                raise self._failed_with
        finally:
            self._stopping = True
            self._running = False
            self._enter(State.STOPPED, "stopped")
            for outgoing in [*self._by_seq.values(), *self._unsent]:
                self._forget(outgoing).errback(Closed("the client has stopped"))
            waiters, self._stop_waiters = self._stop_waiters, []
            for stopped in waiters:
                stopped.callback(None)

    async def _wait_before_reconnect(self, failures: int, why: str) -> None:
        if self._stopping:
            return
        # At random, so that clients that were cut off together do not come back together.
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0)
        self._enter(State.WAITING, f"{why}; next attempt in {delay:.1f} s")
        await self._interruptible(deferLater(self._reactor, delay))

    async def _connect_once(self) -> tuple[float, str]:
        """One connection from its beginning to its end. For how many seconds it was signed in, and why it ended."""
        self._enter(State.CONNECTING, f"to {self._address}")
        connecting = connect(
            self._reactor,
            self._address,
            CONNECT_SECONDS,
            trust_root=self._trust_root,
            received=self._frame_came,
        )
        try:
            connection = await self._interruptible(connecting)
            if connection is None:
                return 0.0, "stopped"
        except CannotConnect as error:
            return 0.0, str(error)
        signing_in = connection.sign_in(self._token, self._platform, self._device, timeout=CONNECT_SECONDS)
        try:
            answer = await self._interruptible(signing_in)
        except (Closed, TookTooLong) as error:
            connection.abort()
            return 0.0, f"no answer to the sign-in: {error}"
        if answer is None or answer.status != 0:
            if answer is not None:
                self._fail(SignInRefused("the server refused the token"))
            connection.close()
            await connection.closed
            return 0.0, "refused"
        began = self._reactor.seconds()
        self._signed_in(connection)
        why = await connection.closed
        self._lost(why)
        return self._reactor.seconds() - began, why

    async def _interruptible(self, wait: Deferred[T]) -> T | None:
        """What the Deferred fires with; None where `stop` cut it short."""
        self._wait = wait
        try:
            return await wait
        except CancelledError:
            return None
        finally:
            self._wait = None

    def _enter(self, state: State, why: str) -> None:
        self.state = state
        self._state_changed(state, why)

    def _signed_in(self, connection: ClientConnection) -> None:
        self.connection = connection
        for timeline in self._timelines():
            self._sync(timeline)
        if self.room:
            self._say(EnterRoom(self.room))
        self._fill_window()
        self._ping_timer = self._reactor.callLater(PING_SECONDS, self._ping)
        self._enter(State.SIGNED_IN, "signed in")

    def _lost(self, why: str) -> None:
        self.connection = None
        self._metadata = None
        self._answered = None
        for timeline in self._timelines():
            timeline.forget_connection()
        _cancel(self._ping_timer)
        for outgoing in reversed(list(self._by_seq.values())):
            if outgoing.resend:
                _cancel(outgoing.timer)
                del self._by_seq[outgoing.seq]
                outgoing.seq = 0
                self._unsent.appendleft(outgoing)
            else:
                self._forget(outgoing).errback(NotAcknowledged(f"no ACK came: {why}"))

    def _fail(self, error: ClientError) -> None:
        """Stop for good."""
        self._failed_with = error
        self._stopping = True
        if self.connection is not None:
            self.connection.abort()

    def _say(self, message: Message) -> None:
        """Send what may as well be lost with the connection."""
        if self.connection is not None and self.connection.is_open:
            self.connection.send(message)

    def _ping(self) -> None:
        connection = self.connection
        if connection is None or not connection.is_open:
            return

        def dead(failure: Failure) -> None:
            failure.trap(TookTooLong, Closed)
            connection.abort(f"no PONG within {PONG_SECONDS:.0f} s")

        connection.ping(PONG_SECONDS).addErrback(dead)
        self._ping_timer = self._reactor.callLater(PING_SECONDS, self._ping)

    # Sending

    def send_peer(self, receiver: int, content: str | bytes, uuid: str | None = None) -> Deferred[Acknowledged]:
        """Send a message to a user.

        Args:
            receiver: uid.
            content: a text, which is sent as JSON with its uuid; or bytes, which are sent as they are and had better be
                a JSON object with a ``uuid``: without one the server knows them again for ten minutes only.
            uuid: of the text; None: a new one. Who sends a text again with the same uuid sends it once.

        Fires with `Acknowledged` once the message is on the server's disk. Without a connection it waits for one, and
        after a lost one it is sent again. Fails with `Refused`, with `NotAcknowledged` after 60 s, or with `Closed`
        when the client stops. Raises `TooManyOutstanding`, `NotConnected` where the client has stopped, or
        `ClientError` where the message is too long.
        """
        body, uuid = _content(content, uuid)
        return self._send_until_acked(IM(self._uid, receiver, 0, self._next_msgid(), body), uuid)

    def send_group(self, group: int, content: str | bytes, uuid: str | None = None) -> Deferred[Acknowledged]:
        """The same, to a group."""
        body, uuid = _content(content, uuid)
        return self._send_until_acked(GroupIM(self._uid, group, 0, self._next_msgid(), body), uuid)

    def send_room(self, content: str | bytes) -> Deferred[Acknowledged]:
        """Send a message to those in the room that this client has entered.

        Fires as `send_peer` does. Rooms keep nothing, so a lost connection fails it (`NotAcknowledged`) instead of
        sending it again. Raises `NotConnected`, also where no room was entered, and `TooManyOutstanding`.
        """
        if not self.room:
            raise NotConnected("enter a room first")
        self._require_connection()
        body, uuid = _content(content, None)
        return self._send_until_acked(RoomIM(self._uid, self.room, body), uuid, resend=False)

    def send_realtime(self, receiver: int, content: bytes) -> None:
        """Send what only those who are online get; there is no ACK. Raises `NotConnected`."""
        self._require_connection()
        self._say(RT(self._uid, receiver, content))

    def enter_room(self, room: int) -> None:
        """Be in this room, and in no other, from now on and after each reconnect."""
        self.room = room
        self._say(EnterRoom(room))

    def leave_room(self) -> None:
        """Be in no room."""
        if self.room:
            self._say(LeaveRoom(self.room))
        self.room = 0

    def follow_group(self, group: int) -> None:
        """Have the messages of this super group too, of which the user is a member: those since the key that the server
        saved, or since they joined. Without that the client follows it once the server says that there is something
        new. Raises `ClientError` where it would follow too many."""
        if self._timeline_of(group) is None:
            raise ClientError(f"a client follows {MAX_GROUPS} super groups at most")

    def unfollow_group(self, group: int) -> None:
        """Have no more of a super group, of which the user is no member any more, say."""
        timeline = self._groups.pop(group, None)
        if timeline is not None:
            timeline.forget_connection()
            if self._answered is timeline:
                self._answered = None

    def _timeline_of(self, group: int) -> _Timeline | None:
        """Of a super group, which is followed from here on; None: there are too many."""
        timeline = self._groups.get(group)
        if timeline is None and len(self._groups) < MAX_GROUPS:
            timeline = self._groups[group] = _Timeline(group)
            if self.connection is not None:
                self._sync(timeline)
        return timeline

    def _require_connection(self) -> None:
        if self.connection is None or not self.connection.is_open:
            raise NotConnected("there is no connection to the server now")

    def _next_msgid(self) -> int:
        self._msgid = self._msgid % 0x7FFFFFFF + 1
        return self._msgid

    def _send_until_acked(self, message: Message, uuid: str, resend: bool = True) -> Deferred[Acknowledged]:
        if self._stopping:
            raise NotConnected("the client has stopped")
        if len(message.encode(NEWEST_VERSION)) > MAX_BODY:
            raise ClientError(f"the message is too long: with its header it may have {MAX_BODY} bytes")
        if len(self._unsent) + len(self._by_seq) >= self._max_outstanding:
            raise TooManyOutstanding(f"{self._max_outstanding} messages wait for their ACK")
        outgoing = _Outgoing(message, uuid, resend)
        outgoing.deadline = self._reactor.callLater(GIVE_UP_SECONDS, self._give_up, outgoing)
        self._unsent.append(outgoing)
        self._fill_window()
        return outgoing.fired

    def _fill_window(self) -> None:
        connection = self.connection
        if connection is None:
            return
        while self._unsent and len(self._by_seq) < WINDOW and connection.is_open:
            outgoing = self._unsent.popleft()
            outgoing.seq = connection.send(outgoing.message)
            self._by_seq[outgoing.seq] = outgoing
            outgoing.timer = self._reactor.callLater(ACK_SECONDS, connection.abort, _NO_ACK)

    def _give_up(self, outgoing: _Outgoing) -> None:
        self._forget(outgoing).errback(NotAcknowledged(f"no ACK came within {GIVE_UP_SECONDS:.0f} s"))

    def _forget(self, outgoing: _Outgoing) -> Deferred[Acknowledged]:
        """The message waits no more; its Deferred is the caller's to fire."""
        if self._by_seq.pop(outgoing.seq, None) is None:
            self._unsent.remove(outgoing)
        _cancel(outgoing.timer)
        _cancel(outgoing.deadline)
        return outgoing.fired

    def _acked(self, ack: Ack, metadata: Metadata | None, flag: int) -> None:
        outgoing = self._by_seq.get(ack.seq)
        if metadata is not None:
            timeline: _Timeline | None = self._own
            if flag & Flag.SUPER_GROUP:
                # It names no group: that is the one to which the message went.
                said = outgoing.message if outgoing is not None else None
                timeline = self._groups.get(said.receiver) if isinstance(said, GroupIM) else None
            if timeline is not None and metadata.previous == timeline.key != 0:
                timeline.key = metadata.key
                self._moved(timeline)
            elif timeline is not None:
                self._notice(timeline, metadata.key)
        if outgoing is None:
            return
        fired = self._forget(outgoing)
        self._fill_window()
        if ack.status == AckStatus.SUCCESS:
            fired.callback(Acknowledged(metadata.key if metadata else 0, outgoing.uuid))
        else:
            fired.errback(Refused(ack.status))

    # Receiving

    def _frame_came(self, received: Received[Message]) -> None:
        frame, message = received
        if self._stopping or self.connection is None:
            return
        held = self._metadata
        metadata = held[1] if held is not None and (held[0] + 1) & 0x7FFFFFFF == frame.seq else None
        match message:
            case Metadata():
                self._metadata = (frame.seq, message)
            case Ack():
                self._acked(message, metadata, frame.flag)
            case _ if message.command in _PASSING:
                self._deliver(received, 0)
            case _ if message.command in _ENTRIES:
                self._entry_came(received, metadata)
            case _:
                self._sync_said(message)

    def _sync_said(self, message: Message) -> None:
        match message:
            case SyncBegin():
                self._sync_begun(self._own, message.key)
            case SyncEnd():
                self._sync_ended(self._own, message.key)
            case SyncNotify():
                self._notice(self._own, message.key)
            case SyncGroupBegin() if message.group in self._groups:
                self._sync_begun(self._groups[message.group], message.key)
            case SyncGroupEnd() if message.group in self._groups:
                self._sync_ended(self._groups[message.group], message.key)
            case SyncGroupNotify():
                timeline = self._timeline_of(message.group)
                if timeline is not None:
                    self._notice(timeline, message.key)

    def _sync_begun(self, timeline: _Timeline, key: int) -> None:
        self._answered = timeline
        timeline.begin = key
        timeline.entries = []

    def _entry_came(self, received: Received[Message], metadata: Metadata | None) -> None:
        frame, message = received
        if frame.flag & Flag.PUSH:
            timeline: _Timeline | None = self._own
            if frame.flag & Flag.SUPER_GROUP:
                timeline = self._groups.get(message.receiver) if isinstance(message, GroupIM) else None
            if timeline is not None and metadata is not None and metadata.previous == timeline.key != 0:
                timeline.key = metadata.key
                self._deliver(received, metadata.key)
                self._moved(timeline)
        elif self._answered is None:
            # Neither pushed as an entry nor part of a sync: it is stored nowhere.
            if not frame.flag & Flag.SUPER_GROUP:
                self._deliver(received, 0)
        elif len(self._answered.entries) < SYNC_ENTRIES:
            self._answered.entries.append(received)
        else:
            self._fail(ClientError(f"the server broke the protocol: a sync with more than {SYNC_ENTRIES} entries"))

    def _deliver(self, received: Received[Message], key: int) -> None:
        try:
            self._received(received.message, received.frame.flag, key)
        except Exception:
            _log.failure("The application failed over a message")
        if received.message.command in _ACKNOWLEDGED:
            self._say(Ack(received.frame.seq))

    # Syncing

    def _sync(self, timeline: _Timeline) -> None:
        timeline.syncing = True
        _cancel(timeline.sync_timer)
        timeline.sync_timer = self._reactor.callLater(SYNC_SECONDS, self._sync, timeline)
        group = timeline.group
        self._say(SyncGroup(group, timeline.key) if group else Sync(timeline.key))

    def _notice(self, timeline: _Timeline, key: int) -> None:
        """The timeline has reached this key."""
        timeline.notified = max(timeline.notified, key)
        if timeline.notified > timeline.key and not timeline.syncing:
            self._sync(timeline)

    def _sync_ended(self, timeline: _Timeline, end: int) -> None:
        self._answered = None
        begin, timeline.begin = timeline.begin, None
        entries, timeline.entries = timeline.entries, []
        asked_at = timeline.key
        # Else the key has moved since the SYNC: the answer was overtaken.
        current = begin == asked_at or asked_at == 0
        key = end - len(entries)
        for received in entries:
            key += 1
            if current or key > timeline.key:
                timeline.key = key
                self._deliver(received, key)
            if self._stopping:
                break
        else:
            if current or end > timeline.key:
                timeline.key = end
        timeline.syncing = False
        _cancel(timeline.sync_timer)
        self._save(timeline)
        if self._stopping:
            return
        self._tell_key(timeline)
        if timeline.notified <= timeline.key:
            timeline.fruitless = 0
        elif timeline.key != asked_at:
            timeline.fruitless = 0
            self._sync(timeline)
        else:
            # The server had nothing, though it had said so: it cannot read the timeline now. Or the user is no member
            # of the group any more: then it never will.
            timeline.syncing = True
            delay = SYNC_SECONDS * 2.0 ** min(timeline.fruitless, 4)
            timeline.fruitless += bool(timeline.group)
            timeline.sync_timer = self._reactor.callLater(delay, self._sync, timeline)

    def _moved(self, timeline: _Timeline) -> None:
        """The key has moved outside of a sync."""
        self._save(timeline)
        if not self._stopping and (timeline.key_timer is None or not timeline.key_timer.active()):
            timeline.key_timer = self._reactor.callLater(SAVE_KEY_SECONDS, self._tell_key, timeline)

    def _save(self, timeline: _Timeline) -> None:
        if timeline.group:
            return
        try:
            self._sync_keys.save(timeline.key)
        except OSError as error:
            self._fail(ClientError(f"cannot save the sync key: {error}"))

    def _tell_key(self, timeline: _Timeline) -> None:
        """Have the server remember the key, for the day on which the store is lost."""
        _cancel(timeline.key_timer)
        if timeline.key != timeline.key_told:
            key = timeline.key_told = timeline.key
            group = timeline.group
            self._say(GroupSyncKey(group, key) if group else SyncKey(key))


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()


def _content(content: str | bytes, uuid: str | None) -> tuple[bytes, str]:
    if isinstance(content, bytes):
        if uuid is not None:
            raise TypeError("bytes are sent as they are: put the uuid into them")
        return content, ""
    uuid = uuid or str(uuid4())
    return json.dumps({"text": content, "uuid": uuid}, ensure_ascii=False).encode(), uuid
