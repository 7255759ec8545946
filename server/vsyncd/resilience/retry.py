"""Retries of what was rolled back or never sent, with backoff, within the deadline and a retry budget."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from vsyncd.observability.metrics import RETRIES

T = TypeVar("T")

_MAX_ATTEMPTS: Final = 4
_DEFAULT_TIME_LEFT_S: Final = 30.0
# The least time that an attempt needs.
_MIN_ATTEMPT_S: Final = 0.005
# In the long run, one retry per ten calls.
RETRIES_PER_CALL: Final = 0.1


class RetryBudget:
    """Limits retries, so that they do not multiply the load during an outage.

    A token bucket: each call adds RETRIES_PER_CALL tokens, up to `burst`, and each retry takes one.
    """

    def __init__(self, *, burst: float) -> None:
        self._burst = burst
        self.tokens = burst

    def earn(self) -> None:
        if self.tokens < self._burst:
            self.tokens = min(self._burst, self.tokens + RETRIES_PER_CALL)

    def spend(self) -> bool:
        """Takes a token for a retry. Returns False if there is none: the call must fail."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class RetryableError(Exception):
    """An attempt failed in a way that another attempt may resolve. `reason` is for metrics; `error` is raised if no
    attempt succeeds."""

    def __init__(self, reason: str, error: Exception) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error


class Retrier:
    """Executes attempts until one does not raise RetryableError. `counts` has the retries by reason."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self.counts: Counter[str] = Counter()

    async def execute(self, attempt: Callable[[], Awaitable[T]], *, time_left: float | None = None) -> T:
        """Returns the result of the first attempt that succeeds, within `time_left` seconds (None: 30 seconds).

        Raises what an attempt raises, and the `error` of the last RetryableError.
        """
        self._budget.earn()
        try:
            return await attempt()  # without tenacity, whose overhead only retries need
        except RetryableError as error:
            first = error
        return await self._execute_again(first, attempt, time_left)

    async def _execute_again(
        self, first: RetryableError, attempt: Callable[[], Awaitable[T]], time_left: float | None
    ) -> T:
        calls = 0

        async def repeat() -> T:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise first  # tenacity waits only after an attempt of its own
            return await attempt()

        limit = stop_any(
            stop_after_attempt(_MAX_ATTEMPTS),
            stop_before_delay(max(0.0, (_DEFAULT_TIME_LEFT_S if time_left is None else time_left) - _MIN_ATTEMPT_S)),
        )
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            stop=lambda state: limit(state) or not self._budget.spend(),
            wait=wait_random_exponential(multiplier=0.04, max=0.5),
            before_sleep=self._count,
            reraise=True,
        )
        try:
            return await retrying(repeat)
        except RetryableError as last:
            raise last.error from last.error.__cause__

    def _count(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RetryableError):
            self.counts[error.reason] += 1
            RETRIES.labels(error.reason).inc()
