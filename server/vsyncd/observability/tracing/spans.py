"""Spans of OpenTelemetry, named as its semantic conventions for RPC servers and database clients have it.

An error's text never stands in them: PostgreSQL's quotes values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import propagate
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    use_span,
)

from vsyncd import __version__

# Of gRPC's codes, those that the server is to blame for: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
# UNAVAILABLE, DATA_LOSS (semantic conventions for gRPC, status of a server's span).
_ERRORS: Final = frozenset({2, 4, 12, 13, 14, 15})


class OpenTelemetrySpans:
    """See Spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("vsyncd", __version__)

    @contextmanager
    def call(
        self, method: str, metadata: Mapping[str, str | bytes], correlation_id: str, code: Callable[[], int]
    ) -> Iterator[None]:
        """See Spans."""
        service, _, name = method.partition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "vsyncd.correlation_id": correlation_id,
        }
        caller = propagate.extract({key: value for key, value in metadata.items() if isinstance(value, str)})
        span = self._tracer.start_span(method, caller, SpanKind.SERVER, attributes)
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
        """See Spans."""
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes={"db.system.name": system})
        with _ended(span):
            yield

    @contextmanager
    def batch(self, name: str, members: Sequence[object]) -> Iterator[None]:
        """See Spans."""
        links = [Link(member) for member in members if isinstance(member, SpanContext) and member.is_valid]
        span = self._tracer.start_span(name, links=links, attributes={"vsyncd.calls": len(members)})
        with _ended(span), use_span(span, record_exception=False, set_status_on_exception=False):
            yield

    def here(self) -> object:
        """See Spans."""
        return get_current_span().get_span_context()

    def apart(self) -> Context:
        """See Spans."""
        apart = Context()
        apart.run(contexts.attach, contexts.get_current())
        return apart


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    """Ends a span, with the kind of the error that left the block."""
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()
