"""The commands `vsync diff` and `vsync vsyncs`, and the comparison of the client library."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import vsync
from vsync.cli import app
from vsync.v1 import cid_pb2
from vsyncd.app import Application

from tests.harness.cids import ISPB, Stub, cid_of, create, execute
from tests.harness.clusters import Database
from tests.harness.reconciliation import model


async def run(application: Application, *arguments: str) -> tuple[int, str, str]:
    """Runs the command in a thread. Returns its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()

    def command() -> int:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return app.run()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vsync", *arguments, "--target", f"127.0.0.1:{application.port}"])
        code = await asyncio.to_thread(command)
    return code, out.getvalue(), err.getvalue()


def write(name: str, content: str | bytes) -> None:
    """Writes a file of the working folder."""
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def read(name: str) -> str:
    """Returns the content of a file."""
    return Path(name).read_text()


def names() -> list[str]:
    """Returns the names of all files."""
    return sorted(path.name for path in Path().iterdir())


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")


async def test_a_diff_writes_two_files_and_a_summary(application: Application, cids: Stub) -> None:
    await create(cids, range(10))
    lines = [cid_of(number).upper() + "\r" for number in range(5, 12)]
    write("set.txt", "\n".join([*lines, cid_of(5), "garbage", ""]))
    made = datetime.now(UTC).isoformat()
    await create(cids, [20])
    arguments = ["diff", "set.txt", "--ispb", ISPB, "--key-type", "cpf", "--made-at", made]
    code, out, err = await run(application, *arguments)
    assert code == 1, "a line is not a CID"
    assert "1 line is not a CID: 9" in err
    assert "another participant" not in err
    assert [line.split()[:3] for line in out.splitlines()[3:]] == [
        ["missing", "here", "2"],
        ["missing", "there", "5"],
        ["removed", "since", "0"],
        ["added", "since", "1"],
        ["duplicates", "1"],
    ]
    here, there = (read(f"set.txt.missing-{where}").split() for where in ("here", "there"))
    assert (here, there) == (sorted(map(cid_of, (10, 11))), sorted(map(cid_of, range(5))))

    write("set.txt", "\n".join(cid_of(number) for number in (*range(10), 20)))
    code, out, _ = await run(application, *arguments, "--json", "--out", "other", "--consistency", "strong")
    result = json.loads(out)
    assert (code, result["missing_here"], result["missing_there"], result["bad"]) == (0, 0, 0, 0)
    assert (result["equal"], result["in_both"]) == (True, 11)
    assert result["ours"] == result["theirs"]
    assert read("other.missing-here") == ""

    write("set.txt", "\n".join(cid_of(number) for number in range(100, 120)))
    code, _, err = await run(application, *arguments)
    assert (code, "no CID is in both sets" in err) == (1, True)


async def test_a_failed_diff_leaves_no_files(application: Application) -> None:
    write("set.txt", "")
    code, _, err = await run(application, "diff", "set.txt", "--ispb", "1", "--key-type", "CPF")
    assert (code, "start.ispb" in err) == (2, True)
    assert names() == ["set.txt"]
    assert (await run(application, "diff", "-", "--ispb", ISPB, "--key-type", "CPF"))[0] == 2
    assert (await run(application, "diff", "nothing", "--ispb", ISPB, "--key-type", "CPF"))[0] == 2
    for made in ("yesterday", "9999-12-31T23:59:59-10:00"):
        arguments = ["diff", "set.txt", "--ispb", ISPB, "--key-type", "CPF", "--made-at", made]
        assert (await run(application, *arguments))[0] == 2


SET = "".join(f"{cid_of(number)}\n" for number in range(10))
NOT_CID_SETS = {
    "zip": (b"PK\x03\x04" + bytes(200), "a ZIP archive"),
    "utf-16": (SET.encode("utf-16"), "UTF-16"),
    "utf-16 without a byte order mark": (SET.encode("utf-16-le"), "UTF-16"),
    "quoted": ("".join(f'"{line}"\n' for line in SET.split()).encode(), "text in quotes in line 1 of 10"),
    "columns": ("".join(f"1;{line}\n" for line in SET.split()).encode(), "several columns in line 1 of 10"),
    "digest of another length": (b"ab" * 20 + b"\n", "40 characters in line 1"),
    "empty": (b"", "has no CIDs"),
    "blank": (b"\xef\xbb\xbf\r\n \n", "has no CIDs"),
    "empty gzip": (gzip.compress(b""), "has no CIDs"),
    "gzip that is cut off": (gzip.compress(SET.encode())[:-9], "damaged or truncated"),
}


