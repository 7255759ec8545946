"""Creating backups: their content, and that an unfinished backup is not listed."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import xor
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from vsyncd.backup.errors import (
    BackupError,
    DatabaseFailed,
    Interrupted,
    PgToolsUnsuitable,
    StorageFailed,
)
from vsyncd.backup.manager import Backups
from vsyncd.backup.pg_tools import ZSTD, find_pg_tools
from vsyncd.backup.records import Retention
from vsyncd.backup.tasks import Task

from tests.harness.backups import (
    InThread,
    backups_in,
    drop,
    elsewhere,
    environment,
    has_ended,
    locked,
    waiting,
    waits,
    wheel,
)
from tests.harness.cids import rows
from tests.harness.clusters import PASSWORD, SERVICE, Database, Databases
from tests.harness.owners import until

_ROOT = Path(__file__).parents[3]
_COMMAND = "import sys; from vsyncd.cli import main; main()"
# Limits the size of files that this process and its children write, like a full disk.
_SMALL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "


def start(database: Database, folder: Path, program: str = _COMMAND) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, "backup", "create"],
        env=os.environ | environment(database, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def waited(conninfo: str, query: str) -> float:
    """Returns for how many seconds a session has waited for a lock in a query like this."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT coalesce(min(extract(epoch FROM clock_timestamp() - query_start)), 0)::float FROM pg_stat_activity"
            " WHERE query LIKE %s AND wait_event_type = 'Lock' AND datname = current_database()",
            [query],
        ).fetchone()
        return float(row[0]) if row else 0.0


@pytest.mark.both_versions
def test_the_manifest_describes_the_databases_content(backups: Backups, filled: Database) -> None:
    made = backups.create()
    manifest = made.manifest
    assert manifest is not None
    sets = {
        (row["ispb"], row["key_type"]): row["cids"]
        for row in rows(filled, "SELECT ispb, key_type, array_agg(cid) AS cids FROM vsync.cids GROUP BY 1, 2")
    }
    assert {(each.ispb, each.key_type): (each.count, each.vsync) for each in manifest.content.cid_sets} == {
        key: (len(cids), f"{reduce(xor, (int.from_bytes(cid) for cid in cids)):064x}") for key, cids in sets.items()
    }
    assert manifest.content.tables["vsync.cids"] == 400
    events = sum(count for name, count in manifest.content.tables.items() if name.startswith("vsync.cid_events_"))
    assert events == 400
    assert manifest.content.migrations["vsync"] >= 1
    assert (manifest.origin.server_major, manifest.vsyncd_version) == (filled.version, "1.2.3")
    assert {"vsync_owner", SERVICE} <= set(manifest.origin.roles)
    assert [backup.state for backup in backups.list()] == ["unverified"]


def test_files_are_private_and_sha256sum_accepts_the_checksums(backups: Backups, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        made = backups.create()
    finally:
        os.umask(umask)
    folder = tmp_path / "backups" / made.name
    assert [path.name for path in folder.parent.iterdir()] == [made.name], "no other files remain"
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder.parent, folder, folder / "dump")} == {0o700}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_manifest_and_dump_have_the_same_snapshot_despite_concurrent_writes(backups: Backups, filled: Database) -> None:
    done = threading.Event()
    started = threading.Event()

    def write() -> None:
        with psycopg.connect(filled.service, autocommit=True) as connection:
            for number in itertools.count(1):
                last = done.is_set()  # one row is written after the backup, however fast it was
                connection.execute(
                    "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
                    " VALUES (sha256(%s), 5, %s, '44444444', '1', 1, '00000000009')",
                    [b"new %d" % number, str(uuid4())],
                )
                started.set()
                if last:
                    return

    writing = InThread(write)
    assert started.wait(60)
    try:
        made = backups.create()
    finally:
        done.set()
        writing.result()
    # Compares the restored counts and CID sets with the manifest.
    assert backups.verify(made.name, restore=True).restored
    (row,) = rows(filled, "SELECT count(*) AS n FROM vsync.cids")
    assert made.manifest is not None
    assert 400 < made.manifest.content.tables["vsync.cids"] < row["n"]


def test_the_custom_format_creates_one_file(filled: Database, tmp_path: Path) -> None:
    backups = backups_in(filled.admin, tmp_path, dump_format="custom", compression="none")
    made = backups.create()
    assert made.manifest is not None
    assert [file.path for file in made.manifest.files] == ["dump"]
    assert backups.verify(made.name, restore=True).restored


