"""Gauges that jobs measure."""

import pytest
from prometheus_client import CollectorRegistry
from vsyncd.observability.sync_metrics import MeasuredGauge


@pytest.mark.parametrize(("max_age_s", "expected"), [(60.0, 1.0), (0.0, None)])
def test_a_value_that_can_no_longer_be_measured_expires(max_age_s: float, expected: float | None) -> None:
    registry = CollectorRegistry()
    gauge = MeasuredGauge("vsyncd_example", "An example.", "status", registry=registry, max_age_s=max_age_s)
    assert registry.get_sample_value("vsyncd_example", {"status": "open"}) is None
    gauge.replace({"open": 1.0})
    assert registry.get_sample_value("vsyncd_example", {"status": "open"}) == expected
