"""The calls of the last 15 minutes by method and minute, and the last failed calls.

The history costs a call nothing: the totals of the metrics are copied once a minute, and the difference of two copies
has the calls between them.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from vsyncd.observability.metrics import BUCKETS_S, CALLS, CallCollector

# Copies that are kept. The present totals end the last minute.
MINUTES: Final = 15
# The codes for which the server is responsible, spelled as in the metrics.
SERVER_ERRORS: Final = frozenset(
    {"Internal", "Unknown", "Unavailable", "DataLoss", "DeadlineExceeded", "ResourceExhausted"}
)
# A caller that cancels its call has lost interest in it.
_NO_ERRORS: Final = frozenset({"OK", "Canceled"})
_MAX_FAILURES: Final = 50
# Of the same kind, so that many of one kind do not displace the others.
_MAX_ALIKE: Final = 10


class CallTotals(NamedTuple):
    """Completed calls: their number in each bucket of their duration, and those that failed."""

    buckets: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    errors: int = 0
    server_errors: int = 0

    @property
    def calls(self) -> int:
        return sum(self.buckets)

    def minus(self, earlier: "CallTotals") -> "CallTotals":
        buckets = tuple(now - then for now, then in zip(self.buckets, earlier.buckets, strict=True))
        return CallTotals(buckets, self.errors - earlier.errors, self.server_errors - earlier.server_errors)

    @classmethod
    def sum_of(cls, totals: Iterable["CallTotals"]) -> "CallTotals":
        each = [_NONE, *totals]
        buckets = tuple(map(sum, zip(*(one.buckets for one in each), strict=True)))
        return cls(buckets, sum(one.errors for one in each), sum(one.server_errors for one in each))

    def quantile(self, share: float) -> float | None:
        """Returns the duration in seconds that this share of the calls did not exceed, or None without calls.

        It is interpolated between the bounds of a bucket, as Prometheus does.
        """
        rank, below = share * self.calls, 0
        for index, count in enumerate(self.buckets):
            if count and below + count >= rank:
                if index == len(BUCKETS_S):
                    return BUCKETS_S[-1]
                lower = BUCKETS_S[index - 1] if index else 0.0
                return lower + (BUCKETS_S[index] - lower) * (rank - below) / count
            below += count
        return None


_NONE: Final = CallTotals()


class _Copy(NamedTuple):
    """The totals of each method at a Unix time, of all methods, and of those that are no streams."""

    at: float
    methods: Mapping[str, CallTotals]
    all: CallTotals
    unary: CallTotals


class MethodCalls(NamedTuple):
    """The calls of a method in the history, and its calls in flight."""

    name: str
    is_stream: bool
    totals: CallTotals
    in_flight: int


class MinuteCalls(NamedTuple):
    """The calls of a minute that began at a Unix time: all, and those that are no streams."""

    begin: float
    seconds: float
    totals: CallTotals
    unary: CallTotals


class CallHistory:
    """The calls since the creation, at most those of the last MINUTES. `record` is to be called every minute."""

    def __init__(self, calls: CallCollector = CALLS, *, clock: Callable[[], float] = time.time) -> None:
        self._calls = calls
        self._clock = clock
        self._copies: deque[_Copy] = deque([self._copy()], maxlen=MINUTES)

    @property
    def since(self) -> float:
        """The Unix time at which the history begins."""
        return self._copies[0].at

    def record(self) -> None:
        """Begins the next minute."""
        self._copies.append(self._copy())

    def methods(self) -> list[MethodCalls]:
        """Returns the methods that have calls, by name."""
        earlier, found = self._copies[0].methods, []
        for name, metrics in sorted(self._calls.methods.items()):
            in_flight = metrics.started - sum(metrics.handled.values())
            totals = _totals(metrics.seconds.counts, metrics.handled).minus(earlier.get(name, _NONE))
            if totals.calls or in_flight:
                found.append(MethodCalls(name, metrics.labels[0] != "unary", totals, in_flight))
        return found

    def minutes(self) -> list[MinuteCalls]:
        """Returns the minutes, oldest first. The last one is not complete."""
        return [
            MinuteCalls(begin.at, max(0.0, end.at - begin.at), end.all.minus(begin.all), end.unary.minus(begin.unary))
            for begin, end in pairwise([*self._copies, self._copy()])
        ]

    def _copy(self) -> _Copy:
        methods = self._calls.methods
        totals = {name: _totals(each.seconds.counts, each.handled) for name, each in methods.items()}
        unary = (each for name, each in totals.items() if methods[name].labels[0] == "unary")
        return _Copy(self._clock(), totals, CallTotals.sum_of(totals.values()), CallTotals.sum_of(unary))


def _totals(buckets: tuple[int, ...], handled: Mapping[str, int]) -> CallTotals:
    errors = sum(count for code, count in handled.items() if code not in _NO_ERRORS)
    return CallTotals(buckets, errors, sum(handled.get(code, 0) for code in SERVER_ERRORS))


class FailedCall(NamedTuple):
    """A call that ended at a Unix time with another code than OK."""

    at: float
    method: str
    code: str
    reason: str
    correlation_id: str
    seconds: float


class LastFailures:
    """The last failed calls. Each kind has at most _MAX_ALIKE of them."""

    def __init__(self) -> None:
        # By kind, in the order of their last calls.
        self._calls: dict[tuple[str, str, str], deque[FailedCall]] = {}

    def add(self, call: FailedCall) -> None:
        kind = call.method, call.code, call.reason
        alike = self._calls.pop(kind, None)
        if alike is None:
            alike = deque(maxlen=_MAX_ALIKE)
            if len(self._calls) == _MAX_FAILURES:
                del self._calls[next(iter(self._calls))]
        alike.append(call)
        self._calls[kind] = alike

    def newest_first(self) -> Sequence[FailedCall]:
        calls = (call for alike in self._calls.values() for call in alike)
        return sorted(calls, key=lambda call: call.at, reverse=True)[:_MAX_FAILURES]


FAILURES: Final = LastFailures()