@pytest.mark.parametrize("dump_format", ["directory", "custom"])
def test_zstd_works_with_tools_built_with_it(filled: Database, tmp_path: Path, dump_format: str) -> None:
    try:
        able = find_pg_tools(18, options=[ZSTD])
    except PgToolsUnsuitable:
        pytest.skip("no pg_dump of PostgreSQL 18 or newer on this machine was built with zstd")
    backups = backups_in(filled.admin, tmp_path, dump_format=dump_format, compression="zstd:3")
    made = backups.create()
    assert made.manifest is not None
    assert (made.manifest.compression, made.manifest.pg_dump_version) == ("zstd:3", able.version)
    dump = b"".join((tmp_path / made.name / file.path).read_bytes() for file in made.manifest.files)
    assert b"\x28\xb5\x2f\xfd" in dump, "no zstd magic number (RFC 8878)"
    backups.verify(made.name)
    assert backups.verify(made.name, restore=True).restored
    # Tools without zstd can verify the files; a restore names what is missing.
    other = elsewhere(backups, filled.admin, pg_bin=wheel())
    assert not other.verify(made.name).problems
    with pytest.raises(PgToolsUnsuitable, match=r"^zstd is needed"):
        other.restore(made.name, target="never_made")


def test_an_unsupported_compression_is_reported_before_anything_is_written(filled: Database, tmp_path: Path) -> None:
    backups = backups_in(filled.admin, tmp_path / "backups", compression="zstd:3", pg_bin=wheel())
    with pytest.raises(
        PgToolsUnsuitable,
        match=r"^zstd is needed, and pg_dump was built without it \(18\.\S+ in .*BACKUP_COMPRESSION=gzip",
    ):
        backups.create()
    assert not (tmp_path / "backups").exists()


def test_tools_older_than_the_server_are_refused_before_anything_is_written(filled: Database, tmp_path: Path) -> None:
    backups = backups_in(filled.admin, tmp_path / "backups", pg_bin=find_pg_tools(16).folder)
    with pytest.raises(PgToolsUnsuitable, match="BACKUP_PG_BIN"):
        backups.create()
    assert not (tmp_path / "backups").exists()


def test_a_role_without_read_privileges_creates_no_backup(filled: Database, tmp_path: Path) -> None:
    backups = backups_in(filled.service, tmp_path)
    # pg_dump and the content summary run at the same time; either may fail first.
    with pytest.raises(BackupError, match="permission denied for table"):
        backups.create()
    with pytest.raises(DatabaseFailed, match=r'role "nobody-like-that" does not exist') as caught:
        backups_in(f"{filled.admin} user=nobody-like-that password={PASSWORD}", tmp_path).create()
    assert PASSWORD not in str(caught.value)
    assert backups.list() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "version"), [("transaction_timeout", 18), ("lock_timeout", 18), ("lock_timeout", 16)]
)
def test_a_timeout_of_the_role_does_not_end_the_backup(
    databases: Callable[[int], Databases], tmp_path: Path, setting: str, version: int
) -> None:
    role = f"role_{uuid4().hex[:8]}"
    with databases(version).fresh() as database, psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET {setting} = '300ms'".encode())
        try:
            backups = backups_in(make_conninfo(database.admin, user=role), tmp_path)
            with locked(database):
                making = InThread(backups.create)
                until(lambda: waited(database.admin, "LOCK TABLE%") > 0.5)
                until(lambda: waited(database.admin, "SELECT count(*) FROM ONLY%") > 0.5)
            assert backups.verify(making.result().name, restore=True).restored
        finally:
            admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("name", ["trailing ", "two\nlines", "tab\t"])
