"""The rollups are what is computed from the rows, before and after they are folded."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import hypothesis
import psycopg
from hypothesis import strategies as st
from vsync.shadow.v1 import shadow_pb2 as pb
from vsyncd.domains.shadow.records import Candidate, DivergenceSummary
from vsyncd.domains.shadow.repository import EvaluationRepository

from tests.harness.cids import failure_of, rows
from tests.harness.clusters import Database
from tests.harness.serving import fields_of
from tests.harness.shadow import CANDIDATE, Stub, an_evaluation, around_now, between, id_at, record_all

LIMITS = Candidate("limits", "1")
FRAUD = Candidate("fraud", "1")
NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
MAX_US = 3_600_000_000
BOUNDS_US: list[int] = [0, *(round(base * 10**power) for power in range(2, 9) for base in (1, 1.5, 2, 3, 5, 7)), MAX_US]
INSERT = """
    INSERT INTO vsync.evaluations
    SELECT id, vsync.uuid_v7_time(id), name, '1', sha256(''), '{}', '{}', latency, 2 * latency, paths <> '{}',
           cardinality(paths), paths
    FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::text[]) AS new (id, name, latency, joined),
         LATERAL (SELECT CASE joined WHEN '' THEN '{}' ELSE string_to_array(joined, ' ') END) AS split (paths)"""


class Row(NamedTuple):
    """An evaluation of one of two candidates and hours."""

    candidate: Candidate
    hour: datetime
    latency_us: int
    paths: list[str]


LATENCIES = st.sampled_from([0, 99, 100, 149, 150, 6_999, 7_000, 250_000, 699_999_999, 700_000_000, 1_800_000_000])
ROWS = st.builds(
    Row,
    candidate=st.sampled_from([LIMITS, LIMITS, FRAUD]),
    hour=st.sampled_from([HOUR, HOUR + timedelta(hours=1)]),
    latency_us=LATENCIES,
    paths=st.lists(st.sampled_from(["a", "b", "c.d", "e[1]"]), max_size=3, unique=True),
)
# Statements with several rows each; a fold follows some of them.
STATEMENTS = st.lists(st.tuples(st.lists(ROWS, min_size=1, max_size=8), st.booleans()), max_size=6)


def quantile(latencies: list[int], share: float) -> int:
    """Returns a quantile, interpolated within its bucket."""
    rank, below = share * len(latencies), 0
    for lower, upper in pairwise(BOUNDS_US):
        inside = sum(lower <= latency < upper or latency == upper == MAX_US for latency in latencies)
        if inside and below + inside >= rank:
            return round(lower + (upper - lower) * max(rank - below, 0) / inside)
        below += inside
    raise AssertionError(latencies)


def model(stored: list[Row], candidate: Candidate, begin: datetime, end: datetime) -> DivergenceSummary:
    """Returns the summary that is computed from the rows."""
    found = [row for row in stored if row.candidate == candidate and begin <= row.hour < end]
    paths = Counter(path for row in found for path in row.paths)
    top = sorted(paths.items(), key=lambda counted: (-counted[1], counted[0]))
    latencies = [row.latency_us for row in found]
    quantiles = [0.5, 0.9, 0.95, 0.99] if found else []
    return DivergenceSummary(
        len(found),
        sum(bool(row.paths) for row in found),
        [quantile(latencies, share) for share in quantiles],
        [quantile([2 * latency for latency in latencies], share) for share in quantiles],
        top[:2],
        sum(times for _, times in top[2:]),
    )


async def test_a_summary_is_computed_from_the_rows(repository: EvaluationRepository, database: Database) -> None:
    histories: list[list[tuple[list[Row], bool]]] = []

    @hypothesis.settings(max_examples=12)
    @hypothesis.given(STATEMENTS)
    def draw(history: list[tuple[list[Row], bool]]) -> None:
        histories.append(history)

    draw()
    stored: list[Row] = []
    with psycopg.connect(database.service, autocommit=True) as connection:
        for history in histories:
            for added, is_folded in history:
                ids = [id_at(row.hour, len(stored) + number) for number, row in enumerate(added)]
                names, latencies, paths = zip(
                    *((row.candidate.name, row.latency_us, " ".join(row.paths)) for row in added), strict=True
                )
                connection.execute(INSERT.encode(), [ids, list(names), list(latencies), list(paths)])
                stored += added
                if is_folded:
                    await repository.fold_rollups()
            for candidate in (LIMITS, FRAUD):
                for begin, end in ((HOUR, HOUR + timedelta(hours=2)), (HOUR, HOUR + timedelta(hours=1))):
                    found = await repository.summary(candidate, begin, end, max_paths=2)
                    expected = model(stored, candidate, begin, end)
                    if not expected.evaluations:
                        assert found[:2] == (0, 0)
                        continue
                    assert found == expected
    hours = rows(database, "SELECT * FROM vsync.divergence_summary")
    view = {(row["candidate_name"], row["hour"]): row["evaluations"] for row in hours}
    groups = Counter((row.candidate.name, row.hour) for row in stored)
    assert view == groups
    await repository.fold_rollups()
    folded = rows(database, "SELECT folded, count(*)::int AS n FROM vsync.evaluation_rollups GROUP BY folded")
    assert folded == [{"folded": True, "n": len(groups)}]


async def test_an_hour_counts_a_bounded_number_of_paths(shadow: Stub, repository: EvaluationRepository) -> None:
    rare = [{"frequent": 0, **{f"n{number}-{path}": 0 for path in range(70)}} for number in range(4)]
    for primary in rare:
        await record_all(shadow, [an_evaluation(primary, dict.fromkeys(primary, 1)), an_evaluation({"a": 1})])
        await repository.fold_rollups()
    request = pb.GetDivergenceSummaryRequest(candidate=CANDIDATE, **around_now(), max_paths=100)
    answer = await shadow.GetDivergenceSummary(request)
    assert (answer.evaluations, answer.diverged, answer.divergence_rate) == (8, 4, 0.5)
    assert (answer.paths[0].path, answer.paths[0].evaluations) == ("frequent", 4)
    counted = sum(path.evaluations for path in answer.paths)
    assert counted + answer.other_differences == sum(map(len, rare))
    assert len(answer.paths) == 100


async def test_the_range_of_a_summary_is_extended_to_whole_hours(shadow: Stub) -> None:
    evaluation = an_evaluation(evaluation_id=str(id_at(HOUR + timedelta(minutes=30), 1)))
    await shadow.RecordEvaluation(pb.RecordEvaluationRequest(evaluation=evaluation))
    for begin, end, hours, expected in ((40, 41, 1, 1), (40, 60, 1, 1), (0, 60, 1, 1), (60, 61, 1, 0), (59, 61, 2, 1)):
        answer = await shadow.GetDivergenceSummary(
            pb.GetDivergenceSummaryRequest(
                candidate=CANDIDATE,
                **between(HOUR + timedelta(minutes=begin), HOUR + timedelta(minutes=end)),
            )
        )
        begins_at, ends_at = answer.begins_at.ToDatetime(UTC), answer.ends_at.ToDatetime(UTC)
        assert begins_at == HOUR + timedelta(hours=begin // 60)
        assert ends_at - begins_at == timedelta(hours=hours)
        assert answer.evaluations == expected
        assert answer.HasField("shadow_latency") == bool(expected)
    bad = pb.GetDivergenceSummaryRequest(**between(HOUR, HOUR + timedelta(days=32)), max_paths=101)
    assert fields_of(await failure_of(shadow.GetDivergenceSummary(bad))) == [
        "candidate",
        "evaluated_before",
        "max_paths",
    ]
