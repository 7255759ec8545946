"""Configures the exporters that the OTEL_* variables ask for, as OpenTelemetry's SDK defines them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from threading import Thread
from typing import Final

from vsyncd.observability.tracing import TRACES, TracingError

_SHUTDOWN_TIMEOUT_S: Final = 2.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def exporters(environment: Mapping[str, str]) -> list[str]:
    """Returns the names of the exporters: those of OTEL_TRACES_EXPORTER, or otlp if a collector is configured."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else ""
    names = (environment.get("OTEL_TRACES_EXPORTER") or default).split(",")
    return [name.strip() for name in names if name.strip() not in {"", "none"}]


@contextmanager
def tracing(environment: Mapping[str, str]) -> Iterator[None]:
    """Exports spans as the environment says until the block ends. Raises TracingError."""
    names = exporters(environment)
    if not names:
        yield
        return
    try:
        # The extra may not be installed.
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above

        from vsyncd.observability.tracing.spans import OpenTelemetrySpans  # noqa: PLC0415 - see above
    except ImportError as error:
        raise TracingError("OTEL_TRACES_EXPORTER asks for spans: pip install 'vsyncd[tracing]'") from error
    factories = _exporter_factories(names, environment)
    # OTEL_SERVICE_NAME has priority.
    attributes = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "vsyncd"}
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    for factory in factories:
        provider.add_span_processor(BatchSpanProcessor(factory.load()()))
    TRACES.spans = OpenTelemetrySpans(provider)
    try:
        yield
    finally:
        TRACES.spans = None
        # The exporter retries for a long time if the collector is unavailable.
        sending = Thread(target=provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_SHUTDOWN_TIMEOUT_S)


def _exporter_factories(names: Sequence[str], environment: Mapping[str, str]) -> list[EntryPoint]:
    """Returns the entry points of these exporters. Raises TracingError."""
    known = {each.name: each for each in entry_points(group="opentelemetry_traces_exporter")}
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    otlp = f"otlp_proto_{protocol.partition('/')[0]}"
    factories = {name: known.get(otlp if name == "otlp" else name) for name in names}
    unknown = [name for name, factory in factories.items() if factory is None]
    if unknown:
        raise TracingError(f"OTEL_TRACES_EXPORTER: exporter not installed: {', '.join(unknown)}")
    return [factory for factory in factories.values() if factory is not None]
