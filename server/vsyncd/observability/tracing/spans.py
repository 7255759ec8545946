"""OpenTelemetry spans with the names of its semantic conventions for RPC servers and database clients.

Spans never contain the text of an error, because PostgreSQL's errors quote values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import propagate
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    set_span_in_context,
    use_span,
)

from vsyncd import __version__

# gRPC codes that are errors of the server: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
# (semantic conventions for gRPC, status of a server span).
_ERRORS: Final = frozenset({2, 4, 12, 13, 14, 15})


class OpenTelemetrySpans:
    """Creates spans. Their names and attributes contain nothing of a request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("vsyncd", __version__)

    def parent_of(self, metadata: Mapping[str, str], *, trusted: bool) -> contexts.Context:
        """Returns the trace context in the metadata of a call.

        If the caller is not `trusted`, the context has only the ids and flags of its span: tracestate and baggage are
        free text.
        """
        given = propagate.extract(metadata, contexts.Context())
        if trusted:
            return given
        caller = get_current_span(given).get_span_context()
        if not caller.is_valid:
            return contexts.Context()
        bare = SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=caller.trace_flags)
        return set_span_in_context(NonRecordingSpan(bare), contexts.Context())

    @contextmanager
    def call(
        self, method: str, parent: contexts.Context, correlation_id: str, code: Callable[[], int]
    ) -> Iterator[None]:
        """Returns the span of a served call. `code` returns the gRPC status code after the call."""
        service, _, name = method.partition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "vsyncd.correlation_id": correlation_id,
        }
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        finally:
            number = code()
            span.set_attribute("rpc.grpc.status_code", number)
            if number in _ERRORS:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    @contextmanager
    def operation(self, name: str, system: str) -> Iterator[None]:
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes={"db.system.name": system})
        with _end_span(span):
            yield

    @contextmanager
    def batch(self, name: str, members: Sequence[object]) -> Iterator[None]:
        """Returns the span of a batch, linked to the spans of its members."""
        links = [Link(member) for member in members if isinstance(member, SpanContext) and member.is_valid]
        span = self._tracer.start_span(name, links=links, attributes={"vsyncd.calls": len(members)})
        with _end_span(span), use_span(span, record_exception=False, set_status_on_exception=False):
            yield

    def current_span(self) -> object:
        return get_current_span().get_span_context()

    def detached_context(self) -> Context:
        """Returns an empty context that contains only the current span."""
        context = Context()
        context.run(contexts.attach, contexts.get_current())
        return context


@contextmanager
def _end_span(span: Span) -> Iterator[None]:
    """Ends the span after the block, with the type of the error if the block raised one."""
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()
