"""The history of calls, and the last failures."""

import pytest
from vsyncd.observability.call_history import CallHistory, CallTotals, FailedCall, LastFailures
from vsyncd.observability.metrics import CallCollector, MethodMetrics


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def end(method: MethodMetrics, code: str, seconds: float) -> None:
    method.started += 1
    method.end(code, seconds)


def test_the_history_has_the_calls_of_the_last_fifteen_minutes() -> None:
    calls, clock = CallCollector(), Clock()
    unary, stream = calls.method("s/Get", grpc_type="unary"), calls.method("s/Watch", grpc_type="server_stream")
    end(unary, "OK", 0.5)
    history = CallHistory(calls, clock=clock)
    assert history.methods() == []
    for _ in range(20):
        end(unary, "OK", 0.0009)
        end(unary, "NotFound", 0.0009)
        end(stream, "Canceled", 40.0)
        clock.now += 60
        history.record()
    end(unary, "Internal", 0.0009)
    stream.started += 1
    clock.now += 6
    assert history.since == 1000 + 60 * 6
    get, watch = history.methods()
    assert (get.name, get.is_stream, get.totals.calls) == ("s/Get", False, 29)
    assert (get.totals.errors, get.totals.server_errors) == (15, 1)
    assert (watch.is_stream, watch.totals.calls, watch.totals.errors, watch.in_flight) == (True, 14, 0, 1)
    minutes = history.minutes()
    assert [minute.totals.calls for minute in minutes] == [3] * 14 + [1]
    assert [minute.unary.calls for minute in minutes] == [2] * 14 + [1]
    assert (minutes[0].seconds, minutes[-1].seconds, minutes[-1].totals.errors) == (60, 6, 1)


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 0.0005),
        ({3: 1, 4: 1}, 0.5, 0.01),
        ({3: 1, 4: 1}, 0.99, 0.01 + 0.015 * 0.98),
        ({0: 99, 13: 1}, 0.5, 0.001 * 50 / 99),
        ({13: 1}, 0.99, 30.0),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(
    buckets: dict[int, int], share: float, expected: float | None
) -> None:
    totals = CallTotals(tuple(buckets.get(index, 0) for index in range(14)))
    assert totals.quantile(share) == (None if expected is None else pytest.approx(expected))


def test_many_failures_of_one_kind_leave_those_of_other_kinds() -> None:
    failures = LastFailures()

    def fail(number: int, code: str) -> None:
        failures.add(FailedCall(number, "s/Get", code, "REASON", str(number), 0.1))

    fail(0, "INTERNAL")
    for number in range(1, 101):
        fail(number, "NOT_FOUND")
    assert [call.at for call in failures.newest_first()] == [*range(100, 90, -1), 0]
    for number in range(200, 260):
        fail(number, f"CODE_{number}")
    assert [call.at for call in failures.newest_first()] == list(range(259, 209, -1))
