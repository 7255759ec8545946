"""The embedded PostgreSQL: data folder, lock, durability, and the end of its owner process."""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

import psutil
import psycopg
import pytest
from vsyncd.embedded import (
    DataDirInUse,
    EmbeddedError,
    EmbeddedPostgres,
    StartFailed,
    conninfo_of_running,
)

from tests.harness.owners import Owner, postmaster_pid, read, running, show, until, write


@pytest.mark.both_versions
def test_data_survives_a_restart(folder: Path, postgres_version: int) -> None:
    data_dir = folder / "not" / "there yet"
    with running(data_dir, version=postgres_version) as server:
        write(server.conninfo)
    assert not server.running
    with running(data_dir, version=postgres_version) as server:
        assert read(server.conninfo) == 42


@pytest.mark.both_versions
def test_commits_are_durable_and_the_server_listens_only_on_a_private_socket(
    folder: Path, postgres_version: int
) -> None:
    with running(folder / "data", version=postgres_version, settings={}) as server:
        shown = {
            name: show(server.conninfo, name)
            for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "listen_addresses")
        }
        assert shown == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "listen_addresses": "",
        }
        assert show(server.conninfo, "server_encoding") == "UTF8"
        socket_dir = Path(show(server.conninfo, "unix_socket_directories").strip('"'))
        assert socket_dir.stat().st_mode & 0o777 == 0o700


def test_the_servers_log_contains_no_keys(folder: Path) -> None:
    with running(folder / "data") as server, psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE keys (key text PRIMARY KEY)")
        connection.execute("INSERT INTO keys VALUES ('someone@example.com')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO keys VALUES ('someone@example.com')")
    log = (folder / "data" / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "someone@" not in log


def test_a_second_server_of_the_same_process_is_refused(folder: Path) -> None:
    with running(folder) as first:
        with pytest.raises(DataDirInUse, match=f"{folder} .*process {os.getpid()}"):
            EmbeddedPostgres(folder).start_now()
        with pytest.raises(StartFailed, match="already"):
            first.start_now()
        assert first.running


def test_a_second_process_is_refused_and_the_error_names_folder_and_holder(folder: Path) -> None:
    with Owner(folder) as holder:
        conninfo = holder.answer()["conninfo"]
        with pytest.raises(DataDirInUse, match=f"{folder} .*process {holder.process.pid}"):
            EmbeddedPostgres(folder).start_now()
        write(conninfo)


def test_after_kill_9_the_server_stops_and_acknowledged_writes_survive(folder: Path) -> None:
    with Owner(folder) as owner:
        write(owner.answer()["conninfo"])
        postmaster = owner.postmaster
        owner.kill()
    postmaster.wait(timeout=30)
    with Owner(folder) as owner:
        assert read(owner.answer()["conninfo"]) == 42


def test_an_orphaned_server_is_stopped_by_the_next_start(folder: Path) -> None:
    with Owner(folder) as owner:
        conninfo = owner.answer()["conninfo"]
        write(conninfo)
        orphan = owner.postmaster
        owner.guard.kill()
        owner.kill()
    assert orphan.is_running()
    with psycopg.connect(conninfo) as connection, Owner(folder) as owner:
        assert read(owner.answer()["conninfo"]) == 42
        assert owner.postmaster.pid != orphan.pid
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan.wait(timeout=30)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    with Owner(folder) as owner:
        owner.answer()
        assert len({os.getsid(pid) for pid in (owner.process.pid, owner.postmaster.pid, owner.guard.pid)}) == 3


def test_a_killed_initdb_is_repeated(folder: Path) -> None:
    with Owner(folder) as owner:
        until(lambda: any(folder.glob("postgres.new-*/PG_VERSION")))
        process = psutil.Process(owner.process.pid)
        process.suspend()  # so that it does not rename the folder if initdb ends first
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # children of initdb may end meanwhile
                child.kill()
        owner.kill()
    assert not (folder / "postgres").exists()
    with running(folder) as server:
        assert show(server.conninfo, "is_superuser") == "on"
    assert not any(folder.glob("postgres.new-*"))


async def test_start_and_stop_work_in_an_event_loop(folder: Path) -> None:
    async with EmbeddedPostgres(folder, settings={"fsync": "off"}) as server:
        connection = await psycopg.AsyncConnection.connect(server.conninfo)
        assert connection.info.dbname == "vsync"
        await connection.close()
    assert not server.running


async def test_a_cancelled_start_leaves_nothing_running(folder: Path) -> None:
    server = EmbeddedPostgres(folder, settings={"fsync": "off"})
    start = asyncio.create_task(server.start())
    await asyncio.to_thread(until, (folder / "lock").exists)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not server.running
    await server.start()
    await server.stop()


def test_the_end_of_the_server_is_noticed_and_the_next_start_works(folder: Path) -> None:
    with running(folder) as server:
        pid = postmaster_pid(folder)
        os.kill(pid, signal.SIGQUIT)
        until(lambda: not server.running)
    with running(folder) as server:
        assert server.running


@pytest.mark.parametrize("content", ["", "not a number\n", "4194303\n", "{ours}\n/elsewhere\n"])
def test_a_stale_pid_file_neither_prevents_the_start_nor_harms_another_process(folder: Path, content: str) -> None:
    with running(folder):
        pass
    (folder / "postgres" / "postmaster.pid").write_text(content.format(ours=os.getpid()))
    with running(folder) as server:
        assert server.running


def test_a_pid_file_of_another_running_server_is_refused_and_kept(folder: Path) -> None:
    with running(folder / "one") as one:
        two = EmbeddedPostgres(folder / "two")
        two.start_now()
        two.stop_now()
        pid_file = folder / "two" / "postgres" / "postmaster.pid"
        shutil.copy(folder / "one" / "postgres" / "postmaster.pid", pid_file)
        with pytest.raises(StartFailed, match="process id of another PostgreSQL"):
            two.start_now()
        assert one.running
        assert pid_file.exists()


def test_a_folder_of_another_major_version_is_refused(folder: Path) -> None:
    with running(folder, version=16):
        pass
    with pytest.raises(EmbeddedError, match="created by PostgreSQL 16, and this is 18"):
        EmbeddedPostgres(folder, version=18).start_now()
    (folder / "postgres" / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedError, match="not a PostgreSQL cluster"):
        EmbeddedPostgres(folder, version=18).start_now()


def test_a_version_that_the_wheel_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="no PostgreSQL 17"):
        EmbeddedPostgres(folder, version=17).start_now()


