"""The commands about records, batches, audit entries and verifications, against the real server."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import vsync
from vsync.sample import entries
from vsync.v1 import cid_pb2, sync_batch_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.app import Application

from tests.harness.vsync_command import Ran, vsync_command

Run = Callable[..., Coroutine[object, None, Ran]]
RECORD = next(record for record in entries(100) if record.key_type == cid_pb2.KEY_TYPE_CPF)
KEY = ("--key", RECORD.key_value, "--ispb", RECORD.ispb)


@pytest.fixture
def run(application: Application, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `vsync` in a thread of this process, beside the server's event loop."""
    command = vsync_command(monkeypatch, tmp_path)

    async def run(*arguments: str, code: int = 0) -> Ran:
        ran = await asyncio.to_thread(command, *arguments, "--target", f"127.0.0.1:{application.port}")
        assert ran.code == code, ran.err + ran.out
        return ran

    return run


def options_of(record: cid_pb2.CidRecord) -> list[str]:
    return [
        *("--cid", record.cid, "--key-type", "CPF", "--key", record.key_value, "--ispb", record.ispb),
        *("--account-number", record.account_number, "--account-type", "CACC", "--branch", record.branch),
        *("--tax-id", record.tax_id),
    ]


async def test_a_record_is_created_updated_audited_and_deleted(run: Run) -> None:
    assert (await run("create", *options_of(RECORD), "--dry-run", "--json")).json["cid"] == RECORD.cid
    assert (await run("list", "--json")).json == {"records": [], "more": False}
    created = (await run("create", *options_of(RECORD), "--json")).json
    assert (created["sync_status"], created["revision"]) == ("PENDING", 1)
    assert "CID_EXISTS" in (await run("create", *options_of(RECORD), code=1)).err

    new_cid = RECORD.cid[::-1]
    await run("update", *KEY, "--new-cid", new_cid, "--branch", "", "--revision", "7", code=1)
    updated = (await run("update", *KEY, "--new-cid", new_cid, "--branch", "", "--revision", "1", "--json")).json
    assert (updated["cid"], updated["revision"], updated.get("branch")) == (new_cid, 2, None)
    listed = (await run("list", "--ispb", RECORD.ispb, "--status", "pending")).out.splitlines()
    assert listed[0].split() == ["type", "key", "ispb", "status", "revision", "updated", "(UTC)"]
    assert listed[1].split()[:5] == ["CPF", RECORD.key_value, RECORD.ispb, "PENDING", "2"]
    counted = (await run("count")).out.splitlines()
    assert counted[-1].split() == ["total", "1", "0", "0", "1"]

    logs = (await run("audit", "--key", RECORD.key_value, "--json")).json["logs"]
    assert isinstance(logs, list)
    assert len(logs) == 2
    same = await run("audit", "--correlation-id", logs[0]["correlation_id"], "--limit", "1")
    assert logs[0]["action"].endswith(f"/{same.out.splitlines()[1].split()[2]}")
    assert (await run("audit", "--cid", new_cid, "--json")).json["more"] is False

    assert (await run("delete", "--cid", new_cid, "--dry-run", "--json")).json == {"deleted": False}
    assert (await run("delete", "--cid", new_cid, "--revision", "2")).out.endswith("deleted\n")
    assert "CID_NOT_FOUND" in (await run("delete", "--cid", new_cid, code=1)).err


async def test_a_batch_is_created_and_ends(run: Run, application: Application) -> None:
    await run("create", *options_of(RECORD))
    batch = (await run("batches", "create", "--ispb", RECORD.ispb, "--json")).json
    assert batch["status"] == "PENDING"
    day = str(batch["batch_date"])  # today, which may end during this test
    of_day = (day, "--ispb", RECORD.ispb)
    assert (await run("batches", "start", *of_day, "--json")).json["total_records"] == 1
    assert "BATCH_INCOMPLETE" in (await run("batches", "complete", *of_day, code=1)).err
    assert (await run("batches", "fail", str(batch["id"]), "--reason", "closed", "--json")).json["status"] == "FAILED"
    assert (await run("batches", "watch", *of_day, "--json", code=1)).json["error_message"] == "closed"
    assert (await run("batches", "retry", *of_day, "--json")).json["status"] == "RUNNING"
    rows = (await run("batches", "list", "--status", "running")).out.splitlines()
    assert rows[1].split() == [day, RECORD.ispb, "RUNNING", "0", "%", "1", "0", "0", "0", "0"]
    await run("delete", "--cid", RECORD.cid)
    watched = asyncio.create_task(run("batches", "watch", str(batch["id"]), "--interval", "0.1"))
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        claim = sync_batch_pb2.ClaimSyncRecordsRequest(batch_id=str(batch["id"]), worker_id="w", max_records=1)
        claim.lease_duration.FromSeconds(60)
        # The deleted record counts as skipped.
        assert not (await client.batches.ClaimSyncRecords(claim)).records
        await client.batches.CompleteSyncBatch(sync_batch_pb2.CompleteSyncBatchRequest(id=str(batch["id"])))
    assert "COMPLETED" in (await watched).out
    assert "COMPLETED" in (await run("batches", "show", *of_day)).out


async def test_changes_and_verifications_are_shown(run: Run, application: Application) -> None:
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        watch = client.watch_cid_events(pb.WatchCidEventsRequest())
        token = (await anext(watch)).resume_token
        await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=RECORD))
        verification = pb.VsyncVerification(
            ispb=RECORD.ispb,
            key_type=RECORD.key_type,
            submitted_vsync=RECORD.cid,
            directory_result=pb.DIRECTORY_RESULT_NOK,
            directory_verification_id="v-1",
        )
        request = pb.RecordVsyncVerificationRequest(verification=verification)
        await client.reconciliation.RecordVsyncVerification(request)
    changes = ("watch", "--resume-token", token, "--count", "1")
    assert RECORD.cid in (await run(*changes)).out
    event = (await run(*changes, "--json")).json
    assert (event["cid"], event["change"], event["key_type"]) == (RECORD.cid, "ADDED", "CPF")
    shown = (await run("verifications", "--ispb", RECORD.ispb)).out.splitlines()
    # The submitted value is not the VSync of the one record.
    assert shown[1].split()[2:] == ["CPF", "NOK", "1", "unchanged", "v-1"]
    found = (await run("verifications", "--ispb", RECORD.ispb, "--key-type", "cpf", "--result", "ok", "--json")).json
    assert found == {"verifications": [], "more": False}


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--cid", "c"),
        ("update", "--key", "11122233396"),
        ("audit",),
        ("audit", "--cid", "c", "--key", "11122233396"),
        ("audit", "--key", "nobody"),
        ("batches", "show", "tomorrow"),
        ("batches", "create", "--date", "soon"),
        ("batches", "fial"),
        ("batches", "fail", "today"),
        ("list", "--limit", "0"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = vsync_command(monkeypatch, tmp_path)(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage:" in ran.err
