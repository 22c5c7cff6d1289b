"""What Prometheus reads."""

import platform

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from imserver import __version__
from imserver.metrics import CommandCounter, Counter, Gauge, Histogram, Metrics
from imserver.protocol.commands import Command
from tests.http.server import Server

TYPES = {Counter: "counter", CommandCounter: "counter", Gauge: "gauge", Histogram: "histogram"}


def shown(server: Server) -> dict[str, Metric]:
    answer = server.call("GET", "/metrics", authorization=None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.content.decode())}


def samples(family: Metric) -> dict[tuple[str, str], float]:
    """By sample name and the value of the only label."""
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in family.samples}


def test_every_metric_is_shown() -> None:
    """Each metric of `Metrics` has its HELP and its TYPE, also before anything was counted."""
    families = shown(Server())
    everything = vars(Metrics()).values()
    assert len(everything) > 20
    for metric in everything:
        name = metric.name.removesuffix("_total") if TYPES[type(metric)] == "counter" else metric.name
        assert (families[name].type, families[name].documentation) == (TYPES[type(metric)], metric.help)


def test_counters() -> None:
    """A counter shows its count, one with a label the count of each value, whatever characters it has."""
    server = Server()
    assert samples(shown(server)["imserver_resends"]) == {("imserver_resends_total", ""): 0}
    assert samples(shown(server)["imserver_closed"]) == {}
    server.metrics.resends.inc(by=3)
    server.metrics.closed.inc("idle")
    server.metrics.closed.inc('a "quoted"\n\\ reason', 2)
    families = shown(server)
    assert samples(families["imserver_resends"]) == {("imserver_resends_total", ""): 3}
    assert samples(families["imserver_closed"]) == {
        ("imserver_closed_total", "idle"): 1,
        ("imserver_closed_total", 'a "quoted"\n\\ reason'): 2,
    }
    assert {tuple(sample.labels) for sample in families["imserver_closed"].samples} == {("reason",)}


def test_commands_are_named() -> None:
    """Frames are counted by the name of their command; a number without a name stays a number."""
    server = Server()
    server.metrics.frames_in.counts[Command.IM] = 5
    server.metrics.frames_in.counts[Command.CUSTOMER_V2] = 1
    server.metrics.frames_in.counts[255] = 2
    assert samples(shown(server)["imserver_frames_in"]) == {
        ("imserver_frames_in_total", "IM"): 5,
        ("imserver_frames_in_total", "CUSTOMER_V2"): 1,
        ("imserver_frames_in_total", "255"): 2,
    }


def test_gauges_are_read_when_asked() -> None:
    """A gauge shows the figure of the moment."""
    server = Server()
    figures = {"tcp": 1.0, "websocket": 2.0}
    server.metrics.connections.read = lambda: figures
    shown(server)
    figures["tcp"] = 7.0
    families = shown(server)
    assert samples(families["imserver_connections"]) == {
        ("imserver_connections", "tcp"): 7,
        ("imserver_connections", "websocket"): 2,
    }
    assert samples(families["imserver_users"]) == {("imserver_users", ""): 0}


def test_histograms_are_cumulative() -> None:
    """A bucket has all observations up to its bound, the last one all; sum and count agree."""
    server = Server()
    for size in (1, 2, 3, 5000):
        server.metrics.batch_size.observe(size)
    family = samples(shown(server)["imserver_commit_batch"])
    buckets = [value for (name, _), value in family.items() if name == "imserver_commit_batch_bucket"]
    assert buckets == [1, 2, *([3] * 9), 4]
    assert family["imserver_commit_batch_bucket", "2.0"] == 2
    assert family["imserver_commit_batch_bucket", "+Inf"] == 4
    assert family["imserver_commit_batch_sum", ""] == 5006
    assert family["imserver_commit_batch_count", ""] == 4


def test_process_and_build() -> None:
    """Memory, CPU time and file descriptors of the process are there, and what version runs."""
    families = shown(Server())
    assert samples(families["process_resident_memory_bytes"])["process_resident_memory_bytes", ""] > 1_000_000
    assert samples(families["process_cpu_seconds"])["process_cpu_seconds_total", ""] > 0
    assert samples(families["process_open_fds"])["process_open_fds", ""] > 2
    (build,) = families["imserver_build_info"].samples
    assert (build.labels, build.value) == ({"version": __version__, "python": platform.python_version()}, 1)


def test_answers_are_counted() -> None:
    """Each answer counts by its status, the looks of Prometheus too."""
    server = Server()
    server.call("GET", "/healthz")
    server.call("GET", "/nothing")
    server.call("GET", "/admin/apps", authorization="Bearer wrong")
    assert samples(shown(server)["imserver_http_requests"]) == {
        ("imserver_http_requests_total", "200"): 1,
        ("imserver_http_requests_total", "404"): 1,
        ("imserver_http_requests_total", "401"): 1,
    }
    assert samples(shown(server)["imserver_http_requests"])["imserver_http_requests_total", "200"] == 2
