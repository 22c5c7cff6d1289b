"""The client against the server in memory: what it takes, what it sends, how it comes back."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from imserver.client import (
    Acknowledged,
    Client,
    ClientError,
    Closed,
    FileSyncKeyStore,
    MemorySyncKeyStore,
    NotAcknowledged,
    NotConnected,
    Refused,
    SignInRefused,
    State,
    SyncKeyStore,
    TooManyOutstanding,
    client,
)
from imserver.client.client import (
    ACK_SECONDS,
    CONNECT_SECONDS,
    FIRST_DELAY,
    GIVE_UP_SECONDS,
    LIVED_SECONDS,
    LONGEST_DELAY,
    PING_SECONDS,
    PONG_SECONDS,
    SAVE_KEY_SECONDS,
    SYNC_SECONDS,
    WINDOW,
)
from imserver.protocol.commands import AckStatus, Command, Flag
from imserver.protocol.frame import MAX_BODY
from imserver.protocol.messages import (
    IM,
    RT,
    Ack,
    AuthToken,
    CustomerV2,
    EnterRoom,
    GroupIM,
    GroupNotification,
    GroupSyncKey,
    LeaveRoom,
    Message,
    Metadata,
    Notification,
    Ping,
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
    System,
    stored_frame,
)
from tests.fakes.server import FakeConnection, FakeServer, Network, now
from tests.leaks import FlushLoggedErrors


class App:
    """A client and what its application saw of it."""

    def __init__(
        self,
        network: Network,
        uid: int = 1,
        sync_keys: SyncKeyStore | None = None,
        address: str = "tcp:127.0.0.1:23000",
        received: Callable[[Message, int, int], None] = lambda message, flag, key: None,
        max_outstanding: int = 1000,
    ) -> None:
        self.network = network
        self.got: list[tuple[Message, int, int]] = []
        self.states: list[State] = []
        self._also = received
        self.client = Client(
            network.reactor,
            address,
            uid,
            {1: "one", 2: "two", 9: "nobody's"}[uid],
            received=self._received,
            state_changed=lambda state, why: self.states.append(state),
            sync_keys=sync_keys,
            device=f"device {uid}",
            max_outstanding=max_outstanding,
        )
        self.ended = self.client.run()
        network.flush()

    def _received(self, message: Message, flag: int, key: int) -> None:
        self.got.append((message, flag, key))
        self._also(message, flag, key)

    @property
    def texts(self) -> list[tuple[int, str]]:
        """Key and text of what came."""
        return [(key, json.loads(message.content)["text"]) for message, _flag, key in self.got]  # type: ignore[attr-defined]  # all have a content

    @property
    def theirs(self) -> FakeConnection:
        """The server's end of the connection."""
        [connection] = [c for c in self.network.server.connections if c.uid == self.client._uid]
        return connection

    def cut(self) -> None:
        self.theirs.drop()
        self.network.flush()


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    network.server.tokens = {b"one": 1, b"two": 2}
    yield network
    network.flush()
    assert network.reactor.getDelayedCalls() == []


@pytest.fixture
def start(network: Network) -> Iterator[Callable[..., App]]:
    apps: list[App] = []

    def make(*args: Any, **named: Any) -> App:
        apps.append(App(network, *args, **named))
        return apps[-1]

    yield make
    for app in apps:
        if app.client.state is not State.STOPPED:
            stopped = app.client.stop()
            network.now(stopped)
            now(app.ended)
        assert app.client.state is State.STOPPED


@pytest.fixture
def server(network: Network) -> FakeServer:
    return network.server


def failures(fired: list[Deferred[Acknowledged]]) -> list[type[BaseException]]:
    """What each of them has failed with."""
    types: list[type[BaseException]] = []

    def failed(failure: Failure) -> None:
        assert failure.value is not None
        types.append(type(failure.value))

    for one in fired:
        one.addErrback(failed)
    assert len(types) == len(fired)
    return types


Start = Callable[..., App]


class TestSignIn:
    @pytest.mark.parametrize("address", ["tcp:127.0.0.1:23000", "ws://127.0.0.1:13891/ws"])
    def test_signs_in_and_syncs(self, start: Start, server: FakeServer, address: str) -> None:
        """After the sign-in comes a SYNC with the stored key, over either transport."""
        app = start(sync_keys=MemorySyncKeyStore(5), address=address)
        assert app.states == [State.CONNECTING, State.SIGNED_IN]
        assert [heard.message for heard in server.heard][:2] == [AuthToken(4, b"one", b"device 1"), Sync(5)]

    def test_refused_token(self, start: Start, network: Network) -> None:
        """A client whose token is refused ends, and does not come again."""
        app = start(9)
        with pytest.raises(SignInRefused, match="refused the token"):
            now(app.ended)
        assert app.states[-1] is State.STOPPED
        network.advance(100, step=10)
        assert len(network.server.said(AuthToken)) == 1

    def test_runs_once(self, start: Start) -> None:
        """One client is one life."""
        app = start()
        with pytest.raises(ClientError, match="runs once"):
            app.client.run()

    def test_stop_before_run(self, network: Network) -> None:
        """Stopping what never ran is done at once."""
        client = Client(network.reactor, "tcp:127.0.0.1:23000", 1, "one", received=lambda *_: None)
        assert now(client.stop()) is None
        with pytest.raises(ClientError):
            client.run()

    def test_unreadable_key(self, network: Network, tmp_path: Path) -> None:
        """A key that cannot be read is not taken for none: nothing is synced, and the reason is told."""
        (tmp_path / "key").write_text("rubbish")
        app = App(network, sync_keys=FileSyncKeyStore(tmp_path / "key"))
        with pytest.raises(ClientError, match="holds no sync key"):
            now(app.ended)
        assert network.server.heard == []