def test_the_error_of_a_failed_start_contains_the_servers_log_and_the_folder_is_unlocked(folder: Path) -> None:
    with pytest.raises(StartFailed, match="shared_buffers"):
        EmbeddedPostgres(folder, settings={"shared_buffers": "much"}).start_now()
    with pytest.raises(StartFailed, match="not ready after 0 s"):
        EmbeddedPostgres(folder, start_timeout=0).start_now()
    with running(folder) as server:
        assert server.running


def test_a_long_data_folder_gets_a_temporary_socket_folder_that_is_removed(folder: Path) -> None:
    data_dir = folder / ("long" * 25)
    with running(data_dir) as server:
        short = Path(show(server.conninfo, "unix_socket_directories").strip('"'))
        assert short.stat().st_mode & 0o777 == 0o700
        assert conninfo_of_running(data_dir) == server.conninfo
    assert not short.exists()
    with pytest.raises(EmbeddedError, match="start vsyncd serve --embedded --data-dir"):
        conninfo_of_running(data_dir)
    with Owner(data_dir) as owner:
        owner.answer()
        killed = Path((data_dir / "socket-folder").read_text())
        owner.kill()
    with running(data_dir):
        assert not killed.exists()


def test_a_folder_name_with_quotes_and_commas_works(folder: Path) -> None:
    with running(folder / """it's "a", folder""") as server:
        assert show(server.conninfo, "is_superuser") == "on"
