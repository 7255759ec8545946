"""vsyncd with credits, but each transaction is executed alone: what its ledger costs without groups.

`python -m bench.peers.ungrouped_credits` serves like `vsyncd serve`.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from vsyncd.cli.command import run
from vsyncd.postgres.single_statement import Change, SingleStatement

T = TypeVar("T")


class _Undecided(SingleStatement):
    """Decides nothing."""

    async def decide(
        self,
        change: Change,  # noqa: ARG002  as the method that it replaces
        result: Callable[[Any], T],  # noqa: ARG002  as above
        otherwise: Callable[[], Awaitable[T]],
    ) -> T:
        return await otherwise()


if __name__ == "__main__":
    from vsyncd.domains.credits import ledger

    vars(ledger)["SingleStatement"] = _Undecided  # in this process only
    sys.exit(run(["serve"], own_process=True))
