"""Calls by method, with the metric names of gRPC's own middlewares (go-grpc-prometheus), and batches of calls."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.instruments import REGISTRY, Histogram
from vsyncd.observability.tracing import TRACES

_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


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
        """Counts a sent message of a stream."""
        self.sent += 1

    def end(self, code: str, seconds: float) -> None:
        """Counts a completed call."""
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds.observe(seconds)


class CallCollector(Collector):
    """The metrics of each served method, and the sizes of batches by name."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodMetrics] = {}
        self._batch_sizes: dict[str, Histogram] = {}

    def method(self, name: str, *, grpc_type: str) -> MethodMetrics:
        """Returns the metrics of a method by its full name.

        `grpc_type` is unary, client_stream, server_stream or bidi_stream.
        """
        service, _, method = name.partition("/")
        return self._methods.setdefault(name, MethodMetrics((grpc_type, service, method)))

    def batch_sizes(self, name: str) -> Histogram:
        """Returns the histogram of the sizes of batches with this name."""
        return self._batch_sizes.setdefault(name, Histogram(_BATCH_SIZES))

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
        batches = HistogramMetricFamily("vsyncd_batch_calls", "Calls per coalesced statement.", labels=["batch"])
        for name, sizes in list(self._batch_sizes.items()):
            batches.add_metric([name], sizes.buckets(), sizes.total)
        return started, handled, seconds, received, sent, in_flight, batches


CALLS: Final = CallCollector()
REGISTRY.register(CALLS)


class BatchInstruments:
    """The metrics and spans of one coalescer. `name` is the label `batch` of the metric."""

    def __init__(self, name: str) -> None:
        self._name = f"batch {name}"
        self.observe = CALLS.batch_sizes(name).observe
        self.current_span = TRACES.current_span

    def batch(self, members: Sequence[object]) -> AbstractContextManager[None]:
        """Returns a span around one flush, linked to the members' spans."""
        return TRACES.batch(self._name, members)