class TestPushes:
    """The first way of a message: it is pushed."""

    def test_in_step(self, start: Start, server: FakeServer, network: Network) -> None:
        """What comes right after the own key is taken once, in order, and acknowledged by its seq."""
        app = start()
        syncs = len(server.said(Sync))
        for text in "abc":
            server.post(2, 1, text)
        network.flush()
        assert app.texts == [(2, "a"), (3, "b"), (4, "c")]
        assert {flag for _message, flag, _key in app.got} == {Flag.PUSH}
        # AUTH_STATUS, SYNC_BEGIN, SYNC_END, then METADATA, IM, SYNC_NOTIFY three times.
        assert [ack.seq for ack in server.said(Ack)] == [5, 8, 11]
        assert len(server.said(Sync)) == syncs
        assert app.client.key == 4

    def test_key_is_told_to_the_server_later(self, start: Start, server: FakeServer, network: Network) -> None:
        """Pushes that come close together cost one SYNC_KEY."""
        start()
        assert server.said(SyncKey) == [SyncKey(1)]
        for text in "abc":
            server.post(2, 1, text)
            network.advance(SAVE_KEY_SECONDS / 4)
        assert server.said(SyncKey) == [SyncKey(1)]
        network.advance(SAVE_KEY_SECONDS)
        assert server.said(SyncKey) == [SyncKey(1), SyncKey(4)]

    def test_key_is_told_at_the_end(self, start: Start, server: FakeServer, network: Network) -> None:
        """Stopping does not lose what was taken."""
        app = start()
        server.post(2, 1, "a")
        network.flush()
        network.now(app.client.stop())
        assert server.saved_keys == {1: 2}

    def test_out_of_step(self, start: Start, server: FakeServer, network: Network) -> None:
        """A push after a gap is passed over, not acknowledged, and comes by the sync that SYNC_NOTIFY starts."""
        app = start()
        server.push = False
        server.timelines[1].append(stored_frame(Command.IM, 0, IM(2, 1, 0, 0, b'{"text": "lost"}').encode(2)))
        server.push = True
        server.post(2, 1, "seen")
        network.flush()
        assert app.texts == [(2, "lost"), (3, "seen")]
        assert [flag for _message, flag, _key in app.got] == [0, 0]
        assert server.said(Sync) == [Sync(0), Sync(1)]
        assert server.said(SyncKey) == [SyncKey(1), SyncKey(3)]

    def test_metadata_must_be_directly_before(self, start: Start, server: FakeServer, network: Network) -> None:
        """METADATA counts for the next frame only, and only where their numbers follow each other."""
        app = start()
        body = IM(2, 1, 0, 0, b'{"text": "x"}').encode(2)
        pushed = stored_frame(Command.IM, Flag.PUSH, body)
        theirs = app.theirs
        theirs.send(Metadata(2, 1).frame(), SyncNotify(1).frame(), pushed)
        theirs.send(Metadata(2, 1).frame())
        theirs.seq += 1
        theirs.send(pushed)
        theirs.send(pushed)
        network.flush()
        assert app.got == []
        theirs.send(Metadata(2, 1).frame(), pushed)
        network.flush()
        assert app.texts == [(2, "x")]

    def test_previous_key_of_zero(self, start: Start, server: FakeServer, network: Network) -> None:
        """A client that knows no key yet takes no push, whatever METADATA says."""
        server.answer_syncs = False
        app = start()
        theirs = app.theirs
        theirs.send(Metadata(1, 0).frame(), IM(2, 1, 0, 0, b"x").frame(Flag.PUSH))
        network.flush()
        assert app.got == []
        assert app.client.key == 0

    def test_every_kind(self, start: Start, server: FakeServer, network: Network) -> None:
        """What stands in timelines is delivered with its key; of these, the commands that clients acknowledge."""
        app = start()
        messages: list[Message] = [
            IM(2, 1, 3, 4, b"a"),
            GroupIM(2, 10, 3, 4, b"b"),
            GroupNotification(b"{}"),
            System(b"c"),
            CustomerV2(7, 2, 7, 1, 3, b"d"),
        ]
        for message in messages:
            server.store(1, message.command, message.encode(2))
        network.flush()
        assert app.got == [(message, Flag.PUSH, key) for key, message in enumerate(messages, 2)]
        assert len(server.said(Ack)) == len(messages)

    def test_passing_messages(self, start: Start, network: Network) -> None:
        """What is not stored comes without a key, and is not acknowledged."""
        app = start()
        app.theirs.send(RT(2, 1, b"a").frame(), RoomIM(2, 5, b"b").frame(), Notification(b"c").frame())
        network.flush()
        assert app.got == [(RT(2, 1, b"a"), 0, 0), (RoomIM(2, 5, b"b"), 0, 0), (Notification(b"c"), 0, 0)]
        assert network.server.said(Ack) == []

    def test_application_that_fails(
        self, start: Start, server: FakeServer, network: Network, flush_logged_errors: FlushLoggedErrors
    ) -> None:
        """An application that raises is logged, and gets the next message all the same."""

        def received(message: Message, flag: int, key: int) -> None:
            if key == 2:
                raise ZeroDivisionError

        app = start(received=received)
        server.post(2, 1, "a")
        server.post(2, 1, "b")
        network.flush()
        assert app.texts == [(2, "a"), (3, "b")]
        assert len(flush_logged_errors(ZeroDivisionError)) == 1


