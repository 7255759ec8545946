"""Calls by method, with the metric names of gRPC's own middlewares (go-grpc-prometheus)."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.instruments import REGISTRY, Histogram

_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")


class MethodMetrics:
    """The calls of one method. `handled` counts them by code, spelled as in Go (OK, NotFound); `seconds` are the
    durations of the completed calls."""

    __slots__ = ("handled", "labels", "received", "seconds", "sent", "started")

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = {"OK": 0}
        self.seconds = Histogram()

    def count_sent(self) -> None:
        self.sent += 1

    def end(self, code: str, seconds: float) -> None:
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds.observe(seconds)


class CallCollector(Collector):
    """The metrics of each served method."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodMetrics] = {}

    def method(self, name: str, *, grpc_type: str) -> MethodMetrics:
        """Returns the metrics of a method by its full name.

        `grpc_type` is unary, client_stream, server_stream or bidi_stream.
        """
        service, _, method = name.partition("/")
        return self._methods.setdefault(name, MethodMetrics((grpc_type, service, method)))

    def collect(self) -> Iterable[Metric]:
        started = CounterMetricFamily("grpc_server_started", "Calls started.", labels=_METHOD)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls completed, by code.", labels=(*_METHOD, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received.", labels=_METHOD)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent.", labels=_METHOD)
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Durations of calls.", labels=_METHOD)
        in_flight = GaugeMetricFamily("vsyncd_calls_in_flight", "Calls in flight.", labels=_METHOD)
        for method in list(self._methods.values()):
            labels = method.labels
            started.add_metric(labels, method.started)
            by_code = list(method.handled.items())
            for code, count in by_code:
                handled.add_metric((*labels, code), count)
            received.add_metric(labels, method.received)
            sent.add_metric(labels, method.sent)
            in_flight.add_metric(labels, method.started - sum(count for _, count in by_code))
            if method.started:
                seconds.add_metric(labels, method.seconds.buckets(), method.seconds.total)
        return started, handled, seconds, received, sent, in_flight


CALLS: Final = CallCollector()
REGISTRY.register(CALLS)
