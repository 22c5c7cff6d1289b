"""`imserver.metrics.Metrics` as Prometheus reads it."""

import platform
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.web.iweb import IRequest

from imserver import __version__
from imserver.http.calls import Reply, Route
from imserver.metrics import CommandCounter, Counter, Gauge, Histogram, Metrics
from imserver.protocol.commands import Command


class _ServerCollector(Collector):
    """All that is in a `Metrics`, read when somebody looks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily(
            "imserver_build", "What runs here.", {"version": __version__, "python": platform.python_version()}
        )
        for metric in vars(self._metrics).values():
            yield _family(metric)


def _family(metric: object) -> Metric:
    match metric:
        case Counter():
            counter = CounterMetricFamily(metric.name, metric.help, labels=[metric.label] if metric.label else [])
            for value, count in metric.values.items():
                counter.add_metric([value] if metric.label else [], count)
            return counter
        case Gauge():
            gauge = GaugeMetricFamily(metric.name, metric.help, labels=[metric.label] if metric.label else [])
            for value, figure in metric.read().items():
                gauge.add_metric([value] if metric.label else [], figure)
            return gauge
        case Histogram():
            return _histogram(metric)
        case CommandCounter():
            by_command = CounterMetricFamily(metric.name, metric.help, labels=["command"])
            for number, count in enumerate(metric.counts):
                if count:
                    by_command.add_metric([_command_name(number)], count)
            return by_command
        case _:
            raise TypeError(f"no way to show a {type(metric).__name__} to Prometheus")


def _histogram(metric: Histogram) -> HistogramMetricFamily:
    buckets, total = [], 0
    for bound, count in zip((*(str(float(bound)) for bound in metric.bounds), "+Inf"), metric.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    histogram = HistogramMetricFamily(metric.name, metric.help)
    histogram.add_metric([], buckets, metric.sum)
    return histogram


def _command_name(number: int) -> str:
    try:
        return Command(number).name
    except ValueError:
        return str(number)


def routes(metrics: Metrics) -> Sequence[Route]:
    registry = CollectorRegistry()
    registry.register(_ServerCollector(metrics))
    ProcessCollector(registry=registry)  # memory, CPU time, file descriptors

    async def show(request: IRequest) -> Reply:
        return Reply(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return (Route("GET", "/metrics", show),)
