"""What /metrics tells of the work that a vsyncd does. Counters are a process's: tests compare before and after."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import psycopg
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import Stub, a_record, cid_of, create
from tests.harness.clusters import Database
from tests.harness.http import get, scrape
from tests.harness.logs import captured_logs

GET = {"grpc_type": "unary", "grpc_service": "vsync.v1.CidService", "grpc_method": "GetCid"}
IMPORT = {"grpc_type": "bidi_stream", "grpc_method": "ImportCids"}
EXPORT = {"grpc_type": "server_stream", "grpc_method": "ExportCids"}


async def test_calls_are_counted_by_method_and_code(application: Application, cids: Stub) -> None:
    await create(cids, [1])
    before = await scrape(application.http.port)
    await asyncio.gather(*(cids.GetCid(pb.GetCidRequest(cid=cid_of(1))) for _ in range(20)))
    for request in (pb.GetCidRequest(cid=cid_of(2)), pb.GetCidRequest(cid="nonsense")):
        with pytest.raises(grpc.aio.AioRpcError):
            await cids.GetCid(request)
    after = await scrape(application.http.port)

    def grown(name: str, **labels: str) -> float:
        return after.of(name, **labels) - before.of(name, **labels)

    assert grown("grpc_server_started_total", **GET) == 22
    assert grown("grpc_server_handled_total", **GET, grpc_code="OK") == 20
    assert grown("grpc_server_handled_total", **GET, grpc_code="NotFound") == 1
    assert grown("grpc_server_handled_total", **GET, grpc_code="InvalidArgument") == 1
    assert grown("grpc_server_msg_received_total", **GET) == 22
    assert grown("grpc_server_msg_sent_total", **GET) == 20
    assert grown("grpc_server_handling_seconds_count", **GET) == 22
    assert grown("grpc_server_handling_seconds_bucket", **GET, le="+Inf") == 22
    assert grown("vsyncd_failures_total", reason="CID_NOT_FOUND") == 1
    assert after.of("vsyncd_calls_in_flight", **GET) == 0
    assert grown("vsyncd_batch_calls_sum", batch="get_by_cid") == 21
    assert 1 <= grown("vsyncd_batch_calls_count", batch="get_by_cid") <= 21  # how many went together is chance
    assert grown("vsyncd_query_seconds_count", query="cids.get_by_cids") == grown(
        "vsyncd_batch_calls_count", batch="get_by_cid"
    )


async def test_streams_are_counted_message_by_message(application: Application, cids: Stub) -> None:
    port = application.http.port
    before = await scrape(port)
    sent = asyncio.Event()

    async def requests() -> AsyncIterator[pb.ImportCidsRequest]:
        start = pb.ImportStart(import_id=str(uuid4()), on_conflict=pb.ON_CONFLICT_SKIP)
        yield pb.ImportCidsRequest(start=start)
        records = [a_record(number) for number in range(10)]
        yield pb.ImportCidsRequest(chunk=pb.ImportChunk(number=1, records=[*records, a_record(10, ispb="x")]))
        yield pb.ImportCidsRequest(chunk=pb.ImportChunk(number=2, records=records[:4]))
        await sent.wait()

    call = cids.ImportCids(requests())
    answers = [await call.read() for _ in range(3)]
    during = await scrape(port)
    assert during.of("vsyncd_calls_in_flight", **IMPORT) == 1
    assert during.of("grpc_server_msg_sent_total", **IMPORT) - before.of("grpc_server_msg_sent_total", **IMPORT) == 3
    sent.set()
    assert await call.code() is grpc.StatusCode.OK
    assert len(answers) == 3
    exported = [len(message.records) async for message in cids.ExportCids(pb.ExportCidsRequest())]
    after = await scrape(port)

    def grown(name: str, **labels: str) -> float:
        return after.of(name, **labels) - before.of(name, **labels)

    assert grown("grpc_server_msg_received_total", **IMPORT) == 3
    assert grown("grpc_server_msg_sent_total", **EXPORT) == len(exported)
    assert after.of("vsyncd_calls_in_flight", **IMPORT) == 0
    assert grown("vsyncd_import_records_total", result="inserted") == 10
    assert grown("vsyncd_import_records_total", result="skipped") == 4
    assert grown("vsyncd_import_records_total", result="rejected") == 1
    assert grown("vsyncd_export_records_total", form="records") == sum(exported) == 10
    assert grown("vsyncd_query_seconds_count", query="cids.copy_in") >= 1


async def test_a_cancelled_call_and_one_past_its_deadline_are_told_apart(
    application: Application, cids: Stub, database: Database
) -> None:
    before = await scrape(application.http.port)
    request = pb.GetCidRequest(cid=cid_of(1))
    with psycopg.connect(database.admin) as blocker:
        blocker.execute('LOCK TABLE "vsync".cids IN ACCESS EXCLUSIVE MODE')
        left = cids.GetCid(request)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await cids.GetCid(request, timeout=3)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        left.cancel()
        async with asyncio.timeout(60):
            while (after := await scrape(application.http.port)).of("vsyncd_calls_in_flight", **GET):
                pass
    for code in ("Canceled", "DeadlineExceeded"):
        name = "grpc_server_handled_total"
        assert after.of(name, **GET, grpc_code=code) - before.of(name, **GET, grpc_code=code) == 1, code


@pytest.mark.settings(db_slow_query_ms=0)
async def test_slow_statements_are_logged_by_name_and_call(application: Application, cids: Stub) -> None:
    correlation_id = str(uuid4())
    with captured_logs() as log:
        await cids.BatchCreateCids(
            pb.BatchCreateCidsRequest(records=[a_record(7)]), metadata=(("x-correlation-id", correlation_id),)
        )
    slow = {line["query"]: line for line in log.named("slow query") if line.get("correlation_id") == correlation_id}
    assert {"cids.create_many", "postgres.append_audit", "postgres.commit"} <= slow.keys()
    assert slow["cids.create_many"]["duration_ms"] >= 0
    assert slow["cids.create_many"]["method"] == "vsync.v1.CidService/BatchCreateCids"
    assert a_record(7).key_value not in log.text
    assert (await scrape(application.http.port)).of("vsyncd_slow_queries_total", query="cids.create_many") >= 1


@pytest.mark.settings(db_max_connections=3)
async def test_the_pool_and_health_are_told(application: Application) -> None:
    await application.database.pool.wait()
    assert (await get(application.http.port, "/health")).status == 200
    connection = await application.database.pool.acquire(5)
    try:
        samples = await scrape(application.http.port)
    finally:
        await application.database.pool.release(connection)
    assert samples.of("vsyncd_pool_max_connections", pool="primary") == 3
    assert samples.of("vsyncd_pool_connections", pool="primary", state="used") >= 1
    assert samples.of("vsyncd_pool_requests_total", pool="primary") >= 1
    primary = {"dependency": "postgresql-primary", "critical": "true"}
    assert samples.of("vsyncd_dependency_status", **primary) == 0
    assert samples.of("vsyncd_dependency_last_success_timestamp_seconds", **primary) > 1e9
    assert samples.of("vsyncd_ready") == 1
    assert samples.of("vsyncd_build_info") == 1
    assert samples.of("process_resident_memory_bytes") > 0


async def test_a_scraper_chooses_its_form(application: Application) -> None:
    text = await get(application.http.port, "/metrics")
    assert text.headers["content-type"].startswith("text/plain")
    metrics = await get(application.http.port, "/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert metrics.body.endswith(b"# EOF\n")
    odd = await get(application.http.port, "/metrics", accept="application/openmetrics-text;version=abc")
    assert (odd.status, odd.headers["content-type"]) == (200, text.headers["content-type"])
    head = await get(application.http.port, "/metrics", method="HEAD")
    assert (head.status, head.body) == (200, b"")
