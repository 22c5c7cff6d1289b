"""send, listen and chat against the server in memory."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface.verify import verifyObject

from imserver.cli.common import Imctl
from imserver.cli.complaint import Complaint
from imserver.cli.conversation import Account, Chat, Terminal, print_messages, send_one
from imserver.cli.operator import Operator
from imserver.cli.tokens import with_token
from imserver.client import Refused, SignInRefused
from imserver.protocol.commands import AckStatus, Command, Flag
from imserver.protocol.messages import IM, RT, AuthToken, Metadata, Sync, SyncKey, SyncNotify, stored_frame
from tests.fakes.admin import KEY, FakeAdmin, http_to
from tests.fakes.server import Network, now

TCP = "tcp:127.0.0.1:23000"


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    network.server.tokens = {b"one": 1, b"two": 2}
    yield network
    network.flush()
    assert network.reactor.getDelayedCalls() == []


class TestSend:
    @pytest.mark.parametrize("address", [TCP, "ws://127.0.0.1:13891/ws"])
    def test_stored(self, network: Network, address: str) -> None:
        """The message with a uuid, and the key that it got; nothing else of the user's is touched."""
        network.server.post(2, 1, "unread")
        sent = network.now(Deferred.fromCoroutine(send_one(network.reactor, address, 1, "one", 2, "hällo")))
        [message] = network.server.said(IM)
        assert json.loads(message.content) == {"text": "hällo", "uuid": sent.uuid}
        assert (message.sender, message.receiver) == (1, 2)
        assert sent.key == 3
        assert network.server.said(Sync) == []
        assert network.server.said(SyncKey) == []
        assert network.server.connections == []

    def test_refused_message(self, network: Network) -> None:
        """The server's status becomes a reason."""
        network.server.ack_status = AckStatus.MUTED
        with pytest.raises(Refused, match="muted or forbidden"):
            network.now(Deferred.fromCoroutine(send_one(network.reactor, TCP, 1, "one", 2, "x")))
        assert network.server.connections == []

    def test_refused_token(self, network: Network) -> None:
        """A token of nobody."""
        with pytest.raises(SignInRefused):
            network.now(Deferred.fromCoroutine(send_one(network.reactor, TCP, 1, "nobody's", 2, "x")))
        assert network.server.said(IM) == []

    def test_key_of_the_right_metadata(self, network: Network) -> None:
        """Pushes that come just before the ACK are not mistaken for its own."""
        server = network.server
        server.answer_messages = False
        sending = Deferred.fromCoroutine(send_one(network.reactor, TCP, 1, "one", 2, "x"))
        network.flush()
        [(theirs, seq, message)] = server.unanswered
        server.answer_messages = True
        server.post(9, 1, "push")
        server.peer_message(theirs, seq, message)
        server.post(9, 1, "push")
        assert network.now(sending).key == 3


class TestTokens:
    """imctl's own tokens."""

    @pytest.fixture
    def stub(self, admin: FakeAdmin) -> Any:
        return http_to(admin)

    def use(self, data: Path, stub: Any, network: Network, refused: tuple[str, ...] = ()) -> list[str]:
        """Which tokens it tried, in order."""
        tried: list[str] = []

        async def use(token: str) -> str:
            tried.append(token)
            if token in refused:
                raise SignInRefused
            return token

        operator = Operator(network.reactor, stub, "http://127.0.0.1:6666", KEY)
        used = Deferred.fromCoroutine(with_token(data, operator, 7, 5, use))
        stub.flush()
        assert now(used) == tried[-1]
        return tried

    def test_kept(self, data: Path, stub: Any, admin: FakeAdmin, network: Network) -> None:
        """One token for all calls, so that the user's own are not pushed out; as secret as the key."""
        assert self.use(data, stub, network) == ["token-7-5"]
        assert self.use(data, stub, network) == ["token-7-5"]
        assert len(admin.asked) == 1
        [file] = (data / "imctl").iterdir()
        assert file.read_text() == "token-7-5\n"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700

    def test_refused(self, data: Path, stub: Any, admin: FakeAdmin, network: Network) -> None:
        """One that was revoked is replaced."""
        (data / "imctl").mkdir()
        (data / "imctl" / "7-5.token").write_text("old\n")
        assert self.use(data, stub, network, refused=("old",)) == ["old", "token-7-5"]
        assert (data / "imctl" / "7-5.token").read_text() == "token-7-5\n"

    def test_new_one_refused(self, data: Path, stub: Any, network: Network) -> None:
        """When a new one is refused too, that is the answer."""
        with pytest.raises(SignInRefused):
            self.use(data, stub, network, refused=("token-7-5",))

    def test_cannot_be_kept(self, data: Path, stub: Any, network: Network) -> None:
        """A directory that is none."""
        (data / "imctl").write_text("")
        with pytest.raises(Complaint, match="the token in"):
            self.use(data, stub, network)


