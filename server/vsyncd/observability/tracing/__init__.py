"""Spans of OpenTelemetry, for whoever asks for them with OTEL_* variables; without that nothing is imported or made.

TRACES       what the service's parts tell of what they do: TRACES.operation("cache get", ...), TRACES.batch(...)
spans        the same in OpenTelemetry's terms; needs the extra `tracing`
setup        what the environment asks for
"""

from vsyncd.observability.tracing.traces import TRACES, TracingError

__all__ = ["TRACES", "TracingError"]
