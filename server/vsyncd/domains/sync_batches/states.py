"""The life of a batch. No input or output."""

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


NEXT: Final = MappingProxyType(
    {
        BatchStatus.PENDING: frozenset({BatchStatus.STARTING, BatchStatus.FAILED}),
        BatchStatus.STARTING: frozenset({BatchStatus.RUNNING, BatchStatus.FAILED}),
        BatchStatus.RUNNING: frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED}),
        BatchStatus.COMPLETED: frozenset[BatchStatus](),
        BatchStatus.FAILED: frozenset({BatchStatus.PENDING, BatchStatus.RUNNING}),
    }
)


class InvalidTransition(FailedPrecondition):
    """A batch's state forbids what was asked for."""

    def __init__(self, present: int, asked: int, rule: str) -> None:
        names = {"from": BatchStatus(present).name, "to": BatchStatus(asked).name}
        super().__init__("INVALID_TRANSITION", f"The batch is {names['from']}; {rule}.", metadata=names)


def check_transition(present: int, asked: int) -> None:
    """Raise InvalidTransition unless a batch can go from one state to the other."""
    if asked not in NEXT[BatchStatus(present)]:
        sources = " or ".join(source.name for source, targets in NEXT.items() if asked in targets)
        raise InvalidTransition(present, asked, f"only one that is {sources} becomes {BatchStatus(asked).name}")


def check_running(present: int) -> None:
    """Raise InvalidTransition unless records can be claimed and reported."""
    if present != BatchStatus.RUNNING:
        rule = "records are claimed and reported while it is RUNNING"
        raise InvalidTransition(present, BatchStatus.RUNNING, rule)


def state_after_retry(present: int, *, was_running: bool) -> BatchStatus:
    """Where RetrySyncBatch leads: back to where the batch failed, but to the begin of an intake that did not end.

    Raise InvalidTransition unless it did fail.
    """
    if present != BatchStatus.FAILED:
        raise InvalidTransition(present, BatchStatus.RUNNING, "only one that is FAILED can be retried")
    return BatchStatus.RUNNING if was_running else BatchStatus.PENDING
