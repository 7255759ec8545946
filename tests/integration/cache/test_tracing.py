"""Spans: one per call, a child of its caller's span, with the operations of Redis and PostgreSQL."""

from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.observability.tracing import TRACES
from vsyncd.observability.tracing.spans import OpenTelemetrySpans

from tests.harness.cids import ISPB, Stub, a_record, cid_of, create, failure_of, rows, until
from tests.harness.clusters import Database
from tests.harness.logs import captured_logs
from tests.integration.cache.instances import invalidated

pytestmark = pytest.mark.usefixtures("unhurried")

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
CORRELATION_ID = "0af7651916cd43dd8448eb211c80319c"
CPF = "52998224725"
GET = "vsync.v1.CidService/GetCid"


class EndedSpans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self.exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """Waits for a span of this name and returns the latest."""
        await until(lambda: bool(self.named(name)))
        return self.named(name)[-1]


@pytest.fixture(autouse=True)
def spans() -> Iterator[EndedSpans]:
    """Installed before the application is built."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    TRACES.spans = OpenTelemetrySpans(provider)
    yield EndedSpans(exporter)
    TRACES.spans = None
    provider.shutdown()


async def test_a_call_continues_its_callers_trace_and_is_linked_to_its_batches(
    application: Application, cids: Stub, spans: EndedSpans
) -> None:
    [record] = await create(cids, [1])
    await invalidated(application)
    spans.exporter.clear()
    request = pb.GetCidRequest(cid=cid_of(1))
    metadata = (*TRACEPARENT, ("x-correlation-id", CORRELATION_ID))
    assert (await cids.GetCid(request, metadata=metadata)).record == record
    call = await spans.one(GET)
    assert call.kind is SpanKind.SERVER
    assert call.context is not None
    assert f"{call.context.trace_id:032x}" == TRACE
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == CALLER
    assert dict(call.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "vsync.v1.CidService",
        "rpc.method": "GetCid",
        "rpc.grpc.status_code": 0,
        "vsyncd.correlation_id": CORRELATION_ID,
    }
    for batch, operation in (("batch cache_get", "cache get"), ("batch get_by_cid", "cids.get_by_cids")):
        batch_span = await spans.one(batch)
        assert batch_span.context is not None
        assert [link.context.trace_id for link in batch_span.links] == [call.context.trace_id]
        operations = [
            span for span in spans.named(operation) if span.parent and span.parent.span_id == batch_span.context.span_id
        ]
        assert [span.kind for span in operations] == [SpanKind.CLIENT]
    await spans.one("cache fill")


async def test_a_failed_call_has_its_status_and_no_span_contains_personal_data(
    application: Application, cids: Stub, spans: EndedSpans
) -> None:
    [record] = await create(cids, [1])
    await invalidated(application)
    spans.exporter.clear()
    await cids.GetCid(pb.GetCidRequest(key=pb.CidKey(key_value=record.key_value, ispb=ISPB)))
    await cids.BatchGetCids(pb.BatchGetCidsRequest(cids=[record.cid]), metadata=TRACEPARENT)
    await failure_of(cids.GetCid(pb.GetCidRequest(cid=cid_of(2))))
    await failure_of(cids.CreateCid(pb.CreateCidRequest(record=record)))
    await until(lambda: len(spans.named(GET)) == 2)
    missing = (await spans.one(GET)).attributes or {}
    assert missing["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert (await spans.one(GET)).status.status_code is StatusCode.UNSET, "NOT_FOUND is not an error of the server"
    batch = await spans.one("vsync.v1.CidService/BatchGetCids")
    assert batch.context is not None
    operations = [
        span for span in spans.named("cache get") if span.parent and span.parent.span_id == batch.context.span_id
    ]
    assert operations, "operations of a single call are its children"
    everything = "".join(span.to_json() for span in spans.exporter.get_finished_spans())
    for secret in (record.key_value, record.cid, record.tax_id, record.id):
        assert secret not in everything


async def test_personal_data_in_metadata_reaches_no_span_log_or_audit_entry(
    cids: Stub, spans: EndedSpans, database: Database
) -> None:
    free_text = [
        ("x-correlation-id", CPF),
        ("tracestate", f"bank=t{CPF}"),
        ("baggage", f"cpf={CPF}"),
        (f"x-{CPF}", CPF),
    ]
    with captured_logs() as log:
        request = pb.CreateCidRequest(record=a_record(1))
        await cids.CreateCid(request, metadata=(*TRACEPARENT, *free_text))
        await failure_of(cids.CreateCid(request, metadata=(*TRACEPARENT, *free_text)))
        await until(lambda: len(spans.named("vsync.v1.CidService/CreateCid")) == 2)
    ended = spans.exporter.get_finished_spans()
    call = await spans.one("vsync.v1.CidService/CreateCid")
    assert call.context is not None
    assert f"{call.context.trace_id:032x}" == TRACE
    audited = str(rows(database, "SELECT to_jsonb(a) FROM vsync.audit_logs AS a"))
    assert log.named("correlation id replaced")
    for text in (log.text, audited, *(span.to_json() for span in ended)):
        assert text
        assert CPF not in text
    assert all(not span.context.trace_state for span in ended if span.context)


def test_the_tracestate_of_a_trusted_caller_is_taken_over() -> None:
    metadata = dict([*TRACEPARENT, ("tracestate", "bank=t1")])
    assert TRACES.spans is not None
    for trusted, states in ((True, {"bank": "t1"}), (False, {})):
        parent = get_current_span(TRACES.spans.parent_of(metadata, trusted=trusted)).get_span_context()
        assert (f"{parent.trace_id:032x}", dict(parent.trace_state)) == (TRACE, states)


async def test_the_span_of_a_failed_operation_has_the_error_type(application: Application, spans: EndedSpans) -> None:
    assert application.cache is not None
    with pytest.raises(ValueError, match="private"), TRACES.operation("cache get", "redis"):
        raise ValueError("private")
    failed = [span for span in spans.named("cache get") if span.status.status_code is StatusCode.ERROR]
    assert [dict(span.attributes or {})["error.type"] for span in failed] == ["ValueError"]
    assert "private" not in failed[0].to_json()
