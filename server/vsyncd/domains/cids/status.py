"""The imports in the answer of GetStatus."""

from datetime import timedelta
from typing import Final

from vsync.v1 import status_pb2 as pb

from vsyncd.core.rates import WINDOW_S, Rates
from vsyncd.core.timestamps import timestamp
from vsyncd.postgres.queries import Session, queries

_MAX_IMPORTS: Final = 50


class ImportStatusReader:
    """Reads the section `imports`. Keeps the progress of the last minutes for the rates."""

    def __init__(self, schema: str) -> None:
        self._query = queries("vsyncd.domains.cids", schema)["status_imports"]
        self._rates = Rates()

    async def read(self, session: Session, status: pb.ServerStatus) -> None:
        parameters = {"age": timedelta(seconds=WINDOW_S), "limit": _MAX_IMPORTS + 1}
        rows = await session.all(self._query, parameters)
        self._rates.observe({row[0]: sum(row[1:5]) for row in rows})
        for import_id, inserted, skipped, replaced, rejected, created_at, updated_at in rows[:_MAX_IMPORTS]:
            rate = self._rates.per_second(import_id)
            elapsed = max((updated_at - created_at).total_seconds(), 1.0)
            status.imports.add(
                import_id=str(import_id),
                inserted_records=inserted,
                skipped_records=skipped,
                replaced_records=replaced,
                rejected_records=rejected,
                created_at=timestamp(created_at),
                updated_at=timestamp(updated_at),
                records_per_second=(inserted + skipped + replaced + rejected) / elapsed if rate is None else rate,
            )
        if len(rows) > _MAX_IMPORTS:
            status.truncated.append("imports")