class TestAccount:
    """Where to, and as whom."""

    def use(
        self, data: Path, network: Network, token: str | None, address: str | None, websocket: bool = False
    ) -> tuple[str, str]:
        async def work(address: str, token: str) -> tuple[str, str]:
            if token == "bad":
                raise SignInRefused
            return address, token

        account = Account(Imctl(None, str(data), False), network.reactor, 7, 1, token, address, websocket)
        return now(Deferred.fromCoroutine(account.use(work)))

    def test_given(self, tmp_path: Path, network: Network) -> None:
        """With a token and an address no data directory is needed."""
        assert self.use(tmp_path, network, "t", "tls:im.example.com:1") == ("tls:im.example.com:1", "t")

    def test_found(self, data: Path, network: Network) -> None:
        """The data directory's server, over either transport."""
        assert self.use(data, network, "t", None) == (TCP, "t")
        assert self.use(data, network, "t", None, True) == ("ws://127.0.0.1:13891/ws", "t")

    @pytest.mark.parametrize(
        ("token", "address", "websocket", "complaint"),
        [
            ("bad", None, False, "refused the token.*imctl token 7 1"),
            ("t", "nowhere", False, "is no address"),
            ("t", TCP, True, "either --ws or --server"),
        ],
    )
    def test_mistakes(
        self, data: Path, network: Network, token: str, address: str | None, websocket: bool, complaint: str
    ) -> None:
        """One line each."""
        with pytest.raises(Complaint, match=complaint):
            self.use(data, network, token, address, websocket)


