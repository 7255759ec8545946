"""vsync top: the status of the server in a terminal."""

import grpc
import pytest
from vsync import message_json
from vsync.v1 import status_pb2 as pb

from tests.harness.peer import Broken, Peer
from tests.harness.statuses import HOSTILE, STATES, status_in
from tests.harness.vsync_command import NOWHERE, Vsync


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_shown(peer: Peer, vsync: Vsync, state: str) -> None:
    status = status_in(state)
    peer.will(pb.GetStatusResponse(status=status))
    ran = vsync("top", "--once", "--target", peer.target)
    assert (ran.code, ran.err) == (0, "")
    words = " ".join(ran.out.split())
    assert status.health.message in words
    assert all(finding.message in words for finding in status.findings)
    assert all(batch.ispb in ran.out for batch in status.batches)
    assert all(vsync.ispb in ran.out and f"{vsync.count:,}" in ran.out for vsync in status.vsyncs)


def test_the_degraded_state_names_what_is_wrong(peer: Peer, vsync: Vsync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    peer.will(pb.GetStatusResponse(status=status_in("degraded")))
    ran = vsync("top", "--once", "--target", peer.target)
    assert ran.out.startswith("● degraded ")
    for text in (
        "✗ FAILED batches: 32425262",
        "! Batches without progress",
        "✗ rejected",
        "KEY_NOT_FOUND",
        "1 d 4 h ago",
    ):
        assert text in ran.out
    # Markup in texts of the server is not interpreted.
    assert HOSTILE in ran.out


def test_json_is_the_status(peer: Peer, vsync: Vsync) -> None:
    status = status_in("healthy")
    peer.will(pb.GetStatusResponse(status=status))
    ran = vsync("top", "--json", "--target", peer.target)
    assert (ran.code, ran.json) == (0, message_json.as_json(status))
    assert ran.json["collected_at"] == status.collected_at.ToJsonString()


def test_a_failed_call_is_exit_code_1(peer: Peer, vsync: Vsync) -> None:
    peer.will(Broken(grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED"))
    ran = vsync("top", "--once", "--target", peer.target)
    assert (ran.code, ran.out) == (1, "")
    assert vsync("top", "--once", "--target", NOWHERE, "--timeout", "0.5").code == 1
