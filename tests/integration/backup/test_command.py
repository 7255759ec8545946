"""The output and exit codes of `vsyncd backup`."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from vsyncd.cli.command import run
from vsyncd.domains.registry import settings_class

from tests.harness.backups import content, environment
from tests.harness.clusters import PASSWORD, Database


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filled: Database) -> None:
    for name in settings_class().model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment(filled, tmp_path / "backups").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def test_the_commands_create_list_verify_restore_and_remove_a_backup(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    filled: Database,
    empty_database: Database,
    tmp_path: Path,
) -> None:
    assert run(["backup", "list"]) == 0
    assert capsys.readouterr().out == f"no backups in {tmp_path}/backups\n"
    assert run(["backup", "create"]) == 0
    made = re.fullmatch(rf"created ({filled.name}-\S+): [\d.]+ KiB in \d+\.\d s\n", capsys.readouterr().out)
    assert made is not None
    name = made[1]

    assert run(["backup", "verify", "latest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == name
    assert run(["backup", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["state"], listed["content"]["tables"]["vsync.cids"]) == (name, "verified", 400)
    assert run(["backup", "list"]) == 0
    table = capsys.readouterr().out
    assert name in table
    assert "verified" in table

    assert run(["backup", "restore", name]) == 1
    assert capsys.readouterr().err == (
        f"vsyncd: the database {filled.name} is not empty; nothing was changed. Use --force to replace it\n"
    )
    assert run(["backup", "restore", name, "--to", empty_database.name]) == 0
    assert capsys.readouterr().out == f"restored {name} into {empty_database.name}\n"
    assert content(empty_database.admin) == content(filled.admin)

    assert run(["backup", "cleanup", "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    monkeypatch.setenv("RETENTION_DAYS", "0.0000001")
    assert run(["backup", "create", "--json"]) == 0
    newer = json.loads(capsys.readouterr().out)["name"]
    assert run(["backup", "verify", newer]) == 0
    assert capsys.readouterr().out == f"{newer}: all files are intact\n"
    assert run(["backup", "cleanup", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"would remove {name}\nkept {newer}: newest good backup\n"
    assert run(["backup", "cleanup", "--json"]) == 0
    kept = [{"name": newer, "reason": "newest good backup"}]
    assert json.loads(capsys.readouterr().out) == {"removed": [name], "in_use": [], "unfinished": [], "kept": kept}
    assert run(["backup", "list", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == [newer]


def test_latest_reports_the_skipped_backups_and_the_reasons(
    capsys: pytest.CaptureFixture[str], filled: Database, empty_database: Database, tmp_path: Path
) -> None:
    def made() -> str:
        assert run(["backup", "create", "--json"]) == 0
        name: str = json.loads(capsys.readouterr().out)["name"]
        return name

    def skipped(err: str) -> dict[str, str]:
        found = re.findall(r"^vsyncd: skipped (\S+): (.*)$", err, re.MULTILINE)
        return dict(found)

    good = made()
    with psycopg.connect(filled.admin, autocommit=True) as admin:
        # pg_restore sets an empty search_path, with which the check does not find its table.
        for statement in (
            "CREATE TABLE public.known (id int)",
            "INSERT INTO public.known VALUES (1)",
            "CREATE FUNCTION public.is_known(int) RETURNS bool LANGUAGE sql AS 'SELECT $1 IN (SELECT id FROM known)'",
            "CREATE TABLE public.used (id int CHECK (public.is_known(id)))",
            "INSERT INTO public.used VALUES (1)",
        ):
            admin.execute(statement)
    unrestorable, damaged, incomplete = made(), made(), made()
    assert run(["backup", "verify", unrestorable, "--restore"]) == 1
    (tmp_path / "backups" / damaged / "dump" / "toc.dat").write_bytes(b"")
    (tmp_path / "backups" / incomplete / "manifest.json").unlink()
    capsys.readouterr()

    assert run(["backup", "restore", "latest", "--to", empty_database.name, "--json"]) == 0
    captured = capsys.readouterr()
    restored = json.loads(captured.out)
    assert (restored["name"], restored["database"]) == (good, empty_database.name)
    reasons = {each["name"]: each["reason"] for each in restored["skipped"]}
    assert list(reasons) == [incomplete, damaged, unrestorable], "the newest first"
    assert reasons[incomplete] == "damaged: manifest.json: missing"
    assert reasons[damaged].startswith("damaged: dump/toc.dat: 0 bytes")
    assert reasons[unrestorable].startswith("unrestorable: restore failed: pg_restore: ")
    assert skipped(captured.err) == reasons
    assert captured.err.endswith(f"vsyncd: latest is {good}\n")

    assert run(["backup", "verify", "latest", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["skipped"] == restored["skipped"]
    assert skipped(captured.err) == reasons
    assert run(["backup", "list", "--json"]) == 0
    captured = capsys.readouterr()
    assert [each["ineligible_reason"] for each in json.loads(captured.out)] == [
        None,
        reasons[unrestorable],
        reasons[damaged],
    ]
    assert captured.err == f"vsyncd: {incomplete} is not listed: it has no manifest\n"
    assert run(["backup", "cleanup", "--json"]) == 0
    kept = [{"name": incomplete, "reason": "manifest.json: missing"}]
    assert json.loads(capsys.readouterr().out)["kept"] == kept


def test_without_a_good_backup_the_error_names_the_skipped_ones(
    capsys: pytest.CaptureFixture[str], filled: Database, tmp_path: Path
) -> None:
    assert run(["backup", "create", "--json"]) == 0
    name = json.loads(capsys.readouterr().out)["name"]
    (tmp_path / "backups" / name / "dump" / "toc.dat").write_bytes(b"")
    assert run(["backup", "restore", "latest"]) == 1
    none = f"there is no good backup of the database {filled.name} of this server; the newest backup is {name}, damaged"
    assert capsys.readouterr().err.startswith(f"vsyncd: {none}; skipped {name}: damaged: dump/toc.dat: 0 bytes")


def test_cleanup_reports_removed_unfinished_backups(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "backups/.unfinished-vsync-20261120T030000123Z").mkdir(parents=True)
    assert run(["backup", "cleanup"]) == 0
    assert capsys.readouterr().out == "removed the unfinished backup vsync-20261120T030000123Z\n"
    assert run(["backup", "cleanup"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_on_a_terminal_progress_is_shown() -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", "import sys; from vsyncd.cli import main; main()", "backup", "create"]
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal ends with an error after its last writer
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    assert re.search(rb"dumping, table \d+, \d+ MiB", shown)


def test_a_damaged_or_missing_backup_exits_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["backup", "create", "--json"]) == 0
    name = json.loads(capsys.readouterr().out)["name"]
    (tmp_path / "backups" / name / "dump" / "toc.dat").write_bytes(b"")
    assert run(["backup", "verify", name]) == 1
    assert capsys.readouterr().err.startswith(f"vsyncd: backup {name} is damaged: dump/toc.dat: 0 bytes")
    assert run(["backup", "list"]) == 0
    assert f"{name}: dump/toc.dat: 0 bytes" in capsys.readouterr().out
    assert run(["backup", "verify", "no-such"]) == 1
    assert capsys.readouterr().err == f"vsyncd: there is no backup no-such; the newest backup is {name}, damaged\n"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BACKUP_DIR", "", "BACKUP_DIR: takes the path of a folder, and is needed for backups"),
        ("BACKUP_COMPRESSION", "bzip2", "BACKUP_COMPRESSION: takes gzip, zstd or none; with a level"),
        ("BACKUP_FORMAT", "plain", "BACKUP_FORMAT: takes directory or custom"),
        ("BACKUP_SCHEDULE", "sometimes", "BACKUP_SCHEDULE: takes an interval (30m, 6h, 1d) or a cron expression"),
        ("BACKUP_S3_URL", "https://host/bucket", "BACKUP_S3_URL: takes s3://bucket"),
        ("BACKUP_S3_ENDPOINT", "host:9000", "BACKUP_S3_ENDPOINT: takes a URL that begins with https:// or http://"),
        (
            "BACKUP_S3_ACCESS_KEY_ID",
            "key",
            "BACKUP_S3_SECRET_ACCESS_KEY: takes text (requires BACKUP_S3_ACCESS_KEY_ID",
        ),
        ("BACKUP_PG_BIN", "/nowhere", "BACKUP_PG_BIN: takes the path of a folder"),
        ("PARALLEL_JOBS", "0", "PARALLEL_JOBS: takes a whole number from 1 to 128"),
        ("RETENTION_DAYS", "-1", "RETENTION_DAYS: takes days, 0 or more"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_line_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    assert run(["backup", "create"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1


def test_an_unreachable_database_is_reported_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKUP_URL", f"postgresql://me:{PASSWORD}@127.0.0.1:1/vsync")
    for arguments in (["create"], ["restore", "latest"]):
        assert run(["backup", *arguments]) == 1
        err = capsys.readouterr().err
        assert err.startswith("vsyncd: connection failed: ")
        assert PASSWORD not in err
    assert run(["backup", "schedule"]) == 1
    assert capsys.readouterr().err == "vsyncd: BACKUP_SCHEDULE is not set\n"
    assert run(["backup", "verify"]) == 2
