"""Every command, with standard streams, locales and terminals that are hostile: no traceback, documented exit codes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vsync.cli.app import cli as vsync
from vsync.sample import entries
from vsyncd.cli.command import vsyncd
from vsyncd.migrate import latest_versions

from tests.harness.backups import backups_in, environment
from tests.harness.clusters import Databases
from tests.harness.hostile_streams import Command, Streams, leaves, run_all
from tests.harness.processes import server_process

NOWHERE = "127.0.0.1:1"
(RECORD,) = entries(1)
OWN = ("--ispb", RECORD.ispb)
LATEST = str(latest_versions()["vsync"])
SCHEDULE = {"BACKUP_SCHEDULE": "6h"}

# Exit codes where every stream works. A new command needs an entry.
RESULTS: list[tuple[int, Command]] = [
    (code, Command(words[0], words[1:], variables))
    for code, variables, words in [
        (0, {}, ["vsync", "health"]),
        (0, {}, ["vsync", "health", "--details"]),
        (0, {}, ["vsync", "health", "--json"]),
        (3, {}, ["vsync", "health", "--target", NOWHERE]),
        (0, {}, ["vsync", "top", "--once"]),
        (0, {}, ["vsync", "sample", "--count", "100", "--out", "ação.csv"]),
        (0, {}, ["vsync", "import", "ação.csv"]),
        (0, {}, ["vsync", "import", "ação.csv", "--json"]),
        (1, {}, ["vsync", "import", "maçã.ndjson"]),
        (0, {}, ["vsync", "get", "--cid", RECORD.cid]),
        (0, {}, ["vsync", "get", "--cid", RECORD.cid, "--json"]),
        (1, {}, ["vsync", "get", "--cid", "maçã"]),
        (2, {}, ["vsync", "get", "maçã"]),
        (0, {}, ["vsync", "list"]),
        (0, {}, ["vsync", "count"]),
        (1, {}, ["vsync", "create", "--cid", "maçã", "--key-type", "EVP", "--key", RECORD.dict_request_id, *OWN]),
        (1, {}, ["vsync", "update", "--cid", "maçã", "--new-cid", "maçã"]),
        (1, {}, ["vsync", "delete", "--cid", "maçã"]),
        (1, {}, ["vsync", "watch", "--resume-token", "maçã"]),
        (0, {}, ["vsync", "audit", "--cid", RECORD.cid]),
        (0, {}, ["vsync", "verifications", *OWN]),
        (0, {}, ["vsync", "batches", "list"]),
        (0, {}, ["vsync", "batches", "create", *OWN, "--dry-run"]),
        *(
            (1, {}, ["vsync", "batches", name, "today", *OWN])
            for name in ("show", "start", "watch", "retry", "complete")
        ),
        (1, {}, ["vsync", "batches", "fail", "today", *OWN, "--reason", "maçã"]),
        (0, {}, ["vsync", "vsyncs", *OWN]),
        (0, {}, ["vsync", "export", "maçã.csv.gz"]),
        (0, {}, ["vsync", "export", "cids.txt", "--cids", *OWN, "--key-type", "CPF"]),
        (0, {}, ["vsync", "diff", "cids.txt", *OWN, "--key-type", "CPF"]),
        (1, {}, ["vsyncd", "serve", "--listen", "maçã"]),
        (0, {}, ["vsyncd", "migrate", "up"]),
        (0, {}, ["vsyncd", "migrate", "down", "--dry-run"]),
        (0, {}, ["vsyncd", "migrate", "goto", "0", "--dry-run"]),
        (0, {}, ["vsyncd", "migrate", "force", LATEST]),
        (1, {}, ["vsyncd", "migrate", "adopt"]),
        (0, {}, ["vsyncd", "migrate", "version"]),
        (0, {}, ["vsyncd", "migrate", "status"]),
        (0, {"DB_MIGRATE_PATH": "migrations"}, ["vsyncd", "migrate", "create", "add_things"]),
        (1, {}, ["vsyncd", "migrate", "create", "maçã"]),
        (0, {}, ["vsyncd", "migrate", "validate"]),
        (0, {}, ["vsyncd", "maintain", "--dry-run"]),
        (0, {}, ["vsyncd", "backup", "create"]),
        (0, {}, ["vsyncd", "backup", "list"]),
        (0, {}, ["vsyncd", "backup", "verify", "latest"]),
        (1, {}, ["vsyncd", "backup", "restore", "latest"]),
        (1, {}, ["vsyncd", "backup", "restore", "maçã"]),
        (0, {}, ["vsyncd", "backup", "cleanup", "--dry-run"]),
        (0, SCHEDULE, ["vsyncd", "backup", "schedule", "--show"]),
        (0, {}, ["vsyncd", "vsync", "verify"]),
        (0, {}, ["vsyncd", "vsync", "rebuild"]),
        (0, {}, ["vsyncd", "credits", "verify"]),
        (0, {"DB_NAME": "maçã"}, ["vsyncd", "check-config"]),
        (2, {"GRPC_LISTEN": "maçã"}, ["vsyncd", "doctor"]),
        (1, {}, ["vsyncd", "authz", "check", "--principal", "key:maçã", "--method", "GetCid", "--file", "maçã"]),
        (1, {}, ["vsyncd", "authz", "lint", "maçã"]),
        (0, {}, ["vsyncd", "dev-certs", "maçã"]),
    ]
]
# Their records go to standard output.
RECORDS = [Command("vsync", ["sample", "--count", "100"]), Command("vsync", ["export", "-"])]
COMMANDS = [("vsync", path) for path in leaves(vsync)] + [("vsyncd", path) for path in leaves(vsyncd)]
HELP = [Command(name, [*path[:length], "--help"]) for name, path in COMMANDS for length in range(len(path) + 1)]

NARROW = {"COLUMNS": "20", "TERM": "xterm"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
HOSTILE = {
    "ascii": Streams(encoding="ascii", environment={"PYTHONIOENCODING": "ascii"}),
    "latin-1-dumb-terminal": Streams(
        err="terminal", encoding="latin-1", environment={"PYTHONIOENCODING": "latin-1", "TERM": "dumb"}
    ),
    # What is given as UTF-8 is shown as it was given.
    "c-locale-narrow-terminal": Streams(err="terminal", environment={**C_LOCALE, **NARROW}),
    "full-disk": Streams(out="full", err="full", environment={"PYTHONUNBUFFERED": "1"}),
    "closed-stdout": Streams(out="closed"),
    "closed-stderr": Streams(err="closed"),
    "all-closed": Streams(out="closed", err="closed", closed_stdin=True),
    "reader-gone": Streams(out="unread"),
}
# Another case covers nearly the same code.
SIMILAR = HOSTILE.keys() - {"full-disk", "all-closed"}
# Symbols have readable fallbacks, and lost output is one line.
LOST = "the command succeeded, but its output is incomplete: standard output: Bad file descriptor"
SHOWN = {
    "ascii": [r"ok 100 sample records to a\xe7\xe3o.csv", "* healthy  "],
    "latin-1-dumb-terminal": ["ok 100 sample records to ação.csv", "* healthy  "],
    "c-locale-narrow-terminal": ["ok 100 sample records to ação.csv", "* healthy  ", "see maçã.ndjson.rejected.ndjson"],
    "closed-stdout": [f"error: {LOST}", f"vsyncd: {LOST}", "error: standard output: Bad file descriptor"],
    "closed-stderr": ["✓ 100 sample records to ação.csv", "● healthy  "],
}


@pytest.fixture(scope="module")
def variables(
    databases: Callable[[int], Databases], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The settings of both commands: a server with a record, and a backup."""
    folder = tmp_path_factory.mktemp("backups")
    with databases(18).fresh() as database, server_process(database, folder / "log") as server:
        backups_in(database.admin, folder / "kept").create()
        yield {
            **environment(database, folder / "kept"),
            "DATABASE_URL": database.owner_url,
            "VSYNC_TARGET": server.target,
            "COLUMNS": "200",
        }