class TestListen:
    def test_prints(self, network: Network, capsys: pytest.CaptureFixture[str]) -> None:
        """What was missed and what comes, a line each, from the saved key; a signal ends it in good order."""
        server = network.server
        for text in ("seen", "missed"):
            server.post(1, 2, text)
        server.saved_keys[2] = 2
        listening = Deferred.fromCoroutine(print_messages(network.reactor, TCP, 2, "two", as_json=True))
        network.flush()
        server.post(1, 2, "new")
        network.flush()
        network.reactor.signal()
        network.now(listening)
        out, err = capsys.readouterr()
        lines = [json.loads(line) for line in out.splitlines()]
        assert [(line["key"], json.loads(line["content"])["text"]) for line in lines] == [(3, "missed"), (4, "new")]
        assert [line["pushed"] for line in lines] == [False, True]
        assert err == "-- listening\n"
        assert server.saved_keys == {2: 4}

    def test_reconnects(self, network: Network, capsys: pytest.CaptureFixture[str]) -> None:
        """Losing the connection is said on standard error, and loses nothing."""
        listening = Deferred.fromCoroutine(print_messages(network.reactor, TCP, 2, "two", as_json=False))
        network.flush()
        network.server.connections[0].drop()
        network.flush()
        network.server.post(1, 2, "meanwhile")
        network.advance(2)
        out, err = capsys.readouterr()
        assert out.endswith("  1 -> 2: meanwhile\n")
        assert [line[:12] for line in err.splitlines()] == ["-- listening", "-- closed by", "-- listening"]
        network.reactor.signal()
        network.now(listening)

    def test_nobody_reads(self, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        """`imctl listen | head -1` ends with head, and the message that found no reader was not said to be read."""

        def broken(text: str, err: bool = False) -> None:
            if not err:
                raise BrokenPipeError

        monkeypatch.setattr("imserver.cli.conversation.click.echo", broken)
        listening = Deferred.fromCoroutine(print_messages(network.reactor, TCP, 2, "two", as_json=False))
        network.flush()
        network.server.post(1, 2, "x")
        with pytest.raises(BrokenPipeError):
            network.now(listening)


class Talk:
    """A chat, with what it wrote."""

    def __init__(self, network: Network, uid: int, peer: int) -> None:
        self.network = network
        self.written: list[str] = []
        self.pauses: list[bool] = []
        token = {1: "one", 2: "two"}[uid]
        self.chat = Chat(network.reactor, TCP, uid, token, peer, self.written.append, self.pauses.append)
        self.ended = self.chat.client.run()
        network.flush()

    def types(self, text: str) -> None:
        self.chat.line(text)
        self.network.flush()

    def news(self) -> list[str]:
        """What it wrote since the last time."""
        news = self.written[:]
        self.written.clear()
        return news


@pytest.fixture
def talk(network: Network) -> Iterator[Callable[[int, int], Talk]]:
    talks: list[Talk] = []

    def start(uid: int, peer: int) -> Talk:
        talks.append(Talk(network, uid, peer))
        return talks[-1]

    yield start
    for one in talks:
        one.chat.client.stop()
        network.now(one.ended)


Start = Callable[[int, int], Talk]


class TestChat:
    def test_two_talk(self, talk: Start) -> None:
        """What one types, the other reads; each sees that the line was stored."""
        ada, bob = talk(1, 2), talk(2, 1)
        assert ada.news() == ["-- connected: you are 1, and talk to 2; Ctrl-D ends"]
        bob.news()
        ada.types("hello")
        bob.types("hi")
        assert ada.news() == ["-- stored", "2: hi"]
        assert bob.news() == ["1: hello", "-- stored"]
        ada.types("   ")
        assert ada.news() == []

    def test_not_stored(self, talk: Start, network: Network) -> None:
        """A line that the server refuses, with the reason."""
        ada = talk(1, 2)
        ada.news()
        network.server.ack_status = AckStatus.NOT_STORED
        ada.types("hello")
        assert ada.news() == ["-- NOT stored: the server could not store it; send it again"]
        assert ada.chat.lost == 1

    def test_too_long(self, talk: Start) -> None:
        """A line that no message can carry is not sent, and is no end of the chat."""
        ada = talk(1, 2)
        ada.news()
        ada.types("x" * 40_000)
        [line] = ada.news()
        assert line.startswith("-- NOT stored: the message is too long")
        ada.types("short")
        assert ada.news() == ["-- stored"]

    def test_reconnect(self, talk: Start, network: Network) -> None:
        """A lost connection is shown; what is typed meanwhile goes out afterwards, and does not come back as news."""
        ada = talk(1, 2)
        ada.types("before")
        ada.news()
        network.server.connections[0].drop()
        network.flush()
        network.refusing = True
        ada.types("meanwhile")
        network.advance(1)
        network.refusing = False
        lines = ada.news()
        assert lines[0].startswith("-- not connected: closed by the server; next attempt in ")
        assert lines[1].startswith("-- not connected: cannot connect to tcp:127.0.0.1:23000: ")
        network.advance(5)
        assert ada.news() == ["-- connected: you are 1, and talk to 2; Ctrl-D ends", "-- stored"]

    def test_ack_lost(self, talk: Start, network: Network) -> None:
        """A line whose ACK was lost with the connection is stored once and shown once."""
        ada = talk(1, 2)
        ada.news()
        [theirs] = network.server.connections
        theirs.write = lambda data: None
        ada.types("hello")
        theirs.drop()
        network.advance(3)
        assert [line for line in ada.news() if "connected" not in line] == ["-- stored"]
        assert len(network.server.timelines[2]) == 1

    def test_own_other_device(self, talk: Start, network: Network) -> None:
        """What the same user says elsewhere is shown as such, and who else writes is named."""
        ada = talk(1, 2)
        ada.news()
        network.server.store(1, Command.IM, IM(1, 2, 0, 0, b"from my phone").encode(2))
        network.server.post(3, 1, "a stranger")
        network.server.connections[0].send(RT(2, 1, b"typing").frame())
        network.flush()
        elsewhere, stranger, typing = ada.news()
        assert elsewhere == "you, elsewhere, to 2: from my phone"
        assert stranger == "3: a stranger"
        assert typing.endswith("RT 2 -> 1: typing")

    def test_end_waits_for_acks(self, talk: Start, network: Network) -> None:
        """Ctrl-D after a line does not lose the line."""
        ada = talk(1, 2)
        ada.chat.line("one")
        ada.chat.line("two")
        ada.chat.end()
        assert not ada.ended.called
        network.now(ada.ended)
        assert ada.news()[1:] == ["-- stored", "-- stored"]

    def test_much_input(self, talk: Start, network: Network) -> None:
        """A file piped in is read no faster than it is stored, and all of it is sent, in order, before the end."""
        network.server.answer_messages = False
        ada = talk(1, 2)
        for number in range(250):
            ada.chat.line(str(number))
        network.flush()
        assert set(ada.pauses) == {True}
        assert len(ada.chat.client._unsent) + len(ada.chat.client._by_seq) == 100
        ada.chat.end()
        network.server.answer_messages = True
        for theirs, seq, message in network.server.unanswered:
            network.server.peer_message(theirs, seq, message)
        network.now(ada.ended)
        assert ada.pauses[-1] is False
        texts = [json.loads(frame.bodies[2][24:])["text"] for frame in network.server.timelines[2]]
        assert texts == [str(number) for number in range(250)]
        assert ada.news().count("-- stored") == 250

    def test_refused_token(self, network: Network) -> None:
        """A token of nobody ends the chat."""
        chat = Chat(network.reactor, TCP, 1, "nobody's", 2, lambda line: None, lambda pause: None)
        with pytest.raises(SignInRefused):
            network.now(chat.client.run())
        assert network.server.said(AuthToken)

    def test_self_is_not_shown(self, talk: Start, network: Network) -> None:
        """What comes back marked as sent from here is no news."""
        ada = talk(1, 2)
        ada.news()
        own = stored_frame(Command.IM, Flag.PUSH | Flag.SELF, IM(1, 2, 0, 0, b"x").encode(2))
        network.server.connections[0].send(Metadata(2, 1).frame(), own, SyncNotify(2).frame())
        network.flush()
        assert ada.chat.client.key == 2
        assert ada.news() == []


class TestTerminal:
    def test_lines(self) -> None:
        """Lines come out whole, however they came in; the last may lack its end."""
        lines: list[str] = []
        ends: list[bool] = []
        terminal = Terminal(lines.append, lambda: ends.append(True))
        assert verifyObject(IHalfCloseableProtocol, terminal)
        for part in (b"on", b"e\ntwo\r\n\nf\xc3", b"\xbcnf"):
            terminal.dataReceived(part)
        assert lines == ["one", "two", ""]
        terminal.readConnectionLost()
        assert lines == ["one", "two", "", "fünf"]
        assert ends == [True]
        assert not terminal.lost.called

    def test_endless_line(self) -> None:
        """Input without ends of lines is not gathered for ever."""
        lines: list[str] = []
        terminal = Terminal(lines.append, lambda: None)
        for _ in range(5):
            terminal.dataReceived(b"x" * 30_000)
        assert [len(line) for line in lines] == [90_000]

    def test_output_gone(self) -> None:
        """When nobody reads the output any more the chat ends, and nothing waits for the output."""
        ends: list[bool] = []
        terminal = Terminal(lambda line: None, lambda: ends.append(True))
        terminal.writeConnectionLost()
        assert ends == [True]
        now(terminal.lost)