class TestSync:
    """The second way of a message: it is synced."""

    def test_what_was_missed(self, start: Start, server: FakeServer) -> None:
        """After a time away everything since the stored key comes, with its keys, and the key is kept."""
        for text in "abcd":
            server.post(2, 1, text)
        keys = MemorySyncKeyStore(3)
        app = start(sync_keys=keys)
        assert app.texts == [(4, "c"), (5, "d")]
        assert keys.key == 5
        assert server.saved_keys == {1: 5}
        assert len(server.said(Ack)) == 2

    def test_starts_at_the_saved_key(self, start: Start, server: FakeServer) -> None:
        """Without a key of its own a client starts where the server says, and numbers the entries from there."""
        for text in "abcd":
            server.post(2, 1, text)
        server.saved_keys[1] = 4
        assert start().texts == [(5, "d")]

    def test_several_pages(self, start: Start, server: FakeServer) -> None:
        """SYNC_NOTIFY after SYNC_END brings the next page."""
        server.page = 3
        for text in "abcdefg":
            server.post(2, 1, text)
        app = start()
        assert app.texts == list(enumerate("abcdefg", 2))
        assert server.said(Sync) == [Sync(0), Sync(4), Sync(7)]

    def test_lower_end(self, start: Start, server: FakeServer, network: Network) -> None:
        """A timeline that ends before the own key (a restored backup) is taken as it is, and what comes next too."""
        server.post(2, 1, "a")
        keys = MemorySyncKeyStore(10)
        app = start(sync_keys=keys)
        assert keys.key == 2
        server.post(2, 1, "b")
        network.flush()
        assert app.texts == [(3, "b")]

    def test_cut_off_in_the_middle(self, start: Start, server: FakeServer, network: Network) -> None:
        """Of a sync that breaks off nothing is delivered, and all of it after the reconnect, once."""
        server.answer_syncs = False
        app = start()
        for text in "abc":
            server.timelines[1].append(
                stored_frame(Command.IM, 0, IM(2, 1, 0, 0, json.dumps({"text": text}).encode()).encode(2))
            )
        app.theirs.send(SyncBegin(1).frame(), *server.timelines[1][:2])
        network.flush()
        app.cut()
        assert app.got == []
        server.answer_syncs = True
        network.advance(2)
        assert app.texts == [(2, "a"), (3, "b"), (4, "c")]

    def test_notify_during_a_sync(self, start: Start, server: FakeServer, network: Network) -> None:
        """What is notified while a sync is under way is asked for after it, once."""
        server.answer_syncs = False
        app = start()
        theirs = app.theirs
        theirs.send(SyncBegin(1).frame(), SyncNotify(2).frame(), SyncNotify(3).frame(), SyncNotify(2).frame())
        network.flush()
        assert server.said(Sync) == [Sync(0)]
        server.answer_syncs = True
        server.push = False
        body = b'{"text": "x"}'
        server.timelines[1] = [stored_frame(Command.IM, 0, IM(2, 1, 0, 0, body).encode(2))] * 2
        theirs.send(SyncEnd(1).frame())
        network.flush()
        assert server.said(Sync) == [Sync(0), Sync(1)]
        assert [key for _message, _flag, key in app.got] == [2, 3]

    def test_push_during_a_sync(self, start: Start, server: FakeServer, network: Network) -> None:
        """A message that is pushed while an answer is coming, and stands in that answer too, is delivered once."""
        app = start()
        server.answer_syncs = False
        theirs = app.theirs
        theirs.send(SyncNotify(2).frame())
        network.flush()
        assert server.said(Sync)[-1] == Sync(1)
        bodies = [IM(2, 1, 0, 0, json.dumps({"text": text}).encode()).encode(2) for text in "abc"]
        entries = [stored_frame(Command.IM, 0, body) for body in bodies]
        theirs.send(SyncBegin(1).frame(), entries[0])
        theirs.send(Metadata(2, 1).frame(), stored_frame(Command.IM, Flag.PUSH, bodies[0]), SyncNotify(2).frame())
        theirs.send(entries[1], SyncEnd(3).frame())
        network.flush()
        assert app.texts == [(2, "a"), (3, "b")]
        theirs.send(Metadata(4, 3).frame(), stored_frame(Command.IM, Flag.PUSH, bodies[2]))
        network.flush()
        assert app.texts == [(2, "a"), (3, "b"), (4, "c")]

    def test_answer_that_was_overtaken(self, start: Start, server: FakeServer, network: Network) -> None:
        """An answer that comes after its deadline, beside that of the second attempt, neither repeats nor goes back."""
        app = start()
        server.answer_syncs = False
        theirs = app.theirs
        theirs.send(SyncNotify(2).frame())
        network.advance(SYNC_SECONDS + 0.5)
        assert server.said(Sync)[-2:] == [Sync(1), Sync(1)]
        bodies = [IM(2, 1, 0, 0, json.dumps({"text": text}).encode()).encode(2) for text in "abc"]
        entries = [stored_frame(Command.IM, 0, body) for body in bodies]
        theirs.send(SyncBegin(1).frame(), entries[0], entries[1], SyncEnd(3).frame())
        theirs.send(Metadata(4, 3).frame(), stored_frame(Command.IM, Flag.PUSH, bodies[2]))
        theirs.send(SyncBegin(1).frame(), entries[0], entries[1], SyncEnd(3).frame())
        network.flush()
        assert app.texts == [(2, "a"), (3, "b"), (4, "c")]
        assert app.client.key == 4

    def test_no_answer(self, start: Start, server: FakeServer, network: Network) -> None:
        """A SYNC without an answer is asked again after 4 s."""
        server.answer_syncs = False
        start()
        network.advance(SYNC_SECONDS - 0.5)
        assert server.said(Sync) == [Sync(0)]
        network.advance(1)
        assert server.said(Sync) == [Sync(0)] * 2
        server.answer_syncs = True
        network.advance(SYNC_SECONDS)
        network.advance(20)
        assert server.said(Sync) == [Sync(0)] * 3

    def test_server_that_cannot_read(self, start: Start, server: FakeServer, network: Network) -> None:
        """An empty answer although there is something is asked for again later, not at once and for ever."""
        app = start()
        server.answer_syncs = False
        theirs = app.theirs
        theirs.send(SyncNotify(2).frame())
        network.flush()
        theirs.send(SyncBegin(1).frame(), SyncEnd(1).frame())
        network.advance(SYNC_SECONDS - 0.5)
        assert server.said(Sync) == [Sync(0), Sync(1)]
        assert app.client.key == 1
        network.advance(1)
        assert server.said(Sync) == [Sync(0), Sync(1), Sync(1)]

    def test_too_many_entries(self, start: Start, network: Network) -> None:
        """An answer without end is not gathered without end."""
        network.server.answer_syncs = False
        app = start()
        app.theirs.send(SyncBegin(1).frame(), *[IM(2, 1, 0, 0, b"").frame()] * 3001)
        network.flush()
        with pytest.raises(ClientError, match="more than 3000 entries"):
            now(app.ended)
        assert app.got == []

    def test_file_store(self, start: Start, server: FakeServer, network: Network, tmp_path: Path) -> None:
        """The next client with the same file gets only what came since."""
        first = start(sync_keys=FileSyncKeyStore(tmp_path / "key"))
        server.post(2, 1, "a")
        network.flush()
        network.now(first.client.stop())
        server.saved_keys.clear()
        server.post(2, 1, "b")
        second = start(sync_keys=FileSyncKeyStore(tmp_path / "key"))
        assert first.texts == [(2, "a")]
        assert second.texts == [(3, "b")]

    def test_key_that_cannot_be_saved(self, start: Start, server: FakeServer, network: Network, tmp_path: Path) -> None:
        """A client that cannot keep its key stops and says so, instead of getting everything again some day."""
        (tmp_path / "d").mkdir()
        app = start(sync_keys=FileSyncKeyStore(tmp_path / "d" / "key"))
        for file in (tmp_path / "d").iterdir():
            file.unlink()
        (tmp_path / "d").rmdir()
        server.post(2, 1, "a")
        network.flush()
        with pytest.raises(ClientError, match="cannot save the sync key"):
            now(app.ended)

    def test_stop_in_the_middle(self, start: Start, server: FakeServer, network: Network) -> None:
        """An application that stops over one message gets no other, and the rest the next time."""
        for text in "abc":
            server.post(2, 1, text)
        keys = MemorySyncKeyStore()
        apps: list[App] = []

        def received(message: Message, flag: int, key: int) -> None:
            if key == 3:
                stops.append(apps[0].client.stop())

        stops: list[Deferred[None]] = []
        server.answer_syncs = False
        apps.append(start(sync_keys=keys, received=received))
        server.answer_syncs = True
        server.sync(apps[0].theirs, 0)
        network.flush()
        network.now(stops[0])
        assert apps[0].texts == [(2, "a"), (3, "b")]
        assert start(sync_keys=keys).texts == [(4, "c")]