def test_every_command_is_here() -> None:
    tried = [(command.name, *command.arguments) for _, command in RESULTS]
    assert [
        path for name, path in COMMANDS if not any(words[: len(path) + 1] == (name, *path) for words in tried)
    ] == []


def expected_code(code: int, streams: Streams, *, records: bool) -> int:
    """As README.md has it."""
    if streams.out in {"closed", "full"}:
        return code or 1
    return 141 if records and streams.out == "unread" else code


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name in SIMILAR else []) for name in HOSTILE]
)
def test_no_output_ends_in_a_traceback(
    name: str, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "maçã.ndjson").write_text('{"cid": "maçã"}\n')
    streams = HOSTILE[name]
    expected = [
        *((command, expected_code(code, streams, records=False)) for code, command in RESULTS),
        *((command, expected_code(0, streams, records=True)) for command in RECORDS),
        *((command, expected_code(0, streams, records=False)) for command in HELP),
    ]
    ran = run_all([command for command, _ in expected], streams, tmp_path)
    out, err = (stream.decode(streams.encoding) for stream in (ran.out, ran.err))
    assert len(ran.codes) == len(expected), err
    assert [(command, code) for (command, _), code in zip(expected, ran.codes, strict=True)] == expected, err
    for sign in ("Traceback", "Exception ignored", "Logging error"):
        assert sign not in err
    for line in out.splitlines():
        if line.startswith("{"):
            json.loads(line)
    for text in SHOWN.get(name, []):
        assert text in out + err
    assert (tmp_path / "maçã.csv.gz").exists()


def test_files_are_complete_or_absent_where_the_disk_is_full(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "backups"))
    given = {"r.ndjson": '{"cid": "maçã"}\n' * 3, "cids.txt": f"{'0' * 64}\n"}
    for name, text in given.items():
        (tmp_path / name).write_text(text)
    commands = [
        Command("vsync", ["sample", "--out", "s.csv"]),
        Command("vsync", ["sample", "--out", "s.csv.gz"]),
        Command("vsync", ["export", "e.csv"]),
        Command("vsync", ["diff", "cids.txt", *OWN, "--key-type", "CPF"]),
        Command("vsync", ["import", "r.ndjson"]),
        Command("vsyncd", ["migrate", "create", "things"], {"DB_MIGRATE_PATH": str(tmp_path / "migrations")}),
        Command("vsyncd", ["backup", "create"]),
    ]
    small = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))"
    ran = run_all(commands, Streams(), tmp_path, before=small)
    err = ran.err.decode()
    # An error of `vsync diff` is 2, as of `diff`.
    assert ran.codes == [2 if "diff" in command.arguments else 1 for command in commands], err
    assert "Traceback" not in err
    assert "s.csv: File too large" in err
    assert "3 records of r.ndjson" in ran.out.decode(), "what was imported is reported"
    assert "r.ndjson.rejected.ndjson: File too large" in err
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set(given)
