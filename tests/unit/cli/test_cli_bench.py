"""The load test: what it counts, and that it finds what is wrong."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from twisted.internet.defer import Deferred

from imserver.cli.bench import _read_tokens
from imserver.cli.complaint import Complaint
from imserver.cli.load import Latencies, Load, Tally, describe, is_loopback
from imserver.client import parse_address
from imserver.protocol.commands import AckStatus, Command
from imserver.protocol.messages import IM
from tests.fakes.admin import FakeAdmin
from tests.fakes.server import FakeConnection, FakeServer, Network

USERS = [(1, "one"), (2, "two"), (3, "three"), (4, "four")]


class TestLatencies:
    def test_percentiles(self) -> None:
        """To within 1 %, and the largest exactly."""
        latencies = Latencies()
        for number in range(1, 1001):
            latencies.add(number / 1000)
        assert latencies.percentile(0.5) == pytest.approx(0.5, rel=0.011)
        assert latencies.percentile(0.99) == pytest.approx(0.99, rel=0.011)
        assert latencies.percentile(1.0) == 1.0
        assert latencies.in_milliseconds()["max"] == 1000.0

    def test_none(self) -> None:
        """Nothing was measured."""
        assert Latencies().in_milliseconds() == {"p50": 0, "p90": 0, "p99": 0, "max": 0}

    def test_extremes(self) -> None:
        """A clock that stood still, and an hour."""
        latencies = Latencies()
        latencies.add(0.0)
        latencies.add(3600.0)
        assert latencies.percentile(0.5) < 2e-6
        assert latencies.percentile(1.0) == 3600.0


class TestTally:
    def test_finds_what_is_wrong(self) -> None:
        """Each fault is counted once, for what it is."""
        tally = Tally()
        numbers = [tally.send(float(number)) for number in range(6)]
        assert numbers == list(range(6))
        for number in (0, 1, 2, 3, 4):
            tally.acked(number)
        first = [tally.arrived(number) for number in (0, 2, 1, 1, 5)]
        assert first == [True, True, True, False, True]
        assert (tally.missing, tally.duplicates, tally.out_of_order) == (2, 1, 1)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.5.6.7", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.5", False),
        ("localhost.example.com", False),
        ("0.0.0.0", False),
    ],
)
def test_is_loopback(host: str, local: bool) -> None:
    """Only this machine is."""
    assert is_loopback(host) is local


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    network.server.tokens = {token.encode(): uid for uid, token in USERS}
    yield network
    network.flush()
    assert network.reactor.getDelayedCalls() == []


def run_load(
    network: Network,
    address: str = "tcp:127.0.0.1:23000",
    meanwhile: Callable[[FakeServer], None] = lambda server: None,
) -> dict[str, Any]:
    """One second of load, and time enough for the rest."""
    shares: list[float] = []
    load = Load(network.reactor, parse_address(address), USERS, window=2, size=150)
    running = Deferred.fromCoroutine(load.run(1.0, shares.append))
    for number in range(4 * 15):
        # Every ACK brings the next message at once: with a window this would go on for ever in one flush.
        network.reactor.advance(0.25)
        network._complete_connections()
        for pump in list(network._pumps):
            for _ in range(8):
                pump.pump()
        if number == 2:
            meanwhile(network.server)
    network.flush()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return network.now(running)


class TestLoad:
    @pytest.mark.parametrize("address", ["tcp:127.0.0.1:23000", "ws://127.0.0.1:13891/ws"])
    def test_well(self, network: Network, address: str) -> None:
        """A good server: all that was sent was acknowledged and arrived, over either transport."""
        figures = run_load(network, address)
        assert figures["well"] is True
        assert figures["sent"] == figures["acked"] == figures["delivered"] > 10
        assert figures["acked_per_s"] > 0
        assert (figures["missing"], figures["duplicates"], figures["out_of_order"]) == (0, 0, 0)
        assert (figures["unacked"], figures["refused"], figures["reconnects"]) == (0, {}, 0)
        sizes = {len(message.content) for message in network.server.said(IM)}
        assert sizes == {150}
        assert network.server.connections == []
        text = describe(figures)
        assert "messages acknowledged per second" in text
        assert "missing                     0" in text

    def test_lost_messages(self, network: Network) -> None:
        """A server that acknowledges and forgets is found out."""
        store = network.server.store

        def forgetful(uid: int, command: int, body: bytes, origin: FakeConnection | None = None) -> int:
            return 0 if uid == 3 else store(uid, command, body, origin)

        network.server.store = forgetful  # type: ignore[method-assign]  # a fault
        figures = run_load(network)
        assert figures["missing"] > 0
        assert figures["well"] is False

    def test_refused(self, network: Network) -> None:
        """A server that stores nothing is told with its reason."""
        network.server.ack_status = AckStatus.NOT_STORED
        figures = run_load(network)
        assert figures["acked"] == 0
        assert figures["refused"]["the server could not store it; send it again"] == figures["sent"]
        assert figures["well"] is False
        assert "the server could not store it" in describe(figures)

    def test_sent_twice(self, network: Network) -> None:
        """A message that comes under two keys is a duplicate."""

        def again(server: FakeServer) -> None:
            body = server.timelines[3][0].bodies[2]
            server.store(3, Command.IM, body)

        figures = run_load(network, meanwhile=again)
        assert figures["duplicates"] == 1
        assert figures["well"] is False

    def test_foreign_messages(self, network: Network) -> None:
        """What others say, or an earlier run left, does not count."""
        network.server.post(9, 3, "from before")
        assert run_load(network)["well"] is True

    def test_reconnect(self, network: Network) -> None:
        """A connection that is lost on the way is counted, and loses nothing."""
        figures = run_load(network, meanwhile=lambda server: server.connections_of(3)[0].drop())
        assert figures["reconnects"] == 1
        assert figures["well"] is True

    def test_nobody_signs_in(self, network: Network) -> None:
        """A refused token ends it, with the reason, and leaves nobody connected."""
        load = Load(network.reactor, parse_address("tcp:127.0.0.1:23000"), [(1, "one"), (2, "x")], 1, 100)
        with pytest.raises(Complaint, match="a client could not sign in: the server refused the token"):
            network.now(Deferred.fromCoroutine(load.run(1.0, lambda share: None)))
        network.flush()
        assert network.server.connections == []

    def test_no_server(self, network: Network) -> None:
        """Nobody listens: it ends in time."""
        network.refusing = True
        load = Load(network.reactor, parse_address("tcp:127.0.0.1:23000"), USERS, 1, 100)
        running = Deferred.fromCoroutine(load.run(1.0, lambda share: None))
        network.advance(61, step=1)
        with pytest.raises(Complaint, match=r"could sign in within 60 s: cannot connect to"):
            network.now(running)

    def test_stopped_before_it_began(self, network: Network) -> None:
        """Ctrl-C while signing in."""
        network.server.answer_sign_ins = False
        load = Load(network.reactor, parse_address("tcp:127.0.0.1:23000"), USERS, 1, 100)
        running = Deferred.fromCoroutine(load.run(1.0, lambda share: None))
        network.flush()
        load.stop()
        with pytest.raises(click.Abort):
            network.now(running)

    def test_stopped_early(self, network: Network) -> None:
        """Ctrl-C while sending: what was sent is waited for and told."""
        load = Load(network.reactor, parse_address("tcp:127.0.0.1:23000"), USERS, 1, 100)
        running = Deferred.fromCoroutine(load.run(1000.0, lambda share: None))
        network._complete_connections()
        for _ in range(20):
            network.reactor.advance(0.01)
            for pump in network._pumps:
                pump.pump()
        load.stop()
        network.advance(1)
        figures = network.now(running)
        assert figures["well"] is True
        assert figures["seconds"] < 1


class TestCommand:
    def test_not_this_machine(self, call: Callable[..., Result], tmp_path: Path) -> None:
        """Other machines are loaded only by those who say that they may."""
        (tmp_path / "tokens").write_text("1 a\n2 b\n")
        result = call("bench", "--server", "tcp:10.1.2.3:23000", "--tokens", f"{tmp_path}/tokens")
        assert result.exit_code == 1
        assert "is not on this machine" in result.stderr

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("--server", "tcp:127.0.0.1:1"), "needs --tokens FILE"),
            (("--server", "tcp:127.0.0.1:1", "--ws"), "either --ws or --server"),
            (("--pairs", "0"), "0 is not in the range"),
            (("--tokens", "/nonexistent"), "No such file"),
        ],
    )
    def test_mistakes(self, call: Callable[..., Result], words: tuple[str, ...], complaint: str) -> None:
        """One line each, before anything is sent."""
        result = call("bench", *words)
        assert result.exit_code != 0
        assert complaint in result.stderr

    def test_too_few_users(self, call: Callable[..., Result], admin: FakeAdmin, tmp_path: Path) -> None:
        """A file with one pair for two pairs."""
        (tmp_path / "tokens").write_text("1 a\n2 b\n")
        result = call("bench", "--pairs", "2", "--tokens", f"{tmp_path}/tokens")
        assert result.exit_code == 1
        assert "2 pairs need 4 users, but there are 2" in result.stderr

    def test_tokens_file(self) -> None:
        """As `imctl token` prints them; anything else with its line."""
        assert _read_tokens(io.StringIO("1 a\n2 b\n")) == [(1, "a"), (2, "b")]
        for text in ("1 a\n2\n", "1 a\nx b\n", "1 a\n\n"):
            file = io.StringIO(text)
            file.name = "tokens.txt"
            with pytest.raises(Complaint, match=r'line 2 of tokens.txt is not "uid token"'):
                _read_tokens(file)
