"""Who may come: connections in all and by address, failed sign-ins by address."""

from resource import RLIM_INFINITY, RLIMIT_NOFILE

import msgspec
import pytest
from twisted.internet.task import Clock

from imserver.metrics import Metrics
from imserver.model import Limits
from imserver.net.limits import Admission, most_connections

HERE, THERE = "192.0.2.1", "192.0.2.2"


def admission(**limits: int) -> tuple[Admission, Metrics, Clock]:
    metrics, clock = Metrics(), Clock()
    return Admission(msgspec.structs.replace(Limits(), **limits), metrics, clock), metrics, clock


def test_connections_in_all() -> None:
    """Over the total nobody comes in until somebody leaves."""
    gate, metrics, _ = admission(connections=2)
    assert [gate.admit(HERE), gate.admit(THERE), gate.admit(HERE), gate.admit("192.0.2.3")] == [
        True,
        True,
        False,
        False,
    ]
    assert metrics.refused.values == {"connections": 2}
    gate.release(THERE)
    assert gate.admit("192.0.2.3")
    assert not gate.admit(HERE)


def test_connections_by_address() -> None:
    """Over its own limit an address gets no more, others do."""
    gate, metrics, _ = admission(connections_per_address=2)
    assert [gate.admit(HERE) for _ in range(3)] == [True, True, False]
    assert gate.admit(THERE)
    assert metrics.refused.values == {"address": 1}
    gate.release(HERE)
    assert gate.admit(HERE)
    assert not gate.admit(HERE)


def test_no_limit() -> None:
    """0 means no limit."""
    gate, metrics, _ = admission(connections=0, connections_per_address=0, failed_sign_ins_per_address=0)
    assert all(gate.admit(HERE) for _ in range(1_000))
    for _ in range(1_000):
        gate.sign_in_failed(HERE)
    assert gate.may_sign_in(HERE)
    assert metrics.refused.values == {}


def test_addresses_are_forgotten() -> None:
    """An address without connections takes no memory."""
    gate, _, _ = admission()
    for number in range(100):
        assert gate.admit(f"192.0.2.{number}")
    for number in range(100):
        gate.release(f"192.0.2.{number}")
    assert gate._by_address == {}
    assert gate._total == 0


def test_moving_to_another_address() -> None:
    """A connection behind a proxy counts for the client's address, no longer for the proxy's."""
    gate, metrics, _ = admission(connections_per_address=2)
    assert gate.admit(HERE)
    assert gate.move(HERE, THERE)
    assert gate._by_address == {THERE: 1}
    assert gate.admit(THERE)
    assert gate.admit(HERE)
    assert not gate.move(HERE, THERE)
    assert gate._by_address == {HERE: 1, THERE: 2}, "it stays what it was"
    assert metrics.refused.values == {"address": 1}


def test_moving_needs_no_second_place() -> None:
    """The last connection that fits may say where it comes from, also if that is where it is."""
    gate, metrics, _ = admission(connections=1, connections_per_address=1)
    assert gate.admit(HERE)
    assert gate.move(HERE, THERE)
    assert gate.move(THERE, THERE)
    assert metrics.refused.values == {}


def test_failed_sign_ins() -> None:
    """After so many failures in a window the address has to wait for the next; others do not."""
    gate, _, clock = admission(failed_sign_ins_per_address=3)
    clock.advance(1_000)
    for _ in range(3):
        assert gate.may_sign_in(HERE)
        gate.sign_in_failed(HERE)
    assert not gate.may_sign_in(HERE)
    assert gate.may_sign_in(THERE)
    clock.advance(59)
    assert not gate.may_sign_in(HERE)
    clock.advance(1)
    assert gate.may_sign_in(HERE)
    assert gate._failures == {}


@pytest.mark.parametrize(
    ("files", "wanted", "most"),
    [
        (1_256, 2_000, 1_000),
        (1_256, 500, 500),
        (1_256, 0, 1_000),
        (100, 500, 1),
        (RLIM_INFINITY, 500, 500),
        (RLIM_INFINITY, 0, 0),
    ],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, files: int, wanted: int, most: int) -> None:
    """The process allows itself all the files that it may, and leaves 256 of them for other things than clients."""
    allowed: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr("imserver.net.limits.getrlimit", lambda kind: {RLIMIT_NOFILE: (64, files)}[kind])
    monkeypatch.setattr("imserver.net.limits.setrlimit", allowed.__setitem__)
    assert most_connections(wanted) == most
    assert allowed == {RLIMIT_NOFILE: (files, files)}
