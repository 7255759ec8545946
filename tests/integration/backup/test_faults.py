"""Passwords, a killed server and a full disk, with a server and a disk of the test's own."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from vsyncd.backup.errors import BackupError, DatabaseFailed

from tests.harness.backups import InThread, backups_in, waiting, waits
from tests.harness.catalog import fill
from tests.harness.clusters import Database
from tests.harness.owners import until
from tests.harness.private_servers import Agent, PrivateServer

_PASSWORD = "p:a\\ss'w ord"  # noqa: S105 - of this test's server


@pytest.fixture
def server(folder: Path) -> Iterator[PrivateServer]:
    """A server that requires a password from every role but its superuser."""
    agent = Agent(folder)
    try:
        server = PrivateServer.fresh(agent, "data")
        rules = "local all vsync trust\nlocal all all scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules)
        server.start()
        yield server
    finally:
        agent.close()


def test_the_password_is_on_no_command_line_and_a_wrong_one_is_reported(server: PrivateServer, tmp_path: Path) -> None:
    with psycopg.connect(server.admin("postgres"), autocommit=True) as admin:
        quoted = _PASSWORD.replace("'", "''")
        admin.execute(f"CREATE ROLE keeper LOGIN CREATEDB PASSWORD '{quoted}'".encode())
        admin.execute(b"CREATE DATABASE mine OWNER keeper")
    conninfo = make_conninfo(server.admin("mine"), user="keeper", password=_PASSWORD)
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE held (); INSERT INTO held DEFAULT VALUES")
        connection.commit()
        connection.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        backups = backups_in(conninfo, tmp_path)
        making = InThread(backups.create)
        me = psutil.Process()
        until(lambda: waiting(server.admin("mine"), "LOCK TABLE%") != [])
        lines = []
        for child in me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie raises it too
                lines.append(" ".join(child.cmdline()))
        values = [value for child in me.children(recursive=True) for value in _environment(child).values()]
    made = making.result()
    assert any("pg_dump" in line and "--snapshot" in line for line in lines)
    assert not any("ss'w" in text for text in (*lines, *values))
    assert backups.verify(made.name, restore=True).restored

    wrong = make_conninfo(conninfo, password="another-one")
    with pytest.raises(DatabaseFailed, match="password authentication failed") as caught:
        backups_in(wrong, tmp_path).create()
    assert "another-one" not in str(caught.value)


def test_a_server_killed_during_a_backup_leaves_nothing(server: PrivateServer, tmp_path: Path) -> None:
    server.execute("CREATE DATABASE mine")
    server.execute("CREATE TABLE held (); INSERT INTO held DEFAULT VALUES", "mine")
    backups = backups_in(server.admin("mine"), tmp_path)
    kept = backups.create()
    with contextlib.closing(psycopg.connect(server.admin("mine"))) as connection:
        connection.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        making = InThread(backups.create)
        until(waits(server.admin("mine"), "vsyncd backup"))
        server.stop(signal.SIGKILL)
        with pytest.raises(BackupError):
            making.result()
    with pytest.raises(DatabaseFailed):
        backups.restore(kept.name, target="other")
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    server.start()
    assert backups.restore(kept.name, target="other").database == "other"


def _environment(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error):
        return process.environ()
    return {}


@pytest.mark.soak  # mounts a file system, which needs root
def test_a_full_disk_leaves_nothing_and_a_later_backup_succeeds(database: Database, tmp_path: Path) -> None:
    fill(database)
    with psycopg.connect(database.owner) as connection:
        connection.execute(
            "INSERT INTO vsync.audit_logs (correlation_id, recorded_by, action, payload)"
            " SELECT 'c', 'a', 'b', jsonb_build_object('random', string_agg(gen_random_uuid()::text, ''))"
            " FROM generate_series(1, 20000) AS n GROUP BY n % 500"
        )
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
    try:
        backups = backups_in(database.admin, disk / "backups")
        with pytest.raises(BackupError, match="No space left on device"):
            backups.create()
        assert list((disk / "backups").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert backups.verify(backups.create().name, restore=True).restored
    finally:
        subprocess.run(["umount", str(disk)], check=True)
