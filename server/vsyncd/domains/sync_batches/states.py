"""The status of a batch and its transitions."""

from enum import IntEnum
from types import MappingProxyType
from typing import Final

from vsyncd.core.errors import FailedPrecondition


class BatchStatus(IntEnum):
    """The numbers of vsync.v1.SyncBatchStatus."""

    PENDING = 1
    STARTING = 2
    RUNNING = 3
    COMPLETED = 4
    FAILED = 5


TRANSITIONS: Final = MappingProxyType(
    {
        BatchStatus.PENDING: frozenset({BatchStatus.STARTING, BatchStatus.FAILED}),
        BatchStatus.STARTING: frozenset({BatchStatus.RUNNING, BatchStatus.FAILED}),
        BatchStatus.RUNNING: frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED}),
        BatchStatus.COMPLETED: frozenset[BatchStatus](),
        BatchStatus.FAILED: frozenset({BatchStatus.PENDING, BatchStatus.RUNNING}),
    }
)


class InvalidTransition(FailedPrecondition):
    """The status of the batch does not permit the operation."""

    def __init__(self, current: int, requested: int, rule: str) -> None:
        names = {"from": BatchStatus(current).name, "to": BatchStatus(requested).name}
        super().__init__("INVALID_TRANSITION", f"The batch is {names['from']}; {rule}.", metadata=names)


def check_transition(current: int, requested: int) -> None:
    """Raises InvalidTransition unless the status can change from `current` to `requested`."""
    if requested not in TRANSITIONS[BatchStatus(current)]:
        sources = " or ".join(source.name for source, targets in TRANSITIONS.items() if requested in targets)
        rule = f"only a batch that is {sources} can become {BatchStatus(requested).name}"
        raise InvalidTransition(current, requested, rule)


def check_running(current: int) -> None:
    """Raises InvalidTransition unless the batch is RUNNING."""
    if current != BatchStatus.RUNNING:
        rule = "records can only be claimed and reported while it is RUNNING"
        raise InvalidTransition(current, BatchStatus.RUNNING, rule)


def status_after_retry(current: int, *, was_running: bool) -> BatchStatus:
    """Returns the status after a retry: RUNNING if the batch has been RUNNING, otherwise PENDING.

    Raises InvalidTransition unless the batch is FAILED.
    """
    if current != BatchStatus.FAILED:
        raise InvalidTransition(current, BatchStatus.RUNNING, "only a batch that is FAILED can be retried")
    return BatchStatus.RUNNING if was_running else BatchStatus.PENDING
