"""Reconciliation: the cost of maintaining and of reading VSyncs, and the comparison of two large sets.

Both sides of each comparison are measured in the same run. `VSYNCD_BENCH_CIDS` is the size of the compared sets
(5,000,000). The scan and the reads use one million CIDs.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import uvloop
from vsync import CidFile, DiffOptions, connect_sync
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from bench import imports, load
from bench.report import Figure, rate, ratio
from bench.servers import Service, database, postgres, vsyncd

CIDS = int(os.environ.get("VSYNCD_BENCH_CIDS", "5000000"))
_LARGE, _SMALL = 1_000_000, 1_000
_ISPB = "12345678"
_GET = "/vsync.v1.ReconciliationService/GetVsync"
_GETS = 4_000
_ROUNDS = 5
_WRITERS = 16
_WRITES_EACH = 100
_IMPORTED = 25
_TURNS = 15
_FILL = """
    INSERT INTO vsync.cids (id, created_at, updated_at, cid, key_type, key_value, ispb, branch, account_number,
                            account_type, tax_id)
    SELECT vsync.uuid_v7(at), at, at, sha256(n::text::bytea), %(key_type)s,
           lpad(n::text, CASE %(key_type)s WHEN 1 THEN 11 ELSE 14 END, '0'), '12345678', '0001', n::text, 1,
           lpad(n::text, 11, '0')
    FROM generate_series(%(first)s::bigint, %(last)s) AS n,
         LATERAL (SELECT date_trunc('milliseconds', now()) - interval '1 ms' * (%(last)s - n)) AS t (at)
"""
# The triggers without VSyncs: only events and counts.
_WITHOUT_VSYNC = """
    CREATE OR REPLACE FUNCTION vsync.cids_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE audit text := nullif(current_setting('vsync.audit_id', true), '');
    BEGIN
        INSERT INTO vsync.cid_events (ispb, key_type, change, cid, audit_id)
        SELECT ispb, key_type, 1, cid, CASE audit WHEN 'record' THEN id ELSE audit::uuid END FROM new_rows;
        RETURN NULL;
    END $$
"""
_WITHOUT_EVENTS = """
    CREATE OR REPLACE FUNCTION vsync.cids_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO vsync.cid_totals (ispb, key_type, sync_status, records, cid_xor)
        SELECT ispb, key_type, sync_status, count(*), bit_xor(vsync.cid_bits(cid))
        FROM new_rows GROUP BY ispb, key_type, sync_status;
        RETURN NULL;
    END $$