class TestSuperGroups:
    """Each has a timeline of its own; in each a message comes once and in order."""

    @pytest.fixture(autouse=True)
    def groups(self, server: FakeServer) -> None:
        """Two of users 1 and 2."""
        server.super_groups = {10: ({1, 2}, []), 11: ({1, 2}, [])}

    def test_followed(self, start: Start, server: FakeServer, network: Network) -> None:
        """What was said since the saved key comes by a sync, what is said then as it is pushed, each with its key, and
        beside the user's own timeline."""
        for text in "abc":
            server.post_in_group(2, 10, text)
        server.saved_group_keys[1, 10] = 2
        app = start()
        app.client.follow_group(10)
        network.flush()
        server.post(2, 1, "own")
        server.post_in_group(2, 10, "d")
        network.flush()
        assert app.texts == [(3, "b"), (4, "c"), (2, "own"), (5, "d")]
        flags = [flag for _message, flag, _key in app.got]
        assert flags == [Flag.SUPER_GROUP, Flag.SUPER_GROUP, Flag.PUSH, Flag.PUSH | Flag.SUPER_GROUP]
        assert app.client.key == 2
        assert len(server.said(Ack)) == 4
        network.advance(SAVE_KEY_SECONDS)
        assert server.saved_group_keys[1, 10] == 5

    def test_asked_for_once(self, start: Start, server: FakeServer, network: Network) -> None:
        """To follow a group again changes nothing."""
        app = start()
        for _ in range(2):
            app.client.follow_group(10)
            network.flush()
        assert server.said(SyncGroup) == [SyncGroup(10, 0)]

    def test_unheard_of(self, start: Start, server: FakeServer, network: Network) -> None:
        """A group of which the server says that there is something is followed from then on."""
        app = start()
        server.post_in_group(2, 10, "a")
        network.flush()
        server.post_in_group(2, 10, "b")
        network.flush()
        assert app.texts == [(2, "a"), (3, "b")]
        assert server.said(SyncGroup) == [SyncGroup(10, 0)]

    def test_stored_key(self, start: Start, server: FakeServer, network: Network) -> None:
        """What is kept between runs is the key of the user's own timeline."""
        keys = MemorySyncKeyStore()
        app = start(sync_keys=keys)
        app.client.follow_group(10)
        for text in "abc":
            server.post_in_group(2, 10, text)
        network.flush()
        assert len(app.got) == 3
        assert keys.key == 1

    def test_after_an_answer(self, start: Start, server: FakeServer, network: Network) -> None:
        """What comes behind it, neither pushed as an entry nor part of a sync, is no entry of any timeline."""
        app = start()
        server.post_in_group(2, 10, "a")
        network.flush()
        app.theirs.send(CustomerV2(7, 2, 7, 1, 3, b'{"text": "not stored"}').frame())
        server.post_in_group(2, 10, "b")
        network.flush()
        assert app.texts == [(2, "a"), (0, "not stored"), (3, "b")]

    def test_two_groups(self, start: Start, server: FakeServer, network: Network) -> None:
        """Their keys do not touch each other."""
        app = start()
        app.client.follow_group(10)
        app.client.follow_group(11)
        network.flush()
        for group, text in ((10, "a"), (11, "b"), (10, "c")):
            server.post_in_group(2, group, text)
        network.flush()
        assert app.texts == [(2, "a"), (2, "b"), (3, "c")]
        assert len(server.said(SyncGroup)) == 2

    def test_out_of_step(self, start: Start, server: FakeServer, network: Network) -> None:
        """A push after a gap is passed over, and comes by the sync that SYNC_GROUP_NOTIFY starts."""
        app = start()
        app.client.follow_group(10)
        network.flush()
        server.push = False
        server.super_groups[10][1].append(GroupIM(2, 10, 0, 0, b'{"text": "lost"}').frame(Flag.SUPER_GROUP))
        server.push = True
        server.post_in_group(2, 10, "seen")
        network.flush()
        assert app.texts == [(2, "lost"), (3, "seen")]
        assert server.said(SyncGroup) == [SyncGroup(10, 0), SyncGroup(10, 1)]

    def test_several_pages(self, start: Start, server: FakeServer, network: Network) -> None:
        """SYNC_GROUP_NOTIFY after the END brings the next page."""
        server.page = 3
        for text in "abcdefg":
            server.post_in_group(2, 10, text)
        app = start()
        app.client.follow_group(10)
        network.flush()
        assert app.texts == list(enumerate("abcdefg", 2))
        assert server.said(SyncGroup) == [SyncGroup(10, 0), SyncGroup(10, 4), SyncGroup(10, 7)]

    def test_own_messages(self, start: Start, server: FakeServer, network: Network) -> None:
        """The ACK says the key in the group's timeline, and moves that one on: nothing has to be synced."""
        app, other = start(), start(2)
        for each in (app, other):
            each.client.follow_group(10)
        network.flush()
        sent = [app.client.send_group(10, text) for text in "ab"]
        network.flush()
        assert [now(fired).key for fired in sent] == [2, 3]
        assert (app.got, other.texts) == ([], [(2, "a"), (3, "b")])
        server.post_in_group(2, 10, "c")
        network.flush()
        assert app.texts == [(4, "c")]
        assert len(server.said(SyncGroup)) == 2
        assert app.client.key == 1

    def test_own_message_to_a_group_that_is_not_followed(
        self, start: Start, server: FakeServer, network: Network
    ) -> None:
        """It is sent and acknowledged; its key says nothing about the user's own timeline."""
        app = start()
        assert network.now(app.client.send_group(10, "a")).key == 2
        assert app.client.key == 1
        assert server.said(SyncGroup) == []

    def test_own_message_out_of_step(self, start: Start, server: FakeServer, network: Network) -> None:
        """An ACK whose key does not follow makes the client sync the group."""
        app = start()
        app.client.follow_group(10)
        network.flush()
        server.super_groups[10][1].append(GroupIM(2, 10, 0, 0, b'{"text": "missed"}').frame(Flag.SUPER_GROUP))
        app.client.send_group(10, "mine")
        network.flush()
        assert app.texts == [(2, "missed"), (3, "mine")]

    def test_notifications(self, start: Start, server: FakeServer, network: Network) -> None:
        """They are not pushed, and come by the sync."""
        app = start()
        server.store_in_group(10, Command.GROUP_NOTIFICATION, b"{}")
        network.flush()
        assert app.got == [(GroupNotification(b"{}"), Flag.SUPER_GROUP, 2)]

    def test_after_a_reconnect(self, start: Start, server: FakeServer, network: Network) -> None:
        """All that are followed are synced from their keys."""
        app = start()
        for group in (10, 11):
            app.client.follow_group(group)
            server.post_in_group(2, group, "a")
        network.flush()
        app.cut()
        server.post_in_group(2, 10, "b")
        network.advance(2)
        assert app.texts == [(2, "a"), (2, "a"), (3, "b")]
        assert server.said(SyncGroup)[-2:] == [SyncGroup(10, 2), SyncGroup(11, 2)]

    def test_key_at_the_end(self, start: Start, server: FakeServer, network: Network) -> None:
        """Stopping does not lose what was taken: the next run begins there."""
        app = start()
        app.client.follow_group(10)
        network.flush()
        server.post_in_group(2, 10, "a")
        network.flush()
        network.now(app.client.stop())
        server.post_in_group(2, 10, "b")
        again = start()
        again.client.follow_group(10)
        network.flush()
        assert again.texts == [(3, "b")]

    @pytest.mark.parametrize("answers", [True, False])
    def test_the_end_waits_for_the_keys(
        self, start: Start, server: FakeServer, network: Network, answers: bool
    ) -> None:
        """The connection stays until the server has them, but no longer than for a PONG."""
        app = start()
        app.client.follow_group(10)
        network.flush()
        server.post(2, 1, "a")
        server.post_in_group(2, 10, "b")
        network.flush()
        server.answer_pings = answers
        stopped = app.client.stop()
        network.flush()
        assert [heard.message for heard in server.heard][-3:] == [SyncKey(2), GroupSyncKey(10, 2), Ping()]
        if not answers:
            network.advance(PONG_SECONDS - 0.5)
            assert not stopped.called
            network.advance(1)
        assert network.now(stopped) is None

    def test_no_member_any_more(self, start: Start, server: FakeServer, network: Network) -> None:
        """The server has nothing, though it had said so: the client asks more and more seldom."""
        app = start()
        app.client.follow_group(10)
        network.flush()
        theirs = app.theirs
        server.super_groups[10][0].remove(1)
        theirs.send(SyncGroupNotify(10, 7).frame())
        network.advance(200)
        assert 5 <= len(server.said(SyncGroup)) <= 8
        assert app.got == []

    def test_unfollowed(self, start: Start, server: FakeServer, network: Network) -> None:
        """Nothing of it comes any more, also of an answer that is under way, and no timer is left."""
        app = start()
        server.answer_syncs = False
        app.client.follow_group(10)
        network.flush()
        theirs = app.theirs
        body = b'{"text": "x"}'
        theirs.send(SyncGroupBegin(10, 0).frame(), GroupIM(2, 10, 0, 0, body).frame(Flag.SUPER_GROUP))
        network.flush()
        app.client.unfollow_group(10)
        app.client.unfollow_group(12)
        theirs.send(GroupIM(2, 10, 0, 0, body).frame(Flag.SUPER_GROUP), SyncGroupEnd(10, 3).frame())
        theirs.send(Metadata(4, 3).frame(), GroupIM(2, 10, 0, 0, body).frame(Flag.PUSH | Flag.SUPER_GROUP))
        network.advance(2 * SYNC_SECONDS)
        assert app.got == []
        assert len(server.said(SyncGroup)) == 1
        theirs.send(CustomerV2(7, 2, 7, 1, 3, b'{"text": "not stored"}').frame())
        server.post(2, 1, "own")
        network.flush()
        assert app.texts == [(0, "not stored"), (2, "own")]

    def test_keys_of_a_group_that_is_not_followed(self, start: Start, network: Network) -> None:
        """They do not touch the user's own timeline."""
        app = start()
        app.theirs.send(Metadata(2, 1).frame(), GroupIM(2, 12, 0, 0, b"x").frame(Flag.PUSH | Flag.SUPER_GROUP))
        app.theirs.send(Metadata(2, 1).frame(), Ack(1).frame(Flag.SUPER_GROUP))
        network.flush()
        assert app.got == []
        assert app.client.key == 1

    def test_too_many(
        self, start: Start, server: FakeServer, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The groups that are followed have a bound, whoever names them."""
        monkeypatch.setattr(client, "MAX_GROUPS", 1)
        app = start()
        app.client.follow_group(10)
        with pytest.raises(ClientError, match="1 super groups at most"):
            app.client.follow_group(11)
        server.post_in_group(2, 11, "a")
        network.flush()
        assert server.said(SyncGroup) == [SyncGroup(10, 0)]
        app.client.unfollow_group(10)
        app.client.follow_group(11)
        network.flush()
        assert app.texts == [(2, "a")]


class TestSending:
    def test_peer(self, start: Start, server: FakeServer, network: Network) -> None:
        """A text goes as JSON with a uuid of its own; its ACK moves the own key on without a sync."""
        app = start()
        first = network.now(app.client.send_peer(2, "grüß dich"))
        second = network.now(app.client.send_peer(2, "again"))
        assert (first.key, second.key) == (2, 3)
        ims = server.said(IM)
        assert [(im.sender, im.receiver) for im in ims] == [(1, 2)] * 2
        assert [json.loads(im.content) for im in ims] == [
            {"text": "grüß dich", "uuid": first.uuid},
            {"text": "again", "uuid": second.uuid},
        ]
        assert first.uuid != second.uuid
        assert app.client.key == 3
        assert server.said(Sync) == [Sync(0)]
        assert app.got == []

    def test_own_uuid_and_bytes(self, start: Start, server: FakeServer, network: Network) -> None:
        """The caller may choose the uuid, or the whole content, but not both."""
        app = start()
        assert network.now(app.client.send_peer(2, "a", "u-1")).uuid == "u-1"
        assert network.now(app.client.send_peer(2, b"\x00raw")).uuid == ""
        assert server.said(IM)[1].content == b"\x00raw"
        with pytest.raises(TypeError):
            app.client.send_peer(2, b"{}", "u-2")

    def test_message_ids(self, start: Start, server: FakeServer, network: Network) -> None:
        """Each message has another msgid, never 0: the server knows content without a uuid by it."""
        app = start()
        for _ in range(3):
            network.now(app.client.send_peer(2, b"same"))
        ids = [im.msgid for im in server.said(IM)]
        assert 0 not in ids
        assert len(set(ids)) == 3

    def test_refused(self, start: Start, server: FakeServer, network: Network) -> None:
        """A status becomes a failure with a reason to read, and nothing is sent again."""
        app = start()
        server.ack_status = AckStatus.NOT_STORED
        with pytest.raises(Refused, match="could not store it; send it again") as caught:
            network.now(app.client.send_peer(2, "a"))
        assert caught.value.status == 68
        network.advance(20)
        assert len(server.said(IM)) == 1

    def test_ack_out_of_step(self, start: Start, server: FakeServer, network: Network) -> None:
        """An ACK whose keys lie beyond a gap does not move the key; it is the sign that there is something to sync."""
        app = start()
        server.timelines[1] = [stored_frame(Command.IM, 0, IM(2, 1, 0, 0, b'{"text": "x"}').encode(2))] * 3
        app.theirs.send(Metadata(4, 3).frame(), Ack(99).frame())
        network.flush()
        assert server.said(Sync) == [Sync(0), Sync(1)]
        assert app.texts == [(2, "x"), (3, "x"), (4, "x")]

    def test_group(self, start: Start, server: FakeServer, network: Network) -> None:
        """The same way leads to groups."""
        app = start()
        assert network.now(app.client.send_group(10, "all")).key == 2
        [message] = server.said(GroupIM)
        assert message.receiver == 10

    def test_again_after_a_reconnect(self, start: Start, server: FakeServer, network: Network) -> None:
        """What has no ACK goes again on the next connection, same uuid, same order, and is stored once."""
        app = start()
        server.answer_messages = False
        lost = [app.client.send_peer(2, text) for text in "ab"]
        network.flush()
        app.cut()
        assert not any(one.called for one in lost)
        lost.append(app.client.send_peer(2, "c"))
        server.answer_messages = True
        network.advance(2)
        acked = [now(one) for one in lost]
        contents = [json.loads(im.content) for im in server.said(IM)]
        assert [content["text"] for content in contents] == ["a", "b", "a", "b", "c"]
        assert [content["uuid"] for content in contents[2:]] == [one.uuid for one in acked]
        assert contents[:2] == contents[2:4]
        assert len(server.timelines[2]) == 3

    def test_ack_lost_with_the_connection(self, start: Start, server: FakeServer, network: Network) -> None:
        """Stored, but the ACK never came: the resend is answered with the first key, and the receiver has it once."""
        app, peer = start(), start(2)
        sent = app.client.send_peer(2, "a")
        app.theirs.write = lambda data: None
        network.flush()
        assert not sent.called
        app.cut()
        network.advance(2)
        assert now(sent).key == 2
        assert peer.texts == [(2, "a")]
        assert [key for _message, _flag, key in app.got] == [2], "the sync brought what this device had sent"
        assert app.client.key == 2

    def test_no_ack(self, start: Start, server: FakeServer, network: Network) -> None:
        """Without an ACK in 5 s the connection counts as dead; the message goes again on the next."""
        app = start()
        server.answer_messages = False
        sent = app.client.send_peer(2, "a")
        network.advance(ACK_SECONDS - 0.5)
        assert app.client.state is State.SIGNED_IN
        network.advance(0.5)
        server.answer_messages = True
        network.advance(2)
        assert now(sent).key == 2
        assert len(server.said(AuthToken)) == 2

    def test_gives_up(self, start: Start, server: FakeServer, network: Network) -> None:
        """A message that is never acknowledged fails in the end."""
        app = start()
        server.answer_messages = False
        sent = app.client.send_peer(2, "a")
        network.advance(GIVE_UP_SECONDS - 0.5)
        assert not sent.called
        network.advance(1)
        with pytest.raises(NotAcknowledged, match="within 60 s"):
            now(sent)
        tries = len(server.said(IM))
        network.advance(60)
        assert len(server.said(IM)) == tries

    def test_before_the_connection(self, start: Start, server: FakeServer, network: Network) -> None:
        """What is sent without a connection waits for one."""
        network.refusing = True
        app = start()
        sent = app.client.send_peer(2, "a")
        network.advance(3)
        assert not sent.called
        network.refusing = False
        network.advance(10)
        assert now(sent).key == 2

    def test_window(self, start: Start, server: FakeServer, network: Network) -> None:
        """No more than a window of messages is on the wire; the rest follows the ACKs, in order."""
        app = start()
        server.answer_messages = False
        sent = [app.client.send_peer(2, str(number)) for number in range(WINDOW * 2 + 5)]
        network.flush()
        assert len(server.said(IM)) == WINDOW
        server.answer_messages = True
        for connection, seq, message in server.unanswered:
            server.peer_message(connection, seq, message)
        network.flush()
        assert all(one.called for one in sent)
        assert [json.loads(frame.bodies[2][24:])["text"] for frame in server.timelines[2]] == [
            str(number) for number in range(WINDOW * 2 + 5)
        ]

    def test_too_many_outstanding(self, start: Start, network: Network) -> None:
        """There is a bound on what waits."""
        network.server.answer_messages = False
        app = start(max_outstanding=3)
        waiting = [app.client.send_peer(2, "a") for _ in range(3)]
        with pytest.raises(TooManyOutstanding, match="3 messages"):
            app.client.send_peer(2, "b")
        network.now(app.client.stop())
        assert failures(waiting) == [Closed] * 3
        with pytest.raises(NotConnected):
            app.client.send_peer(2, "c")

    def test_too_long(self, start: Start, server: FakeServer, network: Network) -> None:
        """What no frame can carry is refused at once, instead of being sent again for ever; the longest goes."""
        app = start()
        with pytest.raises(ClientError, match="too long"):
            app.client.send_peer(2, bytes(MAX_BODY - 23))
        network.now(app.client.send_peer(2, bytes(MAX_BODY - 24)))
        assert [len(im.content) for im in server.said(IM)] == [MAX_BODY - 24]

    def test_realtime(self, start: Start, network: Network) -> None:
        """RT reaches those who are there; without a connection it is refused at once."""
        app, peer = start(), start(2)
        app.client.send_realtime(2, b"typing")
        network.flush()
        assert peer.got == [(RT(1, 2, b"typing"), 0, 0)]
        network.now(app.client.stop())
        with pytest.raises(NotConnected):
            app.client.send_realtime(2, b"typing")


class TestRooms:
    def test_room(self, start: Start, network: Network) -> None:
        """Who is in the room hears; an ACK without a key answers the speaker."""
        app, peer = start(), start(2)
        for one in (app, peer):
            one.client.enter_room(5)
        network.flush()
        acked = network.now(app.client.send_room("hello"))
        assert acked.key == 0
        [(message, flag, key)] = peer.got
        assert isinstance(message, RoomIM)
        assert (message.sender, message.receiver, flag, key) == (1, 5, 0, 0)
        assert json.loads(message.content) == {"text": "hello", "uuid": acked.uuid}

    def test_entered_again(self, start: Start, server: FakeServer, network: Network) -> None:
        """After a reconnect the client is in its room again, until it leaves it."""
        app = start()
        app.client.enter_room(5)
        network.flush()
        app.cut()
        network.advance(2)
        assert server.said(EnterRoom) == [EnterRoom(5)] * 2
        app.client.leave_room()
        network.flush()
        assert server.said(LeaveRoom) == [LeaveRoom(5)]
        app.cut()
        network.advance(2)
        assert server.said(EnterRoom) == [EnterRoom(5)] * 2

    def test_not_sent_again(self, start: Start, server: FakeServer, network: Network) -> None:
        """A room message that was on the wire when the connection was lost fails: rooms know no uuid."""
        app = start()
        app.client.enter_room(5)
        server.answer_messages = False
        sent = app.client.send_room("hello")
        network.flush()
        app.cut()
        with pytest.raises(NotAcknowledged):
            now(sent)
        network.advance(2)
        assert len(server.said(RoomIM)) == 1

    def test_outside(self, start: Start) -> None:
        """Without a room, or without a connection, there is nothing to send to."""
        app = start()
        with pytest.raises(NotConnected, match="enter a room"):
            app.client.send_room("hello")


class TestStayingConnected:
    def test_ping(self, start: Start, server: FakeServer, network: Network) -> None:
        """PING every 180 s keeps the connection."""
        app = start()
        network.advance(PING_SECONDS * 3 + 1, step=1)
        assert len(server.said(Ping)) == 3
        assert app.states == [State.CONNECTING, State.SIGNED_IN]

    def test_dead_connection(self, start: Start, server: FakeServer, network: Network) -> None:
        """No PONG within 3 s: the connection is dropped and made anew."""
        app = start()
        server.answer_pings = False
        network.advance(PING_SECONDS + PONG_SECONDS - 0.5)
        assert app.client.state is State.SIGNED_IN
        network.advance(3)
        assert len(server.said(AuthToken)) == 2
        assert app.client.state is State.SIGNED_IN

    def test_comes_back(self, start: Start, server: FakeServer, network: Network) -> None:
        """After a lost connection the client is back within a second or so, and misses nothing."""
        app = start()
        app.cut()
        assert app.states[-1] is State.WAITING
        server.post(2, 1, "meanwhile")
        network.advance(1)
        assert app.states == [
            State.CONNECTING,
            State.SIGNED_IN,
            State.WAITING,
            State.CONNECTING,
            State.SIGNED_IN,
        ]
        assert app.texts == [(2, "meanwhile")]
        assert server.said(Sync) == [Sync(0), Sync(1)]

    def test_backoff(self, start: Start, network: Network) -> None:
        """Attempts get rarer, up to about a minute, and begin anew after a connection that lived."""
        network.refusing = True
        app = start()
        waits: list[float] = []
        for _ in range(12):
            assert app.client.state is State.WAITING
            [call] = network.reactor.getDelayedCalls()
            waits.append(call.getTime() - network.reactor.seconds())
            network.advance(waits[-1], step=waits[-1])
        for number, wait in enumerate(waits):
            most = min(LONGEST_DELAY, FIRST_DELAY * 2**number)
            assert most / 2 <= wait <= most
        assert len({round(wait % 1, 6) for wait in waits}) == 12, "no two clients wait alike"
        network.refusing = False
        network.advance(LONGEST_DELAY, step=1)
        assert app.client.state is State.SIGNED_IN
        network.advance(LIVED_SECONDS)
        app.cut()
        [call] = network.reactor.getDelayedCalls()
        assert call.getTime() - network.reactor.seconds() <= FIRST_DELAY

    def test_connections_that_do_not_live(self, start: Start, network: Network) -> None:
        """A server that lets everybody in and throws them out again is not hammered."""
        app = start()
        for _ in range(6):
            network.advance(1)
            app.cut()
            [call] = network.reactor.getDelayedCalls()
            wait = call.getTime() - network.reactor.seconds()
            network.advance(wait, step=wait)
        assert wait >= FIRST_DELAY * 2**5 / 2

    def test_no_answer_to_the_sign_in(self, start: Start, server: FakeServer, network: Network) -> None:
        """A server that says nothing to AUTH_TOKEN is left in time, and tried again."""
        server.answer_sign_ins = False
        app = start()
        network.advance(CONNECT_SECONDS - 0.25)
        assert app.states == [State.CONNECTING]
        network.advance(0.25)
        assert app.states == [State.CONNECTING, State.WAITING]
        server.answer_sign_ins = True
        network.advance(1)
        assert app.client.state is State.SIGNED_IN

    def test_stop_while_connecting(self, network: Network) -> None:
        """Stopping cuts short whatever the client waits for: the connection …"""
        client = Client(network.reactor, "tcp:127.0.0.1:23000", 1, "one", received=lambda *_: None)
        ended = client.run()
        assert client.state is State.CONNECTING
        stopped = client.stop()
        assert now(stopped) is None
        assert now(ended) is None
        network.advance(1)
        assert network.server.heard == []

    def test_stop_while_waiting(self, start: Start, network: Network) -> None:
        """… or the next attempt, and twice is as good as once."""
        network.refusing = True
        app = start()
        assert app.client.state is State.WAITING
        first, second = app.client.stop(), app.client.stop()
        assert now(first) is now(second) is now(app.ended) is None

    def test_stop_waits_for_the_end(self, start: Start, network: Network) -> None:
        """`stop` fires when the connection is gone, and `run` with it."""
        app = start()
        stopped = app.client.stop()
        assert not stopped.called
        network.now(stopped)
        assert app.ended.called
        assert network.server.connections == []


def test_failure_type() -> None:
    """A Refused of an unknown status still says something."""
    assert str(Refused(99)) == "the server refused it with status 99"
    assert isinstance(Failure(Refused(1)).value, ClientError)
