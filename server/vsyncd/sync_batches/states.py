"""The life of a batch. No input or output."""

from enum import IntEnum
from types import MappingProxyType
from typing import Final

from vsyncd.errors import FailedPrecondition


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

    def __init__(self, present: int, asked: int) -> None:
        names = {"from": BatchStatus(present).name, "to": BatchStatus(asked).name}
        message = f"The batch is {names['from']}; what was asked for needs or leads to {names['to']}."
        super().__init__("INVALID_TRANSITION", message, metadata=names)


def check_transition(present: int, asked: int) -> None:
    """Raise InvalidTransition unless a batch can go from one state to the other."""
    if asked not in NEXT[BatchStatus(present)]:
        raise InvalidTransition(present, asked)


def check_running(present: int) -> None:
    """Raise InvalidTransition unless records can be claimed and reported."""
    if present != BatchStatus.RUNNING:
        raise InvalidTransition(present, BatchStatus.RUNNING)


def state_after_retry(*, was_running: bool) -> BatchStatus:
    """Where RetrySyncBatch leads: back to where the batch failed, but to the begin of an intake that did not end."""
    return BatchStatus.RUNNING if was_running else BatchStatus.PENDING
