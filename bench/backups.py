"""Compares dump and restore of 1,000,000 CIDs with plain pg_dump and pg_restore with the same options.

vsyncd does more: it counts every table, adds up the CID sets of the snapshot, computes and checks checksums, runs
ANALYZE, and compares the restored data. Its memory must not grow with the data. A database of a tenth of the size shows
the difference.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from vsyncd.backup.pg_tools import find_pg_tools

from bench.exports import FILL
from bench.report import Figure, rate
from bench.servers import database, postgres

RECORDS = 1_000_000
ROUNDS = 5
JOBS = 2
_COMPRESSION = "gzip"
# Relative to plain pg_dump and pg_restore.
_MAX_RATIO = 1.15
_MAX_GROWTH_BYTES = 16 * 2**20


def run() -> list[Figure]:
    """Returns durations of alternating runs, their ratios, and vsyncd's memory for a tenth and for all of the data."""
    records = int(os.environ.get("BENCH_BACKUP_RECORDS", RECORDS))
    with postgres() as admin, tempfile.TemporaryDirectory(prefix="vsyncd-bench-") as folder:
        with database(admin, "tenth") as conninfo:
            _fill(conninfo, records // 10)
            small = _vsyncd(conninfo, Path(folder) / "tenth", "create").peak
        with database(admin, "whole") as conninfo:
            _fill(conninfo, records)
            return _compare(admin, conninfo, Path(folder), small)


class _Ran:
    """A finished command: its duration in seconds and the maximum memory of its first process."""

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str]) -> None:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
        self.peak = 0
        watching = threading.Thread(target=self._watch, args=(psutil.Process(process.pid),))
        watching.start()
        code = process.wait()
        self.seconds = time.perf_counter() - began
        watching.join()
        if code:
            raise RuntimeError(f"{command[0]} ended with {code}")

    def _watch(self, process: psutil.Process) -> None:
        try:
            while process.status() != psutil.STATUS_ZOMBIE:
                self.peak = max(self.peak, process.memory_info().rss)
                time.sleep(0.02)
        except psutil.NoSuchProcess:
            pass


def _compare(admin: str, conninfo: str, folder: Path, small: int) -> list[Figure]:
    ours: dict[str, list[float]] = {"dump": [], "restore": []}
    theirs: dict[str, list[float]] = {"dump": [], "restore": []}
    peaks = []
    for round_ in range(ROUNDS + 1):
        dumped = _bare_dump(conninfo, folder / "bare")
        made = _vsyncd(conninfo, folder / "vsyncd", "create")
        loaded = _bare_restore(admin, folder / "bare")
        restored = _vsyncd(conninfo, folder / "vsyncd", "restore", "latest", "--to", "again")
        _drop(admin, "again")
        shutil.rmtree(folder / "bare")
        shutil.rmtree(folder / "vsyncd")
        if round_:  # the first round warms up
            ours["dump"].append(made.seconds)
            ours["restore"].append(restored.seconds)
            theirs["dump"].append(dumped)
            theirs["restore"].append(loaded)
            peaks += [made.peak, restored.peak]
    grown = (max(peaks) - small) / 2**20
    return [
        *(figure for step in ("dump", "restore") for figure in _figures(step, ours[step], theirs[step])),
        Figure(
            bench="backup",
            name="vsyncd's memory, above that for a tenth of the data",
            value=grown,
            unit="MiB",
            target=f"at most {_MAX_GROWTH_BYTES / 2**20:.0f}",
            is_met=grown * 2**20 <= _MAX_GROWTH_BYTES,
        ),
    ]


def _figures(step: str, ours: Sequence[float], theirs: Sequence[float]) -> list[Figure]:
    ratios = [mine / bare for mine, bare in zip(ours, theirs, strict=True)]
    value = statistics.median(ratios)
    return [
        rate("backup", f"{step}, vsyncd", ours, "s"),
        rate("backup", f"{step}, bare pg_{step}", theirs, "s"),
        Figure(
            bench="backup",
            name=f"{step}, vsyncd / bare",
            value=value,
            unit="x",
            target=f"at most {_MAX_RATIO}",
            is_met=value <= _MAX_RATIO,
            samples=ratios,
        ),
    ]


def _vsyncd(conninfo: str, folder: Path, *arguments: str) -> _Ran:
    settings = {
        "DATABASE_URL": conninfo,
        "BACKUP_DIR": str(folder),
        "BACKUP_COMPRESSION": _COMPRESSION,
        "PARALLEL_JOBS": str(JOBS),
    }
    return _Ran([Path(sys.executable).parent / "vsyncd", "backup", *arguments], settings)


def _bare_dump(conninfo: str, folder: Path) -> float:
    options = ["--format=directory", f"--jobs={JOBS}", f"--compress={_COMPRESSION}", f"--file={folder}"]
    return _Ran([find_pg_tools(18).folder / "pg_dump", *options, f"--dbname={conninfo}"], {}).seconds


def _bare_restore(admin: str, folder: Path) -> float:
    began = time.perf_counter()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE again TEMPLATE template0 STRATEGY wal_log")
    target = make_conninfo(admin, dbname="again")
    options = [f"--jobs={JOBS}", "--exit-on-error", f"--dbname={target}"]
    _Ran([find_pg_tools(18).folder / "pg_restore", *options, folder], {})
    seconds = time.perf_counter() - began
    _drop(admin, "again")
    return seconds


def _drop(admin: str, name: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
        connection.execute("CHECKPOINT")


def _fill(conninfo: str, records: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(FILL, (records, records))
        connection.execute("VACUUM ANALYZE vsync.cids")
        connection.execute("CHECKPOINT")
