"""The growth of vsyncd's memory during ExportCids of 1,000,000 records."""

import asyncio
import time

import grpc
import psutil
import psycopg
import uvloop
from vsync.v1 import cid_pb2 as pb

from bench.report import Figure, rate
from bench.servers import Service, database, postgres, vsyncd

RECORDS = 1_000_000
_EXPORT = "/vsync.v1.CidService/ExportCids"
FILL = """
    INSERT INTO vsync.cids (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                            account_type, tax_id)
    SELECT vsync.uuid_v7(at), at, at, sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), '12345678', '0001', n::text, 1,
           lpad(n::text, 11, '0')
    FROM generate_series(1, %s) AS n,
         LATERAL (SELECT date_trunc('milliseconds', now()) - interval '1 ms' * (%s - n)) AS t (at)
"""


def run() -> list[Figure]:
    """Exports whole records, then only the CIDs."""
    figures: list[Figure] = []
    with postgres() as admin, database(admin, "ours") as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(FILL, (RECORDS, RECORDS))
            connection.execute("VACUUM ANALYZE vsync.cids")
        with vsyncd(conninfo) as service:
            for name, cids_only in (("records", False), ("CIDs alone", True)):
                seconds, grown = uvloop.run(_export(service, cids_only=cids_only))
                figures += [
                    rate("export", f"ExportCids, {name}", [RECORDS / seconds], "rows/s"),
                    Figure(
                        bench="export",
                        name=f"vsyncd's growth, {name}",
                        value=grown / 2**20,
                        unit="MiB",
                        target="at most 64",
                        is_met=grown < 64 * 2**20,
                    ),
                ]
    return figures


async def _export(service: Service, *, cids_only: bool) -> tuple[float, int]:
    process = psutil.Process(service.process.pid)
    before = peak = process.memory_info().rss
    rows = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        begin = time.perf_counter()
        request = pb.ExportCidsRequest(cids_only=cids_only).SerializeToString()
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_EXPORT)
        async for data in call(request):
            answer = pb.ExportCidsResponse.FromString(data)
            rows += len(answer.records) + len(answer.cids) // 32
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0)
        seconds = time.perf_counter() - begin
    if rows != RECORDS:
        raise RuntimeError(f"{rows} of {RECORDS} records came")
    return seconds, peak - before
