"""Executing again what was rolled back, or never sent: with backoff and jitter, inside the deadline and a budget."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import psycopg
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from vsyncd.core.context import current_context
from vsyncd.observability.metrics import RETRIES
from vsyncd.postgres.error_mapping import service_error
from vsyncd.resilience.retry_budget import RetryBudget

T = TypeVar("T")

_ATTEMPTS: Final = 4
# Seconds, when nobody set a deadline; and what has to be left for an attempt.
_NO_DEADLINE: Final = 30.0
_RESERVE: Final = 0.005


class Again(Exception):  # noqa: N818  it starts a transaction anew, nothing more
    """The transaction was rolled back, or executing it again resolves what became of it. `reason` is for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Retrier:
    """Executes attempts until one does not raise Again. `counts` are the retries so far, by reason."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self.counts: Counter[str] = Counter()

    async def execute(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that has one. Raises what an attempt raises, and for the last Again the
        failure that its cause means."""
        self._budget.earn()
        try:
            return await attempt()  # nearly always enough: tenacity's machinery is for the rest
        except Again as again:
            first = again
        return await self._execute_again(first, attempt)

    async def _execute_again(self, first: Again, attempt: Callable[[], Awaitable[T]]) -> T:
        calls = 0

        async def repeat() -> T:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise first  # tenacity waits between attempts only, and the first one has been
            return await attempt()

        remaining = current_context().remaining()
        limit = stop_any(
            stop_after_attempt(_ATTEMPTS),
            stop_before_delay(max(0.0, (_NO_DEADLINE if remaining is None else remaining) - _RESERVE)),
        )
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Again),
            stop=lambda state: limit(state) or not self._budget.spend(),
            wait=wait_random_exponential(multiplier=0.04, max=0.5),
            before_sleep=self._count,
            reraise=True,
        )
        try:
            return await retrying(repeat)
        except Again as again:
            # Also of a commit whose outcome is not known: who named it by a request_id may send it again.
            cause = again.__cause__
            if isinstance(cause, psycopg.Error):
                raise service_error(cause) from cause
            raise (cause or again) from None

    def _count(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Again):
            self.counts[error.reason] += 1
            RETRIES.labels(error.reason).inc()