@pytest.mark.parametrize("what", NOT_CID_SETS)
async def test_a_file_without_cids_is_an_error_and_writes_nothing(
    application: Application, cids: Stub, what: str
) -> None:
    await create(cids, range(10))
    content, found = NOT_CID_SETS[what]
    write("set.cids", content)
    code, out, err = await run(application, "diff", "set.cids", "--ispb", ISPB, "--key-type", "CPF")
    assert (code, out, found in err) == (2, "", True), err
    assert names() == ["set.cids"]


@pytest.mark.parametrize("name", ["set.txt", "set.cids", "set.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
async def test_gzip_and_line_endings_are_recognized_regardless_of_the_file_name(
    application: Application, cids: Stub, name: str, end: str, packed: bool
) -> None:
    await create(cids, range(10))
    content = b"\xef\xbb\xbf" + SET.replace("\n", end).encode()
    write(name, gzip.compress(content) if packed else content)
    code, out, _ = await run(application, "diff", name, "--ispb", ISPB, "--key-type", "CPF", "--json")
    assert (code, json.loads(out)["cids"]) == (0, 10)


async def test_an_empty_file_is_accepted_with_an_option(application: Application, cids: Stub) -> None:
    arguments = ["diff", "set.txt", "--ispb", ISPB, "--key-type", "CPF", "--allow-empty"]
    write("set.txt", "")
    assert (await run(application, *arguments))[0] == 0
    write("set.txt", "")
    made = datetime.now(UTC) + timedelta(minutes=5)
    await create(cids, range(10))
    assert (await run(application, *arguments, "--made-at", made.isoformat()))[0] == 1
    assert len(read("set.txt.missing-there").split()) == 10


@pytest.mark.settings(stream_idle_timeout=0.5)
async def test_a_diff_with_a_stalled_pipe_ends(application: Application) -> None:
    """The call and the command end although a thread still reads from the pipe."""
    os.mkfifo("pipe")
    for name in ("-", "pipe"):
        reading, writing = os.pipe()
        arguments = ["--ispb", ISPB, "--key-type", "CPF", "--made-at", "2026-11-01", "--out", "diff"]
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "vsync",
            *("diff", name, *arguments, "--target", f"127.0.0.1:{application.port}"),
            stdin=reading,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(reading)
        # Opening the pipe blocks until the reader opens it, as with a shell's "<".
        silent = writing if name == "-" else await asyncio.to_thread(os.open, "pipe", os.O_WRONLY)
        os.write(silent, cid_of(1).encode() + b"\n")
        _, err = await process.communicate()
        assert (process.returncode, b"STREAM_STALLED" in err) == (2, True)
        for each in {writing, silent}:
            os.close(each)
    assert names() == ["pipe"]


async def test_the_command_prints_the_vsyncs_of_a_participant(
    application: Application, cids: Stub, database: Database
) -> None:
    await create(cids, range(10))
    expected = model(database)[ISPB, 1]
    code, out, _ = await run(application, "vsyncs", "--ispb", ISPB, "--recompute")
    assert code == 0
    assert out.splitlines()[1].split() == ["CPF", "10", expected[0]]
    assert out.splitlines()[-1] == "A full scan yields the same values."
    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER USER; DELETE FROM vsync.cids")
    code, out, _ = await run(application, "vsyncs", "--ispb", ISPB, "--key-type", "CPF", "--recompute", "--json")
    result = json.loads(out)
    assert (code, result["vsyncs"][0]["count"], result["recomputed"][0]["count"]) == (1, 10, 0)


@pytest.mark.parametrize("damaged", [False, True])
async def test_the_async_client_compares_sets(application: Application, cids: Stub, damaged: bool) -> None:
    await create(cids, range(3))
    name = "set.txt"
    write(name, "no CID" if damaged else "".join(f"{cid_of(number)}\n" for number in range(5)))
    options = vsync.DiffOptions(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, file_created_at=datetime.now(UTC))
    async with vsync.connect(f"127.0.0.1:{application.port}") as client:
        with vsync.CidFile(name) as file:
            if damaged:
                with pytest.raises(vsync.FileError):
                    _ = [answer async for answer in client.diff(file, options)]
                return
            answers = [answer async for answer in client.diff(file, options)]
    assert answers[-1].summary.missing_here == 2
