"""Scheduled backups: one of all instances creates them, and every instance reports them."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from prometheus_client import generate_latest
from vsync.health.v1 import health_pb2 as pb
from vsync.health.v1 import health_pb2_grpc
from vsyncd.app import Application
from vsyncd.backup.errors import BackupNotFound
from vsyncd.backup.manifest import MANIFEST, SUMS, name_of, read_manifest, write_manifest, write_sums
from vsyncd.backup.pg_tools import find_pg_tools
from vsyncd.cli.command import run
from vsyncd.config import Settings
from vsyncd.jobs.backups import BackupJobs, backups_of
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.runner import JobFailed, JobRunner
from vsyncd.observability.metrics import REGISTRY

from tests.harness.backups import InThread, environment, locked, waits
from tests.harness.cids import execute, rows, until
from tests.harness.clusters import Database
from tests.harness.logs import captured_logs
from tests.harness.owners import until as sync_until
from tests.harness.processes import ServerProcess
from tests.harness.serving import opened


@pytest.fixture
def overrides(filled: Database, tmp_path: Path) -> dict[str, Any]:
    return {
        "backup_url": filled.admin,
        "backup_dir": str(tmp_path / "backups"),
        "backup_schedule": "1d",
        "parallel_jobs": 2,
        "backup_compression": "gzip:1",
    }


def ended(database: Database) -> bool:
    return rows(database, "SELECT FROM vsync.job_runs WHERE name = 'backup' AND last_finished IS NOT NULL") != []


def metric(name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", generate_latest(REGISTRY).decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def metadata(port: int) -> dict[str, str]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.GetHealth(pb.HealthRequest(include_details=True, dependency_filter=["postgresql-primary"]))
        return dict(answer.dependencies[0].config.metadata)


async def test_one_of_several_instances_creates_the_backup_that_is_due(settings: Settings, database: Database) -> None:
    made = metric('vsyncd_backup_steps_total{result="succeeded",step="create"}')
    async with Application(settings) as one, Application(settings) as two:
        await until(lambda: ended(database), seconds=60)
        assert [backup.state for backup in backups_of(settings).list()] == ["verified"]
        assert metric('vsyncd_backup_steps_total{result="succeeded",step="create"}') == made + 1
        (run,) = rows(database, "SELECT last_error FROM vsync.job_runs WHERE name = 'backup'")
        assert run["last_error"] is None
        reports = [await metadata(one.port), await metadata(two.port)]
        assert any({"last_backup_at", "last_verified_backup_at"} <= each.keys() for each in reports)
        assert any(each["backup"] == "on time" for each in reports)
        assert metric("vsyncd_backup_last_timestamp_seconds") > 0
        # The other instance may have looked before the verification; it looks again every minute.
        await until(lambda: metric('vsyncd_backup_stored{state="verified"}') == 1, seconds=120)
    assert metric("vsyncd_backup_due_timestamp_seconds") == 0


@pytest.mark.soak
def test_one_of_two_processes_creates_the_backup_that_is_due(filled: Database, tmp_path: Path) -> None:
    more = environment(filled, tmp_path / "backups", BACKUP_SCHEDULE="1d", DATABASE_URL=filled.service_url)
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    servers = [ServerProcess(filled, log, **more, DB_AUTO_MIGRATE="false") for log in logs]
    try:
        with locked(filled):
            for starting in [InThread(server.start) for server in servers]:
                starting.result()
            sync_until(waits(filled.admin, "vsyncd backup"), seconds=60)
            # Both serve; one of them is creating the backup, and waits for the lock.
            (run,) = rows(filled, "SELECT holder FROM vsync.job_runs WHERE name = 'backup'")
            assert run["holder"] is not None
        sync_until(lambda: ended(filled), seconds=60)
    finally:
        for server in servers:
            server.stop()
    texts = [log.read_text() for log in logs]
    assert sorted(text.count("backup made") for text in texts) == [0, 1], texts
    assert not any("job failed" in text for text in texts), texts
    assert len(list((tmp_path / "backups").iterdir())) == 1


@pytest.mark.settings
async def test_a_failure_is_counted_logged_and_recorded(settings: Settings, database: Database) -> None:
    broken = settings.model_copy(update={"backup_pg_bin": str(find_pg_tools(16).folder)})
    failed = metric('vsyncd_backup_steps_total{result="failed",step="create"}')
    with captured_logs() as log:
        async with Application(broken) as application:
            await until(lambda: ended(database), seconds=60)
            assert (await metadata(application.port))["backup"] == "none"
    assert metric('vsyncd_backup_steps_total{result="failed",step="create"}') == failed + 1
    (line,) = [line for line in log.named("job failed") if line["job"] == "backup"]
    assert "BACKUP_PG_BIN" in line["reason"]
    (run,) = rows(database, "SELECT last_error FROM vsync.job_runs WHERE name = 'backup'")
    assert run["last_error"] == line["reason"]


@pytest.mark.soak
@pytest.mark.settings
async def test_a_failed_verification_is_retried_without_another_dump(settings: Settings, database: Database) -> None:
    role = f"role_{uuid4().hex[:8]}"
    # It can be restored only while that role exists.
    execute(
        database,
        """CREATE FUNCTION public.may_be() RETURNS boolean LANGUAGE sql AS $$
            SELECT NOT starts_with(current_database(), 'vsyncd_restoring')
                OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'ROLE') $$;
            CREATE TABLE public.checked (id int CHECK (public.may_be()));
            INSERT INTO public.checked VALUES (1)""".replace("ROLE", role),
    )
    settings = settings.model_copy(update={"backup_check": "restore", "backup_retention_count": 1})
    expired = backups_of(settings).create()
    async with opened(settings) as pool:
        ledger = JobLedger(pool)
        jobs = BackupJobs(settings, ledger)
        runner = JobRunner([], ledger)
        for _ in range(2):
            with pytest.raises(JobFailed, match="violates check constraint"):
                await runner.run_now(jobs.backup_job)
            kept = backups_of(settings).list()
            assert [backup.state for backup in kept] == ["unverified", "unrestorable"]
        assert kept[0].name == expired.name, "the newest good backup was removed"
        await jobs.status_job.work()
        reported = jobs.metadata()
        assert (reported["last_backup_state"], "last_backup_failed_at" in reported) == (
            "unrestorable",
            True,
        )
        with psycopg.connect(database.admin, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role}".encode())
            try:
                await runner.run_now(jobs.backup_job)
            finally:
                admin.execute(f"DROP ROLE {role}".encode())
        (left,) = backups_of(settings).list()
        assert (left.name, left.state) == (kept[1].name, "restored")
        await jobs.status_job.work()
        reported = jobs.metadata()
    assert (reported["backup"], reported["last_backup_state"]) == ("on time", "restored")
    assert "last_backup_failed_at" not in reported


@pytest.mark.settings
async def test_expired_backups_are_removed_although_the_new_one_failed(settings: Settings) -> None:
    backups = backups_of(settings.model_copy(update={"retention_days": 1e-9}))
    old, newer = backups.create(), backups.create()
    broken = settings.model_copy(update={"backup_pg_bin": str(find_pg_tools(16).folder), "retention_days": 1e-9})
    async with opened(settings) as pool:
        ledger = JobLedger(pool)
        with pytest.raises(JobFailed, match="BACKUP_PG_BIN"):
            await JobRunner([], ledger).run_now(BackupJobs(broken, ledger).backup_job)
    assert [backup.name for backup in backups.list()] == [newer.name]
    assert old.name != newer.name


@pytest.mark.soak
@pytest.mark.settings
async def test_a_failed_cleanup_is_retried_without_another_dump(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"retention_days": 1e-9})
    backups = backups_of(settings)
    stuck, old, newest = (backups.create().name for _ in range(3))
    # A file has the name to which the backup is renamed before its removal.
    obstacle = tmp_path / "backups" / f".removed-{stuck}"
    obstacle.write_text("")
    async with opened(settings) as pool:
        ledger = JobLedger(pool)
        runner = JobRunner([], ledger)
        for run in range(3):
            with pytest.raises(JobFailed, match="Not a directory"):
                await runner.run_now(BackupJobs(settings, ledger).backup_job)
            left = [backup.name for backup in backups.list()]
            assert (left[0], len(left), old in left, newest in left) == (stuck, 2, False, False), run
        obstacle.unlink()
        await runner.run_now(BackupJobs(settings, ledger).backup_job)
        (last,) = backups.list()
        assert (last.name, last.state) == (left[1], "verified")


@pytest.mark.settings
async def test_a_failed_dump_is_retried_even_right_after_the_previous_backup(settings: Settings) -> None:
    broken = settings.model_copy(update={"backup_pg_bin": str(find_pg_tools(16).folder)})
    async with opened(settings) as pool:
        ledger = JobLedger(pool)
        runner = JobRunner([], ledger)
        await runner.run_now(BackupJobs(settings, ledger).backup_job)
        with pytest.raises(JobFailed, match="BACKUP_PG_BIN"):
            await runner.run_now(BackupJobs(broken, ledger).backup_job)
        await runner.run_now(BackupJobs(settings, ledger).backup_job)
    assert [backup.state for backup in backups_of(settings).list()] == ["verified", "verified"]


async def test_a_stop_does_not_wait_for_a_running_backup(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    with locked(database):
        async with Application(settings):
            await until(waits(database.admin, "vsyncd backup"), seconds=60)
        # The table is still locked: the backup was cancelled.
        assert list((tmp_path / "backups").iterdir()) == []


@pytest.mark.settings
async def test_a_postdated_backup_does_not_count(settings: Settings, tmp_path: Path) -> None:
    backups = backups_of(settings)
    ahead = postdated(tmp_path / "backups" / backups.create().name)
    async with opened(settings) as pool:
        ledger = JobLedger(pool)
        jobs = BackupJobs(settings, ledger)
        with captured_logs() as log:
            await jobs.status_job.work()
            await jobs.status_job.work()
        (line,) = log.named("backup skipped")
        assert line["reason"] == "dated in the future"
        assert jobs.metadata()["last_backups_skipped"] == "1"
        assert (line["backup"], jobs.metadata()["backup"]) == (ahead, "none")
        with pytest.raises(BackupNotFound):
            backups.find("latest")
        await JobRunner([], ledger).run_now(jobs.backup_job)
        assert jobs.metadata()["backup"] == "on time"
    made = backups.find("latest")
    assert [backup.name for backup in backups.list()] == [made.name, ahead]
    assert backups.find(ahead).good


def postdated(folder: Path) -> str:
    """Date a backup ten years later. Returns its new name."""
    manifest = read_manifest((folder / MANIFEST).read_bytes())
    at = manifest.created_at + timedelta(days=3650)
    later = replace(manifest, name=name_of(manifest.origin.database, at), created_at=at)
    (folder / MANIFEST).write_bytes(write_manifest(later))
    (folder / SUMS).write_bytes(write_sums(later.files, write_manifest(later)))
    folder.rename(folder.with_name(later.name))
    return later.name


# A daily schedule, twelve hours from now.
AT = f"{(datetime.now(UTC) + timedelta(hours=12)).hour:02}"


def schedule(database: Database, folder: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "import sys; from vsyncd.cli import main; main()", "backup", "schedule", *arguments],
        env=os.environ | environment(database, folder, BACKUP_SCHEDULE=f"0 {int(AT)} * * *", **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.soak
def test_schedule_once_creates_only_the_backup_that_is_due(filled: Database, tmp_path: Path) -> None:
    first = schedule(filled, tmp_path / "backups", "--once", BACKUP_CHECK="restore")
    assert (first.returncode, len(list((tmp_path / "backups").iterdir()))) == (0, 1), first.stderr
    assert '"restored": true' in first.stderr
    second = schedule(filled, tmp_path / "backups", "--once")
    assert (second.returncode, len(list((tmp_path / "backups").iterdir()))) == (0, 1), second.stderr
    assert "no backup is due" in second.stderr


def test_schedule_show_prints_the_next_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path))
    monkeypatch.setenv("BACKUP_SCHEDULE", f"0 {int(AT)} * * *")
    assert run(["backup", "schedule", "--show"]) == 0
    assert len(re.findall(rf"^\d{{4}}-\d\d-\d\d {AT}:00:00 UTC$", capsys.readouterr().out, re.MULTILINE)) == 5
