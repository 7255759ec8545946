"""The output and the exit codes of the vsync command."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc
import pytest
from vsync import cli
from vsync.cli import app
from vsync.cli.console import print_error
from vsync.errors import UnavailableError
from vsync.health.v1 import health_pb2
from vsync.sample import entries
from vsync.v1 import cid_pb2

from tests.harness.peer import Broken, Peer
from tests.harness.vsync_command import NOWHERE, Vsync

MAIN = "import sys; from vsync.cli import main; main()"


def test_without_the_cli_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda _name: None)
    assert cli.main() == 1
    assert capsys.readouterr() == ("", "vsync: the command is not installed: pip install 'vsyncd[cli]'\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["get"],
        ["get", "--cid", "c", "--id", "i"],
        ["get", "--key", "k"],
        ["get", "--key", "5511987654321", "--ispb", "12345678"],
        ["get", "--ispb", "12345678", "--cid", "c"],
        ["import"],
        ["import", "not-there.csv"],
        ["import", "name.txt"],
        ["import", "-", "--on-conflict", "maybe"],
        ["import", "-", "--resume", "no-uuid"],
        ["export", "name.txt"],
        ["export", "-", "--json"],
        ["export", "-", "--created-after", "yesterday"],
        ["export", "-", "--key-type", "IBAN"],
        ["sample", "--count", "-1"],
        ["sample", "--out", "name.txt"],
        ["sample", "--json"],
        ["health", "--timeout", "0"],
        ["health", "--tls-cert", __file__],
    ],
)
def test_wrong_usage_is_exit_code_2(vsync: Vsync, arguments: list[str]) -> None:
    ran = vsync(*arguments)
    assert ran.code == 2
    assert not ran.out
    assert "Usage:" in ran.err


def test_help_and_version(vsync: Vsync) -> None:
    assert vsync("--help").code == vsync("import", "--help").code == 0
    assert vsync("--version").out.startswith("vsync, version ")


@pytest.mark.parametrize("name", app.cli.list_commands(click.Context(app.cli)))
def test_the_help_lists_the_first_sentence_of_each_command(vsync: Vsync, name: str) -> None:
    commands = vsync("--help").out.partition("Commands:\n")[2].splitlines()
    listed = dict(line.split(maxsplit=1) for line in commands)
    loaded = app.cli.get_command(click.Context(app.cli), name)
    assert loaded is not None
    assert loaded.help is not None
    assert listed[name] == loaded.help.partition("\n\n")[0]


def test_the_help_loads_neither_grpc_nor_rich() -> None:
    program = f"{MAIN}; print(sorted({{'grpc', 'google.protobuf', 'rich'}} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("status", "code"), [("HEALTHY", 0), ("DEGRADED", 1), ("UNHEALTHY", 2)])
def test_the_exit_code_of_health_is_the_status(vsync: Vsync, peer: Peer, status: str, code: int) -> None:
    dependency = health_pb2.DependencyHealth(
        name="postgresql-primary",
        status=health_pb2.ServiceStatus.Value(status),
        is_critical=True,
        response_time_ms=8,
        error="it is slow" if code else "",
        config=health_pb2.DependencyConfig(version="18.4"),
    )
    answer = health_pb2.HealthResponse(
        status=health_pb2.ServiceStatus.Value(status), message="a word", dependencies=[dependency]
    )
    peer.will(answer, answer)
    ran = vsync("health", "--details", "--target", peer.target)
    assert ran.code == code
    assert f"● {status.lower()}" in ran.out
    assert "a word" in ran.out
    assert "postgresql-primary" in ran.out
    assert "18.4" in ran.out
    ran = vsync("health", "--json", "--target", peer.target)
    assert (ran.code, ran.json["status"]) == (code, status)
    assert [call.requests[0].include_details for call in peer.seen()] == [True, False]


def test_a_report_without_the_requested_details_has_a_note(vsync: Vsync, peer: Peer) -> None:
    peer.will(health_pb2.HealthResponse(dependencies=[health_pb2.DependencyHealth(name="postgresql-primary")]))
    ran = vsync("health", "--details", "--target", peer.target, "--json")
    assert ran.code == 0
    assert ran.err == "note: the server shows the details only to callers with the role operator\n"


def test_liveness_checks_no_dependency(vsync: Vsync, peer: Peer) -> None:
    alive = health_pb2.LivenessResponse(status=health_pb2.HEALTHY, message="alive")
    dead = health_pb2.LivenessResponse(status=health_pb2.UNHEALTHY)
    peer.will(alive, dead)
    ran = vsync("health", "--liveness", "--target", peer.target)
    assert (ran.code, ran.out) == (0, f"● healthy  {peer.target}  alive\n")
    ran = vsync("health", "--liveness", "--target", peer.target, "--json")
    assert (ran.code, ran.json["status"]) == (2, "UNHEALTHY")
    assert [call.method for call in peer.seen()] == ["GetLiveness", "GetLiveness"]
    assert vsync("health", "--liveness", "--target", NOWHERE).code == 3


def test_health_of_an_unreachable_server(vsync: Vsync) -> None:
    ran = vsync("health", "--target", NOWHERE)
    assert ran.code == 3
    assert ran.err.startswith("error: the server cannot be reached: ")
    assert ran.err.count("\n") == 1
    ran = vsync("health", "--target", NOWHERE, "--json")
    assert (ran.code, ran.json["status"]) == (3, "UNREACHABLE")


def test_get_prints_the_record(vsync: Vsync, peer: Peer) -> None:
    (record,) = entries(1)
    record.sync_status = cid_pb2.SYNC_STATUS_SYNCED
    peer.will(*[cid_pb2.GetCidResponse(record=record)] * 3)
    assert f"cid              {record.cid}\n" in vsync("get", "--cid", record.cid, "--target", peer.target).out
    key = ["--key", record.key_value, "--ispb", record.ispb]
    assert vsync("get", *key, "--target", peer.target, "--json").json["sync_status"] == "SYNCED"
    assert vsync("get", "--id", "i", "--target", peer.target).code == 0
    by = [call.requests[0] for call in peer.seen()]
    assert [request.WhichOneof("by") for request in by] == ["cid", "key", "id"]


@pytest.mark.parametrize(
    ("written", "key"),
    [("111.222.333-00", "11122233300"), ("+55 (11) 98765-4321", "+5511987654321"), ("A@B.com", "a@b.com")],
)
def test_get_converts_a_key_to_its_canonical_form(vsync: Vsync, peer: Peer, written: str, key: str) -> None:
    peer.will(cid_pb2.GetCidResponse(record=next(entries(1))))
    assert vsync("get", "--key", written, "--ispb", "12345678", "--target", peer.target).code == 0
    (call,) = peer.seen()
    assert call.requests[0].key == cid_pb2.CidKey(key_value=key, ispb="12345678")


def test_get_describes_the_form_of_a_key_without_its_value(vsync: Vsync) -> None:
    ran = vsync("get", "--key", "secret-value", "--ispb", "12345678", "--target", NOWHERE)
    assert (ran.code, "canonical form" in ran.err, "secret-value" in ran.err) == (2, True, False)


def test_a_failed_call_is_exit_code_1_with_its_correlation_id(vsync: Vsync, peer: Peer) -> None:
    missing = Broken(grpc.StatusCode.NOT_FOUND, "CID_NOT_FOUND")
    peer.will(missing, missing)
    ran = vsync("get", "--cid", "c", "--target", peer.target)
    assert (ran.code, ran.out) == (1, "")
    (call,) = peer.seen()
    correlation = str(call.metadata["x-correlation-id"])
    assert ran.err == f"error: broken (NOT_FOUND, CID_NOT_FOUND, correlation id {correlation})\n"
    error = vsync("get", "--cid", "c", "--target", peer.target, "--json").json["error"]
    assert isinstance(error, dict)
    assert error["reason"] == "CID_NOT_FOUND"


def test_samples_are_files_that_can_be_imported(vsync: Vsync) -> None:
    assert vsync("sample", "--count", "3", "--seed", "4", "--out", "s.csv.gz").code == 0
    assert vsync("sample", "--count", "3", "--seed", "4", "--out", "s.csv", "--json").json["records"] == 3
    lines = vsync("sample", "--count", "3", "--seed", "4").out.splitlines()
    assert [json.loads(line)["cid"] for line in lines] == [record.cid for record in entries(3, 4)]


def test_a_terminal_gets_a_progress_bar(vsync: Vsync, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "sampling" in vsync("sample", "--count", "3000", "--out", "s.csv").err
    answers = [cid_pb2.ImportCidsResponse(number=number, skipped=1000) for number in range(4)]
    peer.will(answers, answers)
    assert "3,000 records" in vsync("import", "s.csv", "--target", peer.target).err
    ran = vsync("import", "s.csv", "--target", peer.target, "--json")
    assert ran.err == ""


def test_the_progress_bar_shows_a_lost_connection(vsync: Vsync, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    lost = Broken(grpc.StatusCode.UNAVAILABLE)
    peer.will([lost], [cid_pb2.ImportCidsResponse(), cid_pb2.ImportCidsResponse(number=1)])
    ran = vsync("import", "-", "--target", peer.target, given=b'{"cid": "a"}')
    assert "reconnecting" in ran.err
    assert "lost its connection" not in ran.out, "the first stream never opened"


def test_health_without_dependencies_is_one_line(vsync: Vsync, peer: Peer) -> None:
    peer.will(health_pb2.HealthResponse(status=health_pb2.HEALTHY))
    assert vsync("health", "--target", peer.target).out == f"● healthy  {peer.target}  \n"


def test_the_cause_of_a_failed_lookup_has_no_bracket(capsys: pytest.CaptureFixture[str]) -> None:
    message = "errors resolving h:1: [field:hostname lookup error:address lookup failed for h:1: Domain name not found]"
    print_error(UnavailableError(grpc.StatusCode.UNAVAILABLE, message), as_json=False)
    assert capsys.readouterr().err == "error: the server cannot be reached: Domain name not found\n"


@pytest.mark.parametrize("content", ["set.txt", "pipe", "-"])
def test_a_diff_that_fails_is_exit_code_2(vsync: Vsync, content: str) -> None:
    Path("set.txt").write_text("ab" * 32)
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as threads:
        threads.submit(Path("pipe").write_text, "ab" * 32) if content == "pipe" else None
        ran = vsync("diff", content, "--ispb", "12345678", "--key-type", "cpf", "--target", NOWHERE, "--patience", "0")
    assert ran.code == 2
    assert ("cannot be reached" if content == "set.txt" else "--made-at") in ran.err


def test_an_export_filters_counts_and_reports_several_snapshots(vsync: Vsync, peer: Peer) -> None:
    counts = [
        cid_pb2.CidCount(key_type=cid_pb2.KEY_TYPE_CPF, sync_status=cid_pb2.SYNC_STATUS_SYNCED, count=1),
        cid_pb2.CidCount(key_type=cid_pb2.KEY_TYPE_EVP, sync_status=cid_pb2.SYNC_STATUS_SYNCED, count=1),
    ]
    first = cid_pb2.ExportCidsResponse(cids=bytes(range(64)), resume_token="a")
    second = cid_pb2.ExportCidsResponse(cids=bytes(32), resumed=True)
    second.snapshot_time.FromJsonString("2026-11-20T10:00:00Z")
    peer.will([first, Broken(grpc.StatusCode.UNAVAILABLE)], cid_pb2.CountCidsResponse(counts=counts), [second], [first])
    ran = vsync("export", "cids.txt", "--cids", "--key-type", "cpf", "--status", "SYNCED", "--target", peer.target)
    assert ran.code == 0
    assert "3 CIDs to cids.txt" in ran.out
    assert "read in 2 snapshots" in ran.out
    assert Path("cids.txt").read_bytes() == b"".join(
        cid.hex().encode() + b"\n" for cid in (bytes(range(32)), bytes(range(32, 64)), bytes(32))
    )
    ran = vsync(
        *("export", "cids.gz", "--cids", "--json", "--target", peer.target),
        *("--created-after", "2026-11-20", "--created-before", "2026-11-20T00:00:00-03:00"),
    )
    assert ran.json["records"] == 2
    wanted = peer.seen()[-1].requests[0].filter
    assert wanted.created_before.seconds - wanted.created_after.seconds == 3 * 3600


def test_an_export_that_fails_leaves_no_file(vsync: Vsync, peer: Peer) -> None:
    away = Broken(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    peer.will([cid_pb2.ExportCidsResponse(), away], cid_pb2.CountCidsResponse())
    ran = vsync("export", "r.csv", "--ispb", "1", "--target", peer.target)
    assert ran.code == 1
    assert list(Path().iterdir()) == []


def test_an_export_to_a_missing_folder_is_an_error_of_one_line(vsync: Vsync) -> None:
    ran = vsync("export", "nowhere/r.csv", "--target", NOWHERE)
    assert ran.code == 1
    assert ran.err == "error: nowhere: No such file or directory\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["export", "out.csv"], 1),
        (["import", "in.ndjson"], 1),
        (["diff", "cids.txt", "--ispb", "12345678", "--key-type", "cpf"], 2),
    ],
)
def test_a_command_fails_after_the_reconnect_timeout(vsync: Vsync, command: list[str], code: int) -> None:
    Path("in.ndjson").write_text('{"cid": "a"}')
    Path("cids.txt").write_text("0" * 64)
    before = set(Path().iterdir())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ran = vsync(*command, "--reconnect-timeout", "0.5", "--target", f"127.0.0.1:{listener.getsockname()[1]}")
    assert ran.code == code
    assert "DEADLINE_EXCEEDED" in ran.err
    assert set(Path().iterdir()) == before
