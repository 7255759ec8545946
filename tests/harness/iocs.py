"""Helpers for tests of IOCs: requests, and recorded writes."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vsync.iocs.v1 import ioc_pb2 as pb

from tests.harness.cids import a_request_id, execute, rows
from tests.harness.clusters import Database
from tests.harness.recorded_writes import TRANSIENT_ERRORS, AnyWrite, ConcurrentCallers

BATCH_SIZE: Final = 5
IPV4, IPV6, DOMAIN, URL, EMAIL, SHA256, SHA1, MD5 = pb.IocType.values()[1:]
EXPIRE: Final = "UPDATE vsync.iocs SET expires_at = now() - interval '1 s'"


def new_ioc(value: str, kind: Any = DOMAIN, **fields: Any) -> pb.NewIoc:
    """Returns an IOC for a request, by default a domain."""
    return pb.NewIoc(**{"type": kind, "value": value, "confidence": 80, "source": "feed"} | fields)


def put(value: str, kind: Any = DOMAIN, *, request_id: str = "", validate_only: bool = False, **fields: Any) -> Any:
    """Returns a request that stores an IOC."""
    return pb.PutIocRequest(ioc=new_ioc(value, kind, **fields), request_id=request_id, validate_only=validate_only)


def batch(*iocs: pb.NewIoc, **fields: Any) -> pb.BatchPutIocsRequest:
    """Returns a request that stores IOCs."""
    return pb.BatchPutIocsRequest(iocs=iocs, **fields)


def expire(database: Database, *values: str) -> None:
    """Lets these IOCs of all tenants expire, or all."""
    execute(database, EXPIRE + (f" WHERE value = ANY ('{{{','.join(values)}}}')" if values else ""))


async def check(stub: Any, *values: str, kind: Any = DOMAIN) -> list[int | None]:
    """Returns the confidence of each value, or None if it is unknown."""
    response = await stub.CheckIocs(pb.CheckIocsRequest(type=kind, values=values))
    return [result.confidence if result.known else None for result in response.results]


async def list_all(stub: Any, **fields: Any) -> list[list[str]]:
    """Returns the values of each page of a list."""
    request, pages = pb.ListIocsRequest(**fields), []
    while True:
        page = await stub.ListIocs(request)
        pages.append([ioc.value for ioc in page.iocs])
        if not page.next_page_token:
            return pages
        request.page_token = page.next_page_token


@dataclass(kw_only=True)
class IocWrite(AnyWrite):
    """A write of values that no other write has, or the deletion of one of them."""

    values: Sequence[str]
    is_deletion: bool = False


@dataclass
class RecordedIocs(ConcurrentCallers):
    """IOCs that concurrent callers put, alone and in batches, and delete."""

    writes: list[IocWrite] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def keep_writing(self) -> None:
        """Puts an IOC and a batch, and deletes an IOC of the batch."""
        while not self.stopped:
            (value,) = self._values(1)
            await self.write_until_acknowledged(self._write("PutIoc", put(value), [value]))
            values = self._values(BATCH_SIZE)
            stored = self._write("BatchPutIocs", batch(*map(new_ioc, values)), values)
            if await self.write_until_acknowledged(stored):
                request = pb.DeleteIocRequest(type=DOMAIN, value=values[0])
                await self.write_until_acknowledged(self._write("DeleteIoc", request, values[:1], is_deletion=True))

    def check(self, database: Database, *, allowed: Collection[str] = TRANSIENT_ERRORS) -> None:
        """Verifies that each acknowledged write took effect once, and every other completely or not at all."""
        self.check_errors(allowed)
        stored = {row["value"]: row["revision"] for row in rows(database, "SELECT value, revision FROM vsync.iocs")}
        assert set(stored.values()) <= {1}, "a put took effect twice"
        entries = rows(database, "SELECT correlation_id, count(*) AS times FROM vsync.audit_logs GROUP BY 1")
        audited = {row["correlation_id"]: row["times"] for row in entries}
        present: set[str] = set()
        for write in self.writes:
            times = audited.pop(write.request_id, 0)
            assert times <= 1, f"took effect {times} times: {write}"
            assert times or not write.acknowledged, f"acknowledged and lost: {write}"
            if times:
                present = present - set(write.values) if write.is_deletion else present | set(write.values)
        assert stored.keys() == present
        assert not audited, "an effect without a write"

    def _values(self, count: int) -> list[str]:
        return [f"host-{next(self._numbers)}.example" for _ in range(count)]

    def _write(self, method: str, request: Any, values: Sequence[str], *, is_deletion: bool = False) -> IocWrite:
        request.request_id = a_request_id()
        write = IocWrite(
            method=method, request=request, request_id=request.request_id, values=values, is_deletion=is_deletion
        )
        self.writes.append(write)
        return write
