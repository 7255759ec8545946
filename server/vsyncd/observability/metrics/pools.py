"""Connection pools, as psycopg_pool counts them (AsyncConnectionPool.get_stats, which leaves out what is 0)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.registry import REGISTRY

Stats = Callable[[], Mapping[str, int]]

# Name, what psycopg_pool calls it, meaning; counters: how many of its units make one of ours, too.
_GAUGES: Final = (
    ("vsyncd_pool_min_connections", "pool_min", "Connections that the pool keeps open."),
    ("vsyncd_pool_max_connections", "pool_max", "The most connections that the pool opens."),
    ("vsyncd_pool_size", "pool_size", "Connections of the pool, those being made included."),
    ("vsyncd_pool_waiting", "requests_waiting", "Requests that wait for a connection now."),
)
_COUNTERS: Final = (
    ("vsyncd_pool_requests", "requests_num", 1, "Requests for a connection."),
    ("vsyncd_pool_requests_queued", "requests_queued", 1, "Requests that had to wait for a connection."),
    ("vsyncd_pool_wait_seconds", "requests_wait_ms", 1000, "Time that requests waited for a connection."),
    ("vsyncd_pool_request_errors", "requests_errors", 1, "Requests that got no connection."),
    ("vsyncd_pool_usage_seconds", "usage_ms", 1000, "Time that connections were in use."),
    ("vsyncd_pool_bad_returns", "returns_bad", 1, "Connections that came back broken."),
    ("vsyncd_pool_connects", "connections_num", 1, "Attempts to connect."),
    ("vsyncd_pool_connect_seconds", "connections_ms", 1000, "Time that connecting took."),
    ("vsyncd_pool_connect_errors", "connections_errors", 1, "Attempts to connect that failed."),
    ("vsyncd_pool_lost_connections", "connections_lost", 1, "Connections found broken by a check."),
)


class PoolCollector(Collector):
    """The pools of this process, by name."""

    def __init__(self) -> None:
        self._pools: dict[str, Stats] = {}

    def add(self, name: str, stats: Stats) -> None:
        """Read a pool from now on."""
        self._pools[name] = stats

    def remove(self, name: str, stats: Stats) -> None:
        """Read it no more, unless another one has taken its name."""
        if self._pools.get(name) == stats:
            del self._pools[name]

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        pools = {name: stats() for name, stats in list(self._pools.items())}
        connections = GaugeMetricFamily(
            "vsyncd_pool_connections", "Connections of the pool, by state.", labels=["pool", "state"]
        )
        for pool, stats in pools.items():
            idle = stats.get("pool_available", 0)
            connections.add_metric([pool, "idle"], idle)
            connections.add_metric([pool, "used"], max(0, stats.get("pool_size", 0) - idle))
        yield connections
        for name, key, meaning in _GAUGES:
            gauge = GaugeMetricFamily(name, meaning, labels=["pool"])
            for pool, stats in pools.items():
                gauge.add_metric([pool], stats.get(key, 0))
            yield gauge
        for name, key, divisor, meaning in _COUNTERS:
            counter = CounterMetricFamily(name, meaning, labels=["pool"])
            for pool, stats in pools.items():
                counter.add_metric([pool], stats.get(key, 0) / divisor)
            yield counter


POOLS: Final = PoolCollector()
REGISTRY.register(POOLS)
