"""How much may be tried again: in an outage, retries must not multiply the load that the database cannot carry."""

from typing import Final

# A retry may follow every tenth call, on the long run.
SHARE: Final = 0.1


class RetryBudget:
    """A bucket of tokens: each call adds SHARE of one, each retry takes one. `burst` is the most it holds."""

    def __init__(self, *, burst: float) -> None:
        self._burst = burst
        self._tokens = burst

    @property
    def tokens(self) -> float:
        """What is left."""
        return self._tokens

    def earn(self) -> None:
        """A call begins."""
        if self._tokens < self._burst:
            self._tokens = min(self._burst, self._tokens + SHARE)

    def spend(self) -> bool:
        """Take a token for a retry; False: there is none, and the call has to fail."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
