"""Searching evaluations: newest first, each filter, short pages, and the plan of a search by content."""

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from vsync.shadow.v1 import shadow_pb2 as pb
from vsyncd.core.ids import id_range
from vsyncd.domains.shadow import search
from vsyncd.domains.shadow.records import Candidate, EvaluationFilter
from vsyncd.domains.shadow.search import EvaluationSearch
from vsyncd.postgres.database import Database as Pool

from tests.harness.cids import failure_of
from tests.harness.clusters import Database
from tests.harness.serving import fields_of
from tests.harness.shadow import Stub, an_evaluation, around_now, between, id_at, record_all, search_all, struct

COUNT = 200
CANDIDATES = (Candidate("limits", "1"), Candidate("limits", "2"), Candidate("fraud", "1"))
BEGIN, END = datetime.now(UTC) - timedelta(days=30), datetime.now(UTC) + timedelta(hours=1)


class Row(NamedTuple):
    """The columns that filters use."""

    id: UUID
    candidate: Candidate
    primary: dict[str, Any]
    shadow: dict[str, Any]


@pytest.fixture
def stored(database: Database) -> list[Row]:
    """Evaluations of the last days, also of the month before at the beginning of a month."""
    random = Random(0)  # noqa: S311  deterministic test data
    now = datetime.now(UTC)
    found = []
    with psycopg.connect(database.owner) as connection:
        begin = (now - timedelta(days=3)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        month = f"{begin:%Y_%m}"
        bounds = [str(each) for each in id_range(begin, (begin + timedelta(days=32)).replace(day=1))]
        connection.execute("SELECT vsync.make_partition('evaluations', %s, %s, %s)", [month, *bounds])
        connection.execute("ALTER TABLE vsync.evaluations DISABLE TRIGGER evaluations_inserted")
        for number in range(COUNT):
            at = now - timedelta(days=3) * number / COUNT
            at = at.replace(microsecond=at.microsecond // 1_000 * 1_000)
            primary = {"n": number % 3, "o": {"list": [number % 2, "x"]}}
            row = Row(
                id_at(at, number),
                random.choice(CANDIDATES),
                primary,
                primary | {"n": number % 3 + (random.random() < 0.2)},
            )
            found.append(row)
            differs = row.primary != row.shadow
            connection.execute(
                "INSERT INTO vsync.evaluations VALUES (%s, %s, %s, %s, sha256(''), %s, %s, 1, 2, %s, %s, %s)",
                [
                    *(row.id, at, *row.candidate, Jsonb(row.primary), Jsonb(row.shadow)),
                    *(differs, int(differs), ["n"] if differs else []),
                ],
            )
    return found


def contains(value: Any, part: Any) -> bool:
    """Whether `value @> part`, for the values of these tests."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(
            name in value and contains(value[name], item) for name, item in part.items()
        )
    if isinstance(part, list):
        return isinstance(value, list) and all(any(contains(each, item) for each in value) for item in part)
    return bool(value == part)


PARTS = st.none() | st.sampled_from(
    [{"n": 0}, {"n": 3}, {"n": 9}, {"o": {"list": [1]}}, {"o": {"list": ["x"]}}, {"n": 1, "o": {"list": [0, "x"]}}]
)
FILTERS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    candidate=st.none() | st.sampled_from([*CANDIDATES, Candidate("limits", "9")]),
    diverged=st.sampled_from([None, None, True, False]),
    primary=PARTS,
    shadow=PARTS,
    hours=st.sampled_from([(-96, 1), (-40, -5), (-5, -40), (-48, 1)]),
)


@pytest.mark.parametrize(("scanned", "matches"), [(5_000, 2_000), (15, 10)])
async def test_all_pages_together_are_what_the_model_finds(
    pool: Pool, stored: list[Row], monkeypatch: pytest.MonkeyPatch, scanned: int, matches: int
) -> None:
    """The limits of a page are lowered, so that every kind of page occurs."""
    monkeypatch.setattr(search, "MAX_SCANNED_ROWS", scanned)
    monkeypatch.setattr(search, "MAX_MATCHES", matches)
    searches, now = EvaluationSearch(pool), datetime.now(UTC)
    cases: list[tuple[dict[str, Any], int]] = []

    @hypothesis.settings(max_examples=25)
    @hypothesis.given(FILTERS, st.sampled_from([1, 7, 300]))
    def draw(wanted: dict[str, Any], size: int) -> None:
        cases.append((wanted, size))

    draw()
    for wanted, size in cases:
        from_id, below_id = id_range(*(now + timedelta(hours=hours) for hours in wanted["hours"]))
        parts = [None if wanted[name] is None else json.dumps(wanted[name]) for name in ("primary", "shadow")]
        condition = EvaluationFilter(wanted["candidate"], from_id, below_id, wanted["diverged"], *parts)
        expected = [
            row.id
            for row in stored
            if from_id <= row.id < below_id
            and wanted["candidate"] in {None, row.candidate}
            and wanted["diverged"] in {None, row.primary != row.shadow}
            and (wanted["primary"] is None or contains(row.primary, wanted["primary"]))
            and (wanted["shadow"] is None or contains(row.shadow, wanted["shadow"]))
        ]
        found: list[UUID] = []
        while condition is not None:
            page = await searches.page(condition, size=size)
            assert len(page.ids) <= size
            found += page.ids
            if page.next_below is None:
                break
            condition = condition._replace(below_id=page.next_below)
        assert found == expected, wanted


async def test_a_page_has_a_token_for_its_filter_only(shadow: Stub) -> None:
    await record_all(shadow, [an_evaluation({"n": number}) for number in range(5)])
    pages = await search_all(shadow, page_size=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    numbers = [each.primary_result["n"] for page in pages for each in page]
    assert numbers == [4, 3, 2, 1, 0]
    request = pb.SearchEvaluationsRequest(**around_now(), page_size=2)
    request.page_token = (await shadow.SearchEvaluations(request)).next_page_token
    request.diverged = False
    assert fields_of(await failure_of(shadow.SearchEvaluations(request))) == ["page_token"]


async def test_a_page_ends_where_the_response_would_be_too_large(shadow: Stub) -> None:
    await record_all(shadow, [an_evaluation({"t": "x" * 16_000}) for _ in range(15)])
    pages = await search_all(shadow)
    assert [len(page) for page in pages] == [6, 6, 3]


async def test_an_error_names_every_bad_field(shadow: Stub) -> None:
    now = datetime.now(UTC)
    request = pb.SearchEvaluationsRequest(
        candidate=pb.Candidate(version="1"),
        **between(now, now + timedelta(days=31, microseconds=1)),
        primary_contains=struct({"a": {"b": []}}),
        shadow_contains=struct({}),
        page_size=-1,
    )
    assert fields_of(await failure_of(shadow.SearchEvaluations(request))) == [
        "evaluated_before",
        "candidate.name",
        "primary_contains",
        "shadow_contains",
        "page_size",
    ]
    required = await failure_of(shadow.SearchEvaluations(pb.SearchEvaluationsRequest()))
    assert fields_of(required) == ["evaluated_after", "evaluated_before"]
