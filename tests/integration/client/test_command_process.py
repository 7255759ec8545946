"""The vsync command as a child process that ends by a signal or a full disk."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from vsync.cid_codec import CID_BYTES
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.peer import Peer

MAIN = "import sys; from vsync.cli import main; sys.exit(main())"
ENDING = [signal.SIGTERM, signal.SIGHUP]
TAKEN = pb.DiffCidSetResponse(progress=pb.DiffProgress(received=0))

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command in a new folder, after the Python code `before`."""
    running: list[subprocess.Popen[bytes]] = []

    def started(*arguments: str, before: str = "") -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", f"{before}; {MAIN}" if before else MAIN, *arguments],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Keeps a stream of the peer open until the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def then_open(event: threading.Event, *answers: object) -> Iterator[object]:
    yield from answers
    event.wait(60)


def until_written(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Waits until a part of a file is on the disk."""
    while not any(part.stat().st_size for part in folder.glob(".*.part")):
        assert process.poll() is None, read(process.stderr)


def read(stream: IO[bytes] | None) -> str:
    assert stream is not None
    return stream.read().decode()


@pytest.mark.parametrize("number", ENDING)
def test_a_sample_ended_by_a_signal_leaves_no_file(start: Start, tmp_path: Path, number: int) -> None:
    process = start("sample", "--count", "1000000000", "--out", "s.ndjson")
    until_written(process, tmp_path)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert not list(tmp_path.iterdir())
    assert not read(process.stderr)


@pytest.mark.parametrize("number", ENDING)
def test_an_export_ended_by_a_signal_leaves_no_file(
    start: Start, tmp_path: Path, peer: Peer, released: threading.Event, number: int
) -> None:
    peer.will(then_open(released, cid_pb2.ExportCidsResponse(cids=bytes(CID_BYTES))))
    process = start("export", "cids.txt", "--cids", "--json", "--target", peer.target)
    peer.calls.get(timeout=60)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_diff_ended_by_a_signal_leaves_no_file(
    start: Start, tmp_path: Path, peer: Peer, released: threading.Event, number: int
) -> None:
    peer.will(then_open(released, TAKEN, TAKEN))
    asked = ("--ispb", "12345678", "--key-type", "CPF", "--made-at", "2026-11-20", "--target", peer.target)
    process = start("diff", "-", *asked)
    assert process.stdin is not None
    # The command uploads these CIDs and waits for more, because its input has not ended.
    process.stdin.write((b"0" * 2 * CID_BYTES + b"\n") * 33_000)
    process.stdin.flush()
    call = peer.calls.get(timeout=60)
    while len(call.requests) < 2:
        assert process.poll() is None, read(process.stderr)
    process.send_signal(number)
    # 1 would say that the sets differ.
    assert process.wait() == (2 if number == signal.SIGINT else 128 + number), read(process.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_an_import_ended_by_a_signal_keeps_its_rejected_lines_and_prints_how_to_resume(
    start: Start, tmp_path: Path, peer: Peer, released: threading.Event, number: int
) -> None:
    peer.will(then_open(released, cid_pb2.ImportCidsResponse()))
    (tmp_path / "r.ndjson").write_text('{oops\n{"cid": "a"}')
    process = start("import", "r.ndjson", "--target", peer.target)
    call = peer.calls.get(timeout=60)
    while len(call.requests) < 2:
        assert process.poll() is None, read(process.stderr)
    process.send_signal(number)
    assert process.wait() == (1 if number == signal.SIGINT else 128 + number)
    assert "vsync import r.ndjson --resume" in read(process.stderr)
    (line,) = (tmp_path / "r.ndjson.rejected.ndjson").read_text().splitlines()
    assert json.loads(line)["text"] == "{oops"


def test_an_ignored_signal_remains_ignored(start: Start, tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start("sample", "--count", "1000000000", "--out", "s.ndjson", before=ignoring)
    until_written(process, tmp_path)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM


def test_a_diff_writes_no_file_if_one_cannot_be_written(start: Start, tmp_path: Path, peer: Peer) -> None:
    cids = os.urandom(2000 * CID_BYTES)
    xor = 0
    for at in range(0, len(cids), CID_BYTES):
        xor ^= int.from_bytes(cids[at : at + CID_BYTES])
    summary = pb.DiffSummary(
        our_vsync=pb.Vsync(vsync="0" * 64),
        their_vsync=pb.Vsync(vsync=f"{xor:064x}", count=2000),
        missing_here=2000,
        differences_vsync=f"{xor:064x}",
    )
    part = pb.DiffPart(kind=pb.DIFF_KIND_MISSING_HERE, cids=cids)
    peer.will([TAKEN, TAKEN, pb.DiffCidSetResponse(part=part), pb.DiffCidSetResponse(summary=summary)])
    small = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    asked = ("--ispb", "12345678", "--key-type", "CPF", "--made-at", "2026-11-20", "--target", peer.target)
    process = start("diff", "-", *asked, "--json", before=small)
    out, _ = process.communicate()
    assert process.returncode == 2
    assert json.loads(out)["error"]["message"] == "cids.missing-here: File too large"
    assert not list(tmp_path.iterdir())
