"""`vsyncd doctor`: what it finds, and its exit code."""

import json
import socket
from pathlib import Path

import pytest
from vsyncd.cli.command import run
from vsyncd.domains.registry import settings_class

from tests.harness.clusters import Database


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removes the settings of the environment, and listens on free ports."""
    for name in settings_class().model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("GRPC_LISTEN", "HTTP_LISTEN"):
        monkeypatch.setenv(name, "127.0.0.1:0")
    monkeypatch.chdir(tmp_path)


def diagnose(capsys: pytest.CaptureFixture[str], *, code: int) -> dict[str, list[tuple[str, str]]]:
    """Returns the level and the message of each finding by its subject."""
    ran = run(["doctor", "--json"])
    out = capsys.readouterr().out
    assert ran == code, out
    result = json.loads(out)
    assert ["OK", "WARNING", "ERROR"].index(result["level"]) == code
    found: dict[str, list[tuple[str, str]]] = {}
    for check in result["checks"]:
        found.setdefault(check["subject"], []).append((check["level"], check["message"]))
    return found


def test_a_complete_configuration_has_no_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.service_url)
    monkeypatch.setenv("DB_MIGRATE_URL", database.owner_url)
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "new"))
    found = diagnose(capsys, code=0)
    assert list(found) == [
        "variables",
        "access",
        "database",
        "clock",
        "service role",
        "migrations",
        "owner role",
        "backups",
        "redis",
        "folder SPILL_DIR",
        "folder BACKUP_DIR",
        "port GRPC_LISTEN",
        "port HTTP_LISTEN",
    ]
    ((_, server),) = found["database"]
    assert server.startswith(f"PostgreSQL {database.version}.")
    ((_, folder),) = found["folder BACKUP_DIR"]
    assert "new will be created" in folder
    assert not (tmp_path / "new").exists()


def test_each_problem_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        monkeypatch.setenv("DATABASE_URL", database.owner_url)
        monkeypatch.setenv("DB_PROT", "5")
        monkeypatch.setenv("DB_MAX_OPEN_CONNS", "20")
        monkeypatch.setenv("DB_REPLICA_HOSTS", "127.0.0.1:1")
        monkeypatch.setenv("DB_MIGRATE_URL", database.admin)
        monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:1")
        monkeypatch.setenv("HEALTH_GRPC_DEPENDENCIES", "directory=127.0.0.1:1!")
        monkeypatch.setenv("HTTP_LISTEN", f"127.0.0.1:{port}")
        monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "file"))
        monkeypatch.setenv("BACKUP_PG_BIN", str(tmp_path))
        found = diagnose(capsys, code=2)
    assert found["variables"] == [
        ("WARNING", "DB_MAX_OPEN_CONNS is an alias: use DB_MAX_CONNECTIONS"),
        ("WARNING", "DB_PROT is not a setting: is DB_PORT meant?"),
    ]
    assert found["service role"][0][0] == "WARNING"
    assert "owns the tables" in found["service role"][0][1]
    assert "is a superuser" in found["owner role"][0][1]
    assert found["port HTTP_LISTEN"] == [("WARNING", f"127.0.0.1:{port} is in use, perhaps by a running vsyncd")]
    errors = ("replica 127.0.0.1:1", "redis", "gRPC service directory", "folder BACKUP_DIR", "backups")
    assert [found[subject][0][0] for subject in errors] == ["ERROR"] * len(errors)
    assert "hunter2" not in str(found)


def test_the_rest_is_checked_without_a_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/name")
    assert run(["doctor"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(maxsplit=1) for line in lines] == [
        ["ok", "variables"],
        ["ok", "access"],
        ["error", "database"],
        ["ok", "owner role"],
        ["ok", "backups"],
        ["ok", "redis"],
        ["ok", "folder SPILL_DIR"],
        ["ok", "port GRPC_LISTEN"],
        ["ok", "port HTTP_LISTEN"],
    ]
    assert "hunter2" not in str(lines)


def test_wrong_settings_are_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DB_PORT", "none")
    monkeypatch.setenv("GRPC_LISTN", "127.0.0.1:1")
    found = diagnose(capsys, code=2)
    assert found == {
        "variables": [("WARNING", "GRPC_LISTN is not a setting: is GRPC_LISTEN meant?")],
        "settings": [("ERROR", "DB_PORT: takes a whole number from 1 to 65535")],
    }
