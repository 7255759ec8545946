"""What the OTEL_* variables ask for."""

import os
import subprocess
import sys

import pytest
from vsyncd.observability.tracing import TracingError
from vsyncd.observability.tracing.setup import exporters, tracing


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "ours"}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, []),
    ],
)
def test_spans_are_made_when_somebody_asks_for_them(environment: dict[str, str], expected: list[str]) -> None:
    assert exporters(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "nobody"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"},
    ],
)
def test_an_exporter_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    missing = r"OTEL_TRACES_EXPORTER: exporter not installed: (nobody|otlp)"
    with pytest.raises(TracingError, match=missing), tracing(environment):
        pass


@pytest.mark.parametrize(("exporter", "made"), [("console", "OpenTelemetrySpans"), ("none", "NoneType")])
def test_a_process_that_is_not_asked_does_not_even_import_it(exporter: str, made: str) -> None:
    program = (
        "import os, sys; from vsyncd.observability.tracing import TRACES\n"
        "from vsyncd.observability.tracing.setup import tracing\n"
        "with tracing(os.environ): print(type(TRACES.spans).__name__, 'opentelemetry.sdk.trace' in sys.modules)"
    )
    environment = os.environ | {"OTEL_TRACES_EXPORTER": exporter}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [made, str(made != "NoneType")]
