"""Calls, by method: the metrics that gRPC's own middlewares agree on (go-grpc-prometheus), and calls in flight.

Codes are spelled as there (OK, NotFound, DeadlineExceeded), so that dashboards and rules that exist elsewhere fit.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.histogram import Histogram
from vsyncd.observability.metrics.registry import REGISTRY

_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")


class MethodMetrics:
    """The calls of one method. `handled` counts by code; `seconds` are the durations of those that have ended."""

    __slots__ = ("handled", "labels", "received", "seconds", "sent", "started")

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = {"OK": 0}
        self.seconds = Histogram()

    def count_sent(self) -> None:
        """One message of a stream was sent."""
        self.sent += 1

    def end(self, code: str, seconds: float) -> None:
        """A call has ended."""
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds.observe(seconds)


class RpcCollector(Collector):
    """A tally for each method that is served."""

    def __init__(self) -> None:
        self._tallies: dict[str, MethodMetrics] = {}

    def method(self, name: str, *, grpc_type: str) -> MethodMetrics:
        """The tally of a method. `name` is the full one; `grpc_type`: unary, client_stream, server_stream or
        bidi_stream."""
        service, _, method = name.partition("/")
        return self._tallies.setdefault(name, MethodMetrics((grpc_type, service, method)))

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        started = CounterMetricFamily("grpc_server_started", "Calls that began.", labels=_METHOD)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that ended, by code.", labels=(*_METHOD, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received.", labels=_METHOD)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent.", labels=_METHOD)
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Durations of calls.", labels=_METHOD)
        in_flight = GaugeMetricFamily("vsyncd_calls_in_flight", "Calls being served now.", labels=_METHOD)
        for tally in list(self._tallies.values()):
            labels = tally.labels
            started.add_metric(labels, tally.started)
            by_code = list(tally.handled.items())
            ended = sum(count for _, count in by_code)
            for code, count in by_code:
                handled.add_metric((*labels, code), count)
            received.add_metric(labels, tally.received)
            sent.add_metric(labels, tally.sent)
            in_flight.add_metric(labels, tally.started - ended)
            if tally.started:
                seconds.add_metric(labels, tally.seconds.buckets(), tally.seconds.total)
        return started, handled, seconds, received, sent, in_flight


RPCS: Final = RpcCollector()
REGISTRY.register(RPCS)