def test_a_database_name_that_a_service_file_cannot_contain_is_refused(
    filled: Database, tmp_path: Path, name: str
) -> None:
    name = f"{filled.name} {name}"
    with psycopg.connect(filled.admin, dbname="postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        with pytest.raises(DatabaseFailed, match=r"^dbname contains a line break or trailing white space"):
            backups_in(make_conninfo(filled.admin, dbname=name), tmp_path / "backups").create()
        assert not (tmp_path / "backups").exists()
    finally:
        drop(filled.admin, name)


def test_a_second_concurrent_backup_is_refused(backups: Backups, filled: Database) -> None:
    with locked(filled):
        first = InThread(backups.create)
        until(waits(filled.admin, "vsyncd backup"))
        with pytest.raises(BackupError, match=r"another backup of the database .* is running"):
            backups.create()
    made = first.result()
    assert [backup.name for backup in backups.list()] == [made.name]


def test_after_kill_9_nothing_is_listed_and_cleanup_removes_the_remains(
    backups: Backups, filled: Database, tmp_path: Path
) -> None:
    with locked(filled):
        process = start(filled, tmp_path / "backups")
        until(lambda: waiting(filled.admin, "LOCK TABLE%") != [])
        (dump,) = psutil.Process(process.pid).children()
        process.kill()
        process.communicate()
        assert backups.list() == []
        assert not has_ended(dump)
        backups.cleanup()
        assert len([path for path in (tmp_path / "backups").iterdir() if path.is_dir()]) == 1, (
            "pg_dump still writes to it"
        )
    until(lambda: has_ended(dump))
    backups.cleanup()
    assert list((tmp_path / "backups").iterdir()) == []
    made = backups.create()
    assert [backup.name for backup in backups.list()] == [made.name]


# Kills itself at one step: a step of the progress, or before the rename.
_KILLED = """
import os, signal, sys
from pathlib import Path
from vsyncd.backup.store import FolderStore
from vsyncd.backup.tasks import Task
from tests.harness.backups import backups_in

def kill(step):
    if step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

class Store(FolderStore):
    def keep(self, *arguments):
        kill("rename")
        super().keep(*arguments)

backups = backups_in(sys.argv[1], Path(sys.argv[2]), store=Store(Path(sys.argv[2])))
backups.create(Task(lambda progress: kill(progress.step)))
"""


@pytest.mark.parametrize(("step", "is_kept"), [("checksums", False), ("rename", False), ("store", True)])
def test_kill_9_after_the_dump_leaves_a_complete_backup_or_none(
    backups: Backups, filled: Database, tmp_path: Path, step: str, *, is_kept: bool
) -> None:
    folder = tmp_path / "backups"
    ran = subprocess.run([sys.executable, "-c", _KILLED, filled.admin, str(folder), step], cwd=_ROOT, check=False)
    assert ran.returncode == -signal.SIGKILL
    found = backups.list()
    assert len(found) == is_kept
    for backup in found:
        backups.verify(backup.name)
    cleaned = backups.cleanup()
    assert (len(cleaned.unfinished), cleaned.removed) == (not is_kept, [])
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == [folder / backup.name for backup in found]


@pytest.mark.parametrize("application", ["pg_dump", "vsyncd"])
def test_a_connection_lost_during_the_dump_leaves_nothing(
    backups: Backups, filled: Database, tmp_path: Path, application: str
) -> None:
    with locked(filled):
        making = InThread(backups.create)
        until(lambda: waiting(filled.admin, "LOCK TABLE%") != [])
        until(lambda: waiting(filled.admin, "SELECT count(*) FROM ONLY%") != [])
        like = "LOCK TABLE%" if application == "pg_dump" else "SELECT count(*) FROM ONLY%"
        rows(filled, "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", waiting(filled.admin, like))
        with pytest.raises(BackupError, match="terminat"):
            making.result()
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_disk_that_fills_up_during_the_dump_leaves_nothing(filled: Database, tmp_path: Path) -> None:
    process = start(filled, tmp_path / "backups", _SMALL_DISK + _COMMAND)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.startswith("vsyncd: pg_dump")
    assert list((tmp_path / "backups").iterdir()) == []


def test_the_error_names_a_folder_that_cannot_be_used(filled: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=f"the folder {tmp_path}/file cannot be used: "):
        backups_in(filled.admin, tmp_path / "file").create()


def test_a_stop_request_ends_pg_dump_and_removes_its_files(backups: Backups, filled: Database, tmp_path: Path) -> None:
    task = Task()
    with locked(filled):
        making = InThread(lambda: backups.create(task))
        until(waits(filled.admin, "vsyncd backup"))
        task.stop()
        with pytest.raises(Interrupted):
            making.result()
    assert list((tmp_path / "backups").iterdir()) == []


def test_ctrl_c_prints_one_line_and_leaves_nothing(filled: Database, tmp_path: Path) -> None:
    with locked(filled):
        process = start(filled, tmp_path / "backups")
        until(waits(filled.admin, "vsyncd backup"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "vsyncd: stopped on request\n")
    assert list((tmp_path / "backups").iterdir()) == []


@pytest.mark.soak
def test_backups_of_other_databases_are_neither_removed_nor_latest(
    databases: Callable[[int], Databases], backups: Backups, filled: Database, tmp_path: Path
) -> None:
    name, server = filled.name, databases(16).admin
    drop(server, name)
    with psycopg.connect(server, dbname="postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        folder = tmp_path / "backups"
        namesake = backups_in(make_conninfo(server, dbname=name), folder)
        with databases(18).fresh() as other:
            kept = [each.create().name for each in (backups_in(other.admin, folder), namesake) for _ in range(2)]
        ours = [backups.create().name for _ in range(2)]
        kept.append(namesake.create().name)
        assert backups.find("latest").name == ours[-1]
        assert namesake.find("latest").name == kept[-1]
        strict = Backups(replace(backups.config, retention=Retention(days=1e-9, count=1)))
        assert strict.cleanup().removed == ours[:1]
        assert {backup.name for backup in strict.list()} == {*kept, ours[-1]}
    finally:
        drop(server, name)


def test_latest_is_found_even_if_the_database_was_dropped(backups: Backups, filled: Database) -> None:
    made = backups.create()
    drop(filled.admin, filled.name)
    assert backups.find("latest").name == made.name
