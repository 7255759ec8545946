"""Lines of gRPC core as log events."""

import pytest
from vsyncd.transport.core_log import CoreLog

from tests.harness.logs import captured_logs


@pytest.mark.parametrize(("severity", "level"), [("I", "info"), ("W", "warning"), ("E", "error"), ("F", "critical")])
def test_the_severity_of_a_line_is_the_level_of_its_event(severity: str, level: str) -> None:
    with captured_logs() as log:
        line = f"{severity}1129 13:04:32.028774    4927 chttp2_server.cc:794] Only 1 address added"
        CoreLog(max_per_second=1).log(line)
    [event] = log.events
    assert (event["event"], event["level"], event["source"]) == ("gRPC core", level, "chttp2_server.cc:794")
    assert event["text"] == "Only 1 address added"


@pytest.mark.parametrize("peer", ["ipv4:192.0.2.7:38359", "ipv6:%5B2001:db8::7%5D:38359", "ipv6:[2001:db8::7]:38359"])
def test_the_address_of_a_peer_is_left_out(peer: str) -> None:
    with captured_logs() as log:
        CoreLog(max_per_second=1).log(f"I1129 13:04:32.028774    4927 chttp2_transport.cc:1403] {peer}: Got goaway [2]")
    assert log.events[0]["text"] == "(peer) Got goaway [2]"


def test_each_kind_of_line_has_its_own_limit() -> None:
    with captured_logs() as log:
        core = CoreLog(max_per_second=1)
        for _ in range(3):
            core.log("I1129 12:54:59.055771   15060 a.cc:1] one")
            core.log("I1129 12:54:59.055771   15060 a.cc:2] other")
    assert [event["text"] for event in log.events] == ["one", "other"]


def test_text_of_other_origin_is_logged_completely() -> None:
    with captured_logs() as log:
        for _ in range(3):
            CoreLog(max_per_second=1).log("x" * 2000)
    assert [event["text"] for event in log.events] == ["x" * 2000] * 3
