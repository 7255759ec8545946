"""Tracing according to the OTEL_* variables."""

import os
import subprocess
import sys

import pytest
from vsyncd.config import StartError
from vsyncd.observability.tracing import exporters, tracing


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
def test_exporters_follow_the_environment(environment: dict[str, str], expected: list[str]) -> None:
    assert exporters(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "nobody"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"},
    ],
)
def test_a_missing_exporter_is_named(environment: dict[str, str]) -> None:
    missing = r"OTEL_TRACES_EXPORTER: exporter not installed: (nobody|otlp)"
    with pytest.raises(StartError, match=missing), tracing(environment):
        pass


@pytest.mark.parametrize(("exporter", "made"), [("console", "OpenTelemetrySpans"), ("none", "NoneType")])
def test_opentelemetry_is_imported_only_if_requested(exporter: str, made: str) -> None:
    program = (
        "import os, sys; from vsyncd.observability.tracing import TRACES\n"
        "from vsyncd.observability.tracing import tracing\n"
        "with tracing(os.environ): print(type(TRACES.spans).__name__, 'opentelemetry.sdk.trace' in sys.modules)"
    )
    environment = os.environ | {"OTEL_TRACES_EXPORTER": exporter}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [made, str(made != "NoneType")]
