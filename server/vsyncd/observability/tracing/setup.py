"""What the OTEL_* variables ask for, as OpenTelemetry's SDK defines them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from threading import Thread
from typing import Final

from vsyncd.observability.tracing.traces import TRACES, TracingError

# Seconds that the last spans are waited for.
_LAST: Final = 2.0
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def exporters(environment: Mapping[str, str]) -> list[str]:
    """The exporters that are asked for. None are unless OTEL_TRACES_EXPORTER names them, or a collector is named."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else ""
    names = (environment.get("OTEL_TRACES_EXPORTER") or default).split(",")
    return [name.strip() for name in names if name.strip() not in {"", "none"}]


@contextmanager
def tracing(environment: Mapping[str, str]) -> Iterator[None]:
    """Send spans where the environment says, while the block lasts. Raises TracingError."""
    names = exporters(environment)
    if not names:
        yield
        return
    try:
        # An extra of its own, which may not be there.
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above

        from vsyncd.observability.tracing.spans import OpenTelemetrySpans  # noqa: PLC0415 - see above
    except ImportError as error:
        raise TracingError("OTEL_TRACES_EXPORTER asks for spans: pip install 'vsyncd[tracing]'") from error
    makers = _makers(names, environment)
    # OTEL_SERVICE_NAME wins over the name given here, when it is set.
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "vsyncd"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    for maker in makers:
        provider.add_span_processor(BatchSpanProcessor(maker.load()()))
    TRACES.spans = OpenTelemetrySpans(provider)
    try:
        yield
    finally:
        TRACES.spans = None
        # A collector that is not there would be tried again for long.
        sending = Thread(target=provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_LAST)


def _makers(names: Sequence[str], environment: Mapping[str, str]) -> list[EntryPoint]:
    """What makes these exporters. Raises TracingError."""
    known = {each.name: each for each in entry_points(group="opentelemetry_traces_exporter")}
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    otlp = f"otlp_proto_{protocol.partition('/')[0]}"
    makers = {name: known.get(otlp if name == "otlp" else name) for name in names}
    unknown = [name for name, maker in makers.items() if maker is None]
    if unknown:
        raise TracingError(f"OTEL_TRACES_EXPORTER: there is no exporter {', '.join(unknown)} installed")
    return [maker for maker in makers.values() if maker is not None]
