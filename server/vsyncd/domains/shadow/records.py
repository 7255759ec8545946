"""Shadow evaluations as they are validated, stored and summed up."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from vsyncd.postgres.tables import RecordTable

MAX_NAME_CHARS: Final = 100
MAX_RESULT_BYTES: Final = 16 * 1024
MAX_LATENCY_S: Final = 3_600
# The number of paths that an evaluation stores, and their length.
MAX_PATHS: Final = 100
MAX_PATH_CHARS: Final = 255


class Candidate(NamedTuple):
    """What is evaluated in the shadow of the primary system."""

    name: str
    version: str


class NewEvaluation(NamedTuple):
    """A validated evaluation. The results are canonical JSON texts (see divergence.py)."""

    evaluation_id: UUID
    candidate: Candidate
    input_fingerprint: bytes
    primary_result: str
    shadow_result: str
    primary_latency_us: int
    shadow_latency_us: int
    differing_path_count: int
    differing_paths: Sequence[str]


class Evaluation(NamedTuple):
    """A stored evaluation, in the order of the table's columns."""

    evaluation_id: UUID
    evaluated_at: datetime
    candidate_name: str
    candidate_version: str
    input_fingerprint: bytes
    primary_result: Mapping[str, Any]
    shadow_result: Mapping[str, Any]
    primary_latency_us: int
    shadow_latency_us: int
    diverged: bool
    differing_path_count: int
    differing_paths: list[str]


class RecordedEvaluation(NamedTuple):
    """What became of a new evaluation.

    `recorded` is false if it had been stored before, with the same content. `stored` is None if it was stored now.
    """

    evaluation_id: UUID
    recorded: bool
    diverged: bool
    stored: Evaluation | None = None


class EvaluationFilter(NamedTuple):
    """Which evaluations to search: those with ids from `from_id` (inclusive) to `below_id` (exclusive).

    None means any. The results must contain the JSON objects `primary_part` and `shadow_part`.
    """

    candidate: Candidate | None
    from_id: UUID
    below_id: UUID
    diverged: bool | None
    primary_part: str | None
    shadow_part: str | None


class IdPage(NamedTuple):
    """The ids of a page, newest first. The next page has ids below `next_below`; None on the last page."""

    ids: Sequence[UUID]
    next_below: UUID | None


class DivergenceSummary(NamedTuple):
    """The summary of some hours. Latencies are the quantiles p50, p90, p95 and p99 in microseconds."""

    evaluations: int
    diverged: int
    primary_latencies_us: Sequence[int]
    shadow_latencies_us: Sequence[int]
    paths: Sequence[tuple[str, int]]
    other_differences: int


TABLES: Final = (
    RecordTable(
        Evaluation,
        "evaluations",
        max_chars={"candidate_name": MAX_NAME_CHARS, "candidate_version": MAX_NAME_CHARS},
    ),
)
