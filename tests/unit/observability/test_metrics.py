"""Collectors of metrics."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from vsync.health.v1 import health_pb2 as pb
from vsync.message_json import as_json
from vsyncd.observability.metrics import BUCKETS_S, REGISTRY, Histogram, PoolCollector, QueryCollector

from tests.harness.logs import captured_logs


def samples(collected: Iterable[object]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in collected
        for sample in family.samples  # type: ignore[attr-defined]  # each is a Metric
    }


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_a_histogram_counts_each_value_in_every_bucket_that_includes_it(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    buckets = histogram.buckets()
    for bound, count in buckets:
        assert count == sum(value <= float(bound) for value in values)
    assert all(earlier[1] <= later[1] for earlier, later in pairwise(buckets))
    assert [bound for bound, _ in buckets] == [*map(str, BUCKETS_S), "+Inf"]
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_statements_at_the_threshold_are_counted_and_logged_as_slow() -> None:
    queries = QueryCollector()
    queries.slow_after = 0.1
    with captured_logs() as log:
        queries.observe("cids.list", 0.0999)
        queries.observe("cids.list", 0.1)
        queries.observe("cids.list", 31.0, "QueryCanceled")
    found = samples(queries.collect())
    assert found["vsyncd_slow_queries_total", "cids.list"] == 2
    assert found["vsyncd_query_seconds_count", "cids.list"] == 3
    assert [(line["query"], line["duration_ms"], line.get("error")) for line in log.named("slow query")] == [
        ("cids.list", 100.0, None),
        ("cids.list", 31000.0, "QueryCanceled"),
    ]


async def test_a_cancelled_statement_is_measured() -> None:
    queries = QueryCollector()

    async def execute() -> None:
        with queries.timed("cids.count"):
            await asyncio.Event().wait()

    task = asyncio.create_task(execute())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert samples(queries.collect())["vsyncd_query_seconds_count", "cids.count"] == 1


def test_removing_a_pool_does_not_remove_its_successor() -> None:
    pools = PoolCollector()
    first = {"pool_max": 5, "pool_size": 4, "pool_available": 1, "requests_wait_ms": 1500}
    second = {"pool_max": 7}
    pools.add("primary", first.copy)
    found = samples(pools.collect())
    assert found["vsyncd_pool_connections", "primary", "used"] == 3
    assert found["vsyncd_pool_connections", "primary", "idle"] == 1
    assert found["vsyncd_pool_wait_seconds_total", "primary"] == 1.5
    assert found["vsyncd_pool_request_errors_total", "primary"] == 0  # psycopg_pool leaves it out
    stats = second.copy
    pools.add("primary", stats)
    pools.remove("primary", first.copy)
    assert samples(pools.collect())["vsyncd_pool_max_connections", "primary"] == 7
    pools.remove("primary", stats)
    assert samples(pools.collect()) == {}


def test_the_registry_works_without_a_server() -> None:
    text = generate_latest(REGISTRY).decode()
    assert "# TYPE vsyncd_cache_current gauge" in text
    assert "_created" not in text


def test_json_has_the_names_defaults_and_numbers_of_the_proto() -> None:
    message = pb.HealthResponse(
        check_duration_ms=2**53,
        dependencies=[
            pb.DependencyHealth(name="a", config=pb.DependencyConfig(port=1, metadata={"server_role": "primary"})),
            pb.DependencyHealth(status=pb.UNHEALTHY, type=pb.OTHER),
        ],
    )
    report = as_json(message)
    assert (report["status"], report["message"], report["check_duration_ms"]) == ("HEALTHY", "", 2**53)
    assert "liveness" not in report
    first, second = report["dependencies"]
    assert first["config"]["metadata"] == {"server_role": "primary"}
    assert first["config"]["topic_name"] == ""
    assert "pool_info" not in first["config"]
    assert "config" not in second
    assert (second["status"], second["type"], second["is_critical"]) == ("UNHEALTHY", "OTHER", False)
    assert second["response_time_ms"] == 0