"""


def run() -> list[Figure]:
    """Runs all measurements."""
    with postgres() as admin:
        return [*_reads(admin), *_writes(admin), *_imports(admin), *_differences(admin)]


# -- reading ----------------------------------------------------------------------------------------------------------


def _reads(admin: str) -> list[Figure]:
    """Measures GetVsync over a thousand and a million CIDs, then with an old snapshot during writes, and the scan."""
    with database(admin, "reads") as conninfo:
        _fill(conninfo, cid_pb2.KEY_TYPE_CPF, 1, _LARGE)
        _fill(conninfo, cid_pb2.KEY_TYPE_CNPJ, _LARGE + 1, _LARGE + _SMALL)
        with vsyncd(conninfo) as service, connect_sync(f"127.0.0.1:{service.port}", timeout=600) as client:
            small, large = _gets(service, cid_pb2.KEY_TYPE_CNPJ), _gets(service, cid_pb2.KEY_TYPE_CPF)
            with _old_snapshot(conninfo):
                held = _gets(service, cid_pb2.KEY_TYPE_CPF)
            request = pb.RecomputeVsyncRequest(ispb=_ISPB, key_type=cid_pb2.KEY_TYPE_CPF)
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET max_parallel_workers_per_gather = 0")
                connection.execute("SELECT pg_reload_conf()")
            scans = [_LARGE / _seconds(lambda: client.reconciliation.RecomputeVsync(request)) for _ in range(_ROUNDS)]
    scan = rate("reconciliation", "RecomputeVsync, one core", scans, "CIDs/s")
    return [
        rate("reconciliation", "GetVsync of 1,000,000 CIDs", large, "calls/s"),
        ratio("reconciliation", "GetVsync, 1,000,000 / 1,000 CIDs (rate)", large, small, at_least=1 / 1.2),
        ratio("reconciliation", "GetVsync, old snapshot / none (rate)", held, large, at_least=1 / 1.2),
        Figure(
            bench=scan.bench,
            name=scan.name,
            value=scan.value,
            unit=scan.unit,
            target="at least 1,000,000",
            is_met=scan.value >= 1_000_000,
            samples=scan.samples,
        ),
    ]


def _gets(service: Service, key_type: cid_pb2.KeyType.ValueType) -> list[float]:
    request = pb.GetVsyncRequest(ispb=_ISPB, key_type=key_type).SerializeToString()
    rates = [load.run(service.port, _GET, [request] * _GETS, concurrency=1) for _ in range(_ROUNDS + 1)]
    return rates[1:]


@contextmanager
def _old_snapshot(conninfo: str) -> Iterator[None]:
    """Holds a snapshot that is older than ten thousand statements which changed the same group."""
    with psycopg.connect(conninfo) as old, psycopg.connect(conninfo, autocommit=True) as writer:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT FROM vsync.cids LIMIT 1")
        writer.execute("SET synchronous_commit = off")
        for number in range(10_000):
            writer.execute("UPDATE vsync.cids SET cid = sha256(cid) WHERE key_value = %s", (f"{number + 1:011d}",))
        time.sleep(3)  # the service folds every second
        yield


# -- writing ----------------------------------------------------------------------------------------------------------


def _writes(admin: str) -> list[Figure]:
    """Measures durable single-row writers of one group: complete, without VSync and counts, and without events."""
    rates: dict[str, list[float]] = {}
    with database(admin, "kept") as kept, database(admin, "none") as none, database(admin, "quiet") as quiet:
        _execute(none, _WITHOUT_VSYNC)
        _execute(quiet, _WITHOUT_EVENTS)
        databases = [("kept", kept), ("none", none), ("quiet", quiet)]
        for turn in range(_TURNS + 1):
            databases.append(databases.pop(0))  # the first run pays for data that earlier runs left to be written
            for name, conninfo in databases:
                written = _write(conninfo, turn)
                if turn:  # the first warms up
                    rates.setdefault(name, []).append(written)
    return [
        rate("reconciliation", "16 single-row writers", rates["kept"], "rows/s"),
        ratio("reconciliation", "16 writers, with / without VSync", rates["kept"], rates["none"], at_least=0.85),
        ratio("reconciliation", "16 writers, with / without events", rates["kept"], rates["quiet"], at_least=0.0),
    ]


def _write(conninfo: str, turn: int) -> float:
    barrier = threading.Barrier(_WRITERS + 1)

    def write(writer: int) -> None:
        first = (turn * _WRITERS + writer) * _WRITES_EACH
        with psycopg.connect(conninfo, autocommit=True) as connection:
            barrier.wait()
            for number in range(first, first + _WRITES_EACH):
                connection.execute(
                    "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
                    " VALUES (sha256(%s), 1, %s, '12345678', '1', 1, '12345678901')",
                    (str(number).encode(), f"{number:011d}"),
                )

    with ThreadPoolExecutor(_WRITERS) as threads:
        futures = [threads.submit(write, writer) for writer in range(_WRITERS)]
        barrier.wait()
        begin = time.perf_counter()
        for future in futures:
            future.result()
        return _WRITERS * _WRITES_EACH / (time.perf_counter() - begin)


def _imports(admin: str) -> list[Figure]:
    """Measures ImportCids with and without the VSync in small alternating imports, so that other load affects both."""
    rates: dict[str, list[float]] = {"kept": [], "none": []}
    with database(admin, "kept") as kept, database(admin, "none") as none:
        _execute(none, _WITHOUT_VSYNC)
        with vsyncd(kept) as with_vsync, vsyncd(none) as without:
            for turn in range(_TURNS + 1):
                chunks = imports.chunks_of_records(turn * _IMPORTED, _IMPORTED)
                turns = [("kept", with_vsync), ("none", without)]
                for name, service in turns if turn % 2 else reversed(turns):
                    seconds, _ = uvloop.run(imports.send(service, chunks, _IMPORTED * imports.CHUNK))
                    if turn:  # the first warms up
                        rates[name].append(_IMPORTED * imports.CHUNK / seconds)
    return [
        rate("reconciliation", "ImportCids", rates["kept"], "rows/s"),
        ratio("reconciliation", "ImportCids, with / without VSync", rates["kept"], rates["none"], at_least=0.85),
    ]


# -- comparing --------------------------------------------------------------------------------------------------------


def _differences(admin: str) -> list[Figure]:
    """Compares DiffCidSet of two sets that differ in one of a thousand CIDs with sort and comm on the two files."""
    with database(admin, "differences") as conninfo, tempfile.TemporaryDirectory(prefix="vsyncd-bench-") as folder:
        _fill(conninfo, cid_pb2.KEY_TYPE_CPF, 1, CIDS)
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        query = "COPY (SELECT encode(cid, 'hex') FROM vsync.cids {} ORDER BY id) TO STDOUT"
        _copy_out(conninfo, query.format(""), ours)
        _copy_out(conninfo, query.format("WHERE get_byte(cid, 0) > 0 OR get_byte(cid, 1) > 64"), theirs)
        with theirs.open("a") as file:
            file.writelines(f"{uuid4().hex}{uuid4().hex}\n" for _ in range(CIDS // 1000))
        plain = _seconds(lambda: _sort_and_comm(ours, theirs, Path(folder)))
        with vsyncd(conninfo, SPILL_DIR=folder) as service:
            seconds, summary, peak = _compare(service, theirs)
    if summary.our_vsync.count != CIDS:
        raise RuntimeError(f"{summary.our_vsync.count} of {CIDS} CIDs were compared")
    return [
        rate("reconciliation", f"DiffCidSet of {CIDS:,} CIDs", [seconds], "s"),
        Figure(
            bench="reconciliation",
            name="DiffCidSet / sort and comm (time)",
            value=seconds / plain,
            unit="x",
            target="at most 3",
            is_met=seconds <= 3 * plain,
        ),
        Figure(
            bench="reconciliation",
            name="vsyncd's memory while comparing",
            value=peak / 2**20,
            unit="MiB",
            target="at most 256",
            is_met=peak <= 256 * 2**20,
        ),
    ]


def _compare(service: Service, file: Path) -> tuple[float, pb.DiffSummary, int]:
    process = psutil.Process(service.process.pid)
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    options = DiffOptions(ispb=_ISPB, key_type=cid_pb2.KEY_TYPE_CPF, file_created_at=datetime.now(UTC))
    begin = time.perf_counter()
    with connect_sync(f"127.0.0.1:{service.port}") as client, CidFile(str(file)) as cids:
        answers = list(client.diff(cids, options))
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    return seconds, answers[-1].summary, peak


def _sort_and_comm(ours: Path, theirs: Path, folder: Path) -> None:
    environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)}
    sort, comm = (shutil.which(program) or program for program in ("sort", "comm"))
    for file in (ours, theirs):
        subprocess.run([sort, "-u", "-o", f"{file}.sorted", str(file)], check=True, env=environment)
    with (folder / "comm").open("wb") as out:
        subprocess.run([comm, "-3", f"{ours}.sorted", f"{theirs}.sorted"], check=True, env=environment, stdout=out)


def _copy_out(conninfo: str, query: str, file: Path) -> None:
    with (
        psycopg.connect(conninfo) as connection,
        file.open("wb") as out,
        connection.cursor() as cursor,
        cursor.copy(query.encode()) as copy,
    ):
        for data in copy:
            out.write(data)


def _fill(conninfo: str, key_type: cid_pb2.KeyType.ValueType, first: int, last: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for begin in range(first, last + 1, _LARGE):
            end = min(begin + _LARGE - 1, last)
            connection.execute(_FILL.encode(), {"key_type": key_type, "first": begin, "last": end})
        connection.execute("VACUUM ANALYZE vsync.cids")


def _execute(conninfo: str, statement: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement.encode())


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
