"""A table with all kinds of records, and a model of filters."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple
from uuid import UUID

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st
from vsync.v1 import cid_pb2 as pb

from tests.harness.cids import cid_of
from tests.harness.clusters import Database

ISPBS = ("11111111", "22222222", "33333333")
TAX_IDS = ("00000000001", "00000000002", "00000000003")
FIRST = datetime(2026, 11, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=7)
COUNT = 400


class Row(NamedTuple):
    """The columns that filters use."""

    id: UUID
    cid: str
    ispb: str
    key_type: int
    sync_status: int
    tax_id: str
    created_at: datetime


def fill(database: Database, *, seed: int = 0) -> list[Row]:
    """Inserts COUNT records at intervals of STEP from FIRST on. Returns them in the order of ids."""
    random = Random(seed)  # noqa: S311  deterministic test data
    rows = []
    with psycopg.connect(database.owner) as connection:
        for number in range(COUNT):
            at = FIRST + number * STEP
            milliseconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
            identifier = UUID(int=(milliseconds << 80) | (7 << 76) | (0b10 << 62) | random.getrandbits(60))
            row = Row(
                identifier,
                cid_of(number),
                random.choice(ISPBS),
                random.choice((1, 5)),
                random.choices((1, 2, 3), (2, 6, 1))[0],
                random.choice(TAX_IDS),
                at,
            )
            rows.append(row)
            key = f"{number:011d}" if row.key_type == 1 else str(UUID(int=number))
            connection.execute(
                "INSERT INTO vsync.cids (id, created_at, updated_at, synced_at, cid, key_type, key_value, ispb,"
                " account_number, account_type, tax_id, sync_status, last_error)"
                " VALUES (%s, %s, %s, %s, decode(%s, 'hex'), %s, %s, %s, '1', 1, %s, %s, %s)",
                [
                    *(row.id, at, at, at, row.cid, row.key_type, key, row.ispb, row.tax_id, row.sync_status),
                    "no" if row.sync_status == 3 else None,
                ],
            )
    return rows


TIMES = st.none() | st.integers(-2000, COUNT * 7_000 + 2000).map(lambda at: FIRST + timedelta(microseconds=at))


@st.composite
def filters(draw: st.DrawFn) -> pb.CidFilter:
    """Returns any combination of filters."""
    return pb.CidFilter(
        ispb=draw(st.sampled_from(("", "", *ISPBS, "99999999"))),
        key_type=draw(st.sampled_from([0, 0, 1, 5])),  # type: ignore[arg-type]  # enums' numbers
        sync_status=draw(st.sampled_from([0, *pb.SyncStatus.values()])),  # type: ignore[arg-type]  # enums' numbers
        tax_id=draw(st.sampled_from(("", "", *TAX_IDS))),
        created_after=_timestamp(draw(TIMES)),
        created_before=_timestamp(draw(TIMES)),
    )


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message


def matching(rows: Sequence[Row], wanted: pb.CidFilter) -> list[str]:
    """Returns the cids of the matching rows, in the order of ids."""
    after = (
        wanted.created_after.ToDatetime(UTC) if wanted.HasField("created_after") else datetime.min.replace(tzinfo=UTC)
    )
    before = (
        wanted.created_before.ToDatetime(UTC) if wanted.HasField("created_before") else datetime.max.replace(tzinfo=UTC)
    )
    return [
        row.cid
        for row in rows
        if wanted.ispb in {"", row.ispb}
        and wanted.key_type in {0, row.key_type}
        and wanted.sync_status in {0, row.sync_status}
        and wanted.tax_id in {"", row.tax_id}
        and after <= row.created_at < before
    ]
