"""The vsync command as a process against the real server."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pytest
import vsync
from google.protobuf import json_format
from vsync.records import KEY_TYPES
from vsync.sample import entries
from vsync.v1 import cid_pb2
from vsyncd.app import Application

from tests.harness.processes import SCRIPTS

IMPORT_ID = "0d9488cc-0d0f-4e21-9a20-0f4c2a3a5a11"
# Runs the command beside the server's event loop; returns what it printed.
Run: TypeAlias = Callable[..., Any]


@pytest.fixture
def run(application: Application, tmp_path: Path) -> Run:
    """Runs `vsync` with --json against the server of this test."""

    async def run(*arguments: str, code: int = 0) -> dict[str, object]:
        command = [str(SCRIPTS / "vsync"), *arguments, "--target", f"127.0.0.1:{application.port}", "--json"]
        ran = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, capture_output=True, check=False, timeout=120
        )
        assert ran.returncode == code, ran.stderr.decode() + ran.stdout.decode()
        printed: dict[str, object] = json.loads(ran.stdout)
        return printed

    return run


def sample(folder: Path, name: str, count: int) -> None:
    command = [str(SCRIPTS / "vsync"), "sample", "--count", str(count), "--out", name]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)


@pytest.mark.parametrize(
    "suffix", [*(pytest.param(name, marks=pytest.mark.soak) for name in ("ndjson", "csv.gz")), "parquet"]
)
async def test_an_exported_file_can_be_imported(run: Run, tmp_path: Path, suffix: str) -> None:
    sample(tmp_path, f"in.{suffix}", 2500)
    assert (await run("import", f"in.{suffix}"))["inserted"] == 2500
    assert (await run("export", f"out.{suffix}"))["records"] == 2500
    again = await run("import", f"out.{suffix}")
    assert (again["inserted"], again["skipped"], again["rejected"]) == (0, 2500, 0)
    record = next(entries(1))
    assert (await run("get", "--cid", record.cid))["key_value"] == record.key_value


async def test_a_csv_of_a_spreadsheet_and_protobufs_json_are_imported(
    run: Run, application: Application, tmp_path: Path
) -> None:
    sample(tmp_path, "in.csv", 20)
    header, *rows = (tmp_path / "in.csv").read_text().replace(",", ";").splitlines()
    empty = ";" * header.count(";")
    (tmp_path / "excel.csv").write_text("\r\n".join([header.upper(), *rows, empty, empty, ""]), encoding="utf-8-sig")
    assert (await run("import", "excel.csv"))["inserted"] == 20
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        records = (await client.cids.ListCids(cid_pb2.ListCidsRequest())).records
    (tmp_path / "buf.ndjson").write_text("\n".join(json.dumps(json_format.MessageToDict(each)) for each in records))
    again = await run("import", "buf.ndjson", "--on-conflict", "replace")
    assert (again["replaced"], again["rejected"]) == (20, 0)


async def test_an_export_of_cids_has_the_directorys_format(run: Run, tmp_path: Path) -> None:
    sample(tmp_path, "in.csv", 1500)
    await run("import", "in.csv", "--initial-status", "synced")
    exported = await run("export", "cpf.txt", "--cids", "--key-type", "cpf", "--status", "synced")
    expected = {record.cid for record in entries(1500) if record.key_type == cid_pb2.KEY_TYPE_CPF}
    lines = (tmp_path / "cpf.txt").read_text().splitlines(keepends=True)
    assert exported["records"] == len(lines) == len(expected)
    assert {line.removesuffix("\n") for line in lines} == expected
    assert vsync.vsync_of(line.strip() for line in lines) == vsync.vsync_of(expected)


@pytest.mark.soak
async def test_the_format_can_be_given_for_any_name(run: Run, application: Application, tmp_path: Path) -> None:
    sample(tmp_path, "in.csv", 50)
    (tmp_path / "in.csv").rename(tmp_path / "in.data")
    assert (await run("import", "in.data", "--format", "csv"))["inserted"] == 50
    first = next(entries(1))
    of = ("--ispb", first.ispb, "--key-type", KEY_TYPES.name(first.key_type))
    for kind in ("csv", "ndjson", "parquet", "cids"):
        assert (await run("export", f"out.{kind}.data", "--format", kind))["records"] == 50
        if kind != "cids":
            # The file has records of other participants and key types, too.
            compared = await run("diff", f"out.{kind}.data", "--format", kind, *of)
            assert compared["equal"]
            assert compared["cids"] == compared["in_both"] != 50
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        batches = [batch async for batch in client.to_arrow(cid_pb2.ExportCidsRequest(), max_rows=20)]
        with pytest.raises(ValueError, match="cids_only"):
            client.to_arrow(cid_pb2.ExportCidsRequest(cids_only=True))
    assert [batch.num_rows for batch in batches] == [20, 20, 10]

    def read() -> Any:
        with vsync.connect_sync(f"127.0.0.1:{application.port}") as client:
            return client.to_arrow(cid_pb2.ExportCidsRequest()).read_all()

    table = await asyncio.to_thread(read)
    assert table.equals(pa.Table.from_batches(batches))
    assert set(table.column("cid").to_pylist()) == {record.cid for record in entries(50)}


async def test_lines_rejected_by_the_server_are_reported(run: Run, tmp_path: Path) -> None:
    sample(tmp_path, "in.ndjson", 10)
    path = tmp_path / "in.ndjson"
    lines = path.read_text().splitlines()
    lines[4] = json.dumps(json.loads(lines[4]) | {"tax_id": "1", "branch": "x"})
    path.write_text("\n".join(lines))
    result = await run("import", "in.ndjson", code=1)
    assert (result["inserted"], result["rejected"]) == (9, 1)
    (rejected,) = (tmp_path / "in.ndjson.rejected.ndjson").read_text().splitlines()
    entry = json.loads(rejected)
    assert entry["line"] == 5
    assert {violation["field"] for violation in entry["violations"]} == {"tax_id", "branch"}


async def test_a_record_too_large_for_a_message_is_rejected_alone(run: Run, tmp_path: Path) -> None:
    sample(tmp_path, "in.ndjson", 2000)
    path = tmp_path / "in.ndjson"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[4]["key_value"] = "x" * 4 * 1024**2
    # These fit into a message, but not together.
    for number in range(10, 20):
        lines[number]["key_value"] = "x" * 1_500_000
    path.write_text("\n".join(map(json.dumps, lines)))
    result = await run("import", "in.ndjson", code=1)
    assert (result["records"], result["inserted"], result["rejected"]) == (2000, 1989, 11)
    rejected = [json.loads(line) for line in (tmp_path / "in.ndjson.rejected.ndjson").read_text().splitlines()]
    reasons = {entry["line"]: entry["reason"] for entry in rejected}
    assert reasons == {5: "INVALID_LINE"} | dict.fromkeys(range(11, 21), "INVALID_FIELD")
    (too_large,) = [entry for entry in rejected if entry["line"] == 5]
    assert too_large["violations"] == [{"field": "", "description": "must fit into a message of 4 MiB"}]
    assert too_large["record"] == lines[4]


async def test_an_interrupted_import_is_resumed_and_counts_each_record_once(
    application: Application, run: Run, tmp_path: Path
) -> None:
    sample(tmp_path, "in.ndjson", 9_000)
    await asyncio.to_thread(interrupt, f"127.0.0.1:{application.port}", tmp_path)
    # The same id once more, with FILE in place of the pipe: what was committed is answered again.
    result = await run("import", "in.ndjson", "--resume", IMPORT_ID)
    assert (result["inserted"], result["skipped"], result["records"]) == (9_000, 0, 9_000)
    committed_before = result["committed_before"]
    assert isinstance(committed_before, int)
    assert committed_before >= 4
    # The rate counts the records that this run committed.
    rate, seconds = result["records_per_second"], result["seconds"]
    assert isinstance(rate, int)
    assert isinstance(seconds, float)
    assert rate * seconds <= 9_000 - 1_000 * (committed_before - 1)


def interrupt(target: str, tmp_path: Path) -> None:
    """Interrupts an import of in.ndjson after a part of it is committed."""
    lines = (tmp_path / "in.ndjson").read_bytes().splitlines(keepends=True)
    command = [str(SCRIPTS / "vsync"), "import", "-", "--import-id", IMPORT_ID, "--target", target]
    # Half of the file, through a pipe that stays open: chunks are committed, and the command waits for more.
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.writelines(lines[:5_500])
        process.stdin.flush()
        with vsync.connect_sync(target) as client:
            while client.cids.CountCids(cid_pb2.CountCidsRequest()).total < 4_000:
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert f"vsync import - --resume {IMPORT_ID}" in process.stderr.read().decode()
        process.stdin.close()
        assert process.wait() == 1
