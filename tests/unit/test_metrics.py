"""The server's figures: what they count, and that each has a name that Prometheus and its users understand."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.metrics import CommandCounter, Counter, Gauge, Histogram, Metrics

FIGURES = vars(Metrics()).items()


def test_counter_without_label() -> None:
    """It stands at 0 before anything happened, so that a rate can be taken from the start."""
    counter = Counter("c_total", "C.")
    assert counter.values == {"": 0}
    counter.inc()
    counter.inc(by=3)
    assert counter.values == {"": 4}


def test_counter_with_label() -> None:
    """Each value of the label has a count of its own, and no count stands without a value."""
    counter = Counter("c_total", "C.", "reason")
    assert counter.values == {}
    counter.inc("full")
    counter.inc("idle", 2)
    counter.inc("full")
    assert counter.values == {"full": 2, "idle": 2}


def test_gauge_is_read_when_somebody_looks() -> None:
    """Before anybody gives it something to read it has no figure; then it has that of the moment."""
    gauge = Gauge("g", "G.")
    assert gauge.read() == {}
    waiting = [1, 2]
    gauge.read = lambda: {"": len(waiting)}
    assert gauge.read() == {"": 2}
    waiting.append(3)
    assert gauge.read() == {"": 3}


def test_histogram_bounds_include_themselves() -> None:
    """An observation at a bound counts there, one above the last bound in the last place."""
    histogram = Histogram("h", "H.", (1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.001, 1000):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.sum == 0 + 1 + 1.5 + 2 + 4 + 4.001 + 1000


@given(
    st.lists(st.integers(-100, 100), min_size=1, max_size=8, unique=True).map(sorted),
    st.lists(st.integers(-120, 120), max_size=30),
)
def test_histogram_counts_what_is_at_most_each_bound(bounds: list[int], values: list[int]) -> None:
    """Added up, as Prometheus shows them, the counts say how many observations were at most each bound."""
    histogram = Histogram("h", "H.", bounds)
    for value in values:
        histogram.observe(value)
    for place, bound in enumerate([*bounds, math.inf]):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)
    assert histogram.sum == sum(values)


def test_command_counter_has_a_place_for_each_command() -> None:
    """Whatever number a frame's command has, it can be counted."""
    counter = CommandCounter("f_total", "F.")
    for command in range(256):
        counter.counts[command] += command
    assert counter.counts == list(range(256))


def test_servers_share_no_figures() -> None:
    """Two servers in one process, as in tests, count apart."""
    one, other = Metrics(), Metrics()
    one.resends.inc()
    one.closed.inc("idle")
    one.frames_in.counts[4] += 1
    one.ack_seconds.observe(0.1)
    one.rooms.read = lambda: {"": 1}
    assert other.resends.values == {"": 0}
    assert other.closed.values == {}
    assert sum(other.frames_in.counts) == sum(other.ack_seconds.counts) == 0
    assert other.rooms.read() == {}


def test_names_are_unique() -> None:
    """No two figures have one name."""
    names = [figure.name for _, figure in FIGURES]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(("attribute", "figure"), FIGURES, ids=lambda value: value if isinstance(value, str) else "")
def test_names_follow_prometheus(attribute: str, figure: Counter | Gauge | Histogram | CommandCounter) -> None:
    """Names begin with imserver and say by their end what they count; the help is a sentence."""
    assert re.fullmatch(r"imserver(_[a-z]+)+", figure.name)
    assert figure.name.endswith("_total") == isinstance(figure, Counter | CommandCounter)
    assert re.fullmatch(r"[A-Z].+\.", figure.help)
    if isinstance(figure, Counter | Gauge):
        assert re.fullmatch(r"[a-z]*", figure.label)
    if isinstance(figure, Histogram):
        assert figure.name.endswith("_seconds") == attribute.endswith("_seconds")
        assert list(figure.bounds) == sorted(set(figure.bounds))
        assert len(figure.counts) == len(figure.bounds) + 1


def test_latencies_reach_the_clients_patience() -> None:
    """Clients wait 5 s for an ACK: the histogram tells those that came in time from those that did not."""
    assert Metrics().ack_seconds.bounds[-1] == 5
