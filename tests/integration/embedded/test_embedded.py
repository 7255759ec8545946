"""The embedded server: over a folder of its own, for as long as its owner lives, and found again by the next one."""

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
    BinariesMissing,
    DataDirInUse,
    EmbeddedPostgres,
    IncompatibleData,
    NotRunning,
    StartFailed,
    conninfo_of_running,
)

from tests.harness.owners import Owner, postmaster_pid, read, running, show, until, write


@pytest.mark.both_versions
def test_a_second_start_finds_the_data_of_the_first(folder: Path, postgres_version: int) -> None:
    data_dir = folder / "not" / "there yet"
    with running(data_dir, version=postgres_version) as server:
        write(server.conninfo)
    assert not server.running
    with running(data_dir, version=postgres_version) as server:
        assert read(server.conninfo) == 42


@pytest.mark.both_versions
def test_what_is_money_is_durable_and_nothing_listens_to_the_network(folder: Path, postgres_version: int) -> None:
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


def test_no_key_reaches_the_servers_log(folder: Path) -> None:
    with running(folder / "data") as server, psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE keys (key text PRIMARY KEY)")
        connection.execute("INSERT INTO keys VALUES ('someone@example.com')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO keys VALUES ('someone@example.com')")
    log = (folder / "data" / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "someone@" not in log


def test_two_at_once_in_one_process_are_refused(folder: Path) -> None:
    with running(folder) as first:
        with pytest.raises(DataDirInUse, match=f"{folder} .*process {os.getpid()}"):
            EmbeddedPostgres(folder).start_now()
        with pytest.raises(StartFailed, match="already"):
            first.start_now()
        assert first.running


def test_two_processes_at_once_are_refused_and_the_message_names_the_folder_and_the_holder(folder: Path) -> None:
    with Owner(folder) as holder:
        conninfo = holder.answer()["conninfo"]
        with pytest.raises(DataDirInUse, match=f"{folder} .*process {holder.process.pid}"):
            EmbeddedPostgres(folder).start_now()
        write(conninfo)


def test_after_kill_9_the_server_stops_too_and_the_next_start_has_every_acknowledged_write(folder: Path) -> None:
    with Owner(folder) as owner:
        write(owner.answer()["conninfo"])
        postmaster = owner.postmaster
        owner.kill()
    postmaster.wait(timeout=30)
    with Owner(folder) as owner:
        assert read(owner.answer()["conninfo"]) == 42


def test_a_server_that_outlived_its_killed_owner_is_stopped_by_the_next_start(folder: Path) -> None:
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


def test_the_server_is_out_of_reach_of_ctrl_c_in_our_terminal(folder: Path) -> None:
    with Owner(folder) as owner:
        owner.answer()
        assert len({os.getsid(pid) for pid in (owner.process.pid, owner.postmaster.pid, owner.guard.pid)}) == 3


def test_an_initdb_that_was_killed_is_begun_anew(folder: Path) -> None:
    with Owner(folder) as owner:
        until(lambda: any(folder.glob("postgres.new-*/PG_VERSION")))
        process = psutil.Process(owner.process.pid)
        process.suspend()  # so that it puts nothing in its place, should initdb come to its end first
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # initdb starts programs that end by themselves
                child.kill()
        owner.kill()
    assert not (folder / "postgres").exists()
    with running(folder) as server:
        assert show(server.conninfo, "is_superuser") == "on"
    assert not any(folder.glob("postgres.new-*"))


async def test_it_starts_and_stops_without_blocking_the_loop(folder: Path) -> None:
    async with EmbeddedPostgres(folder, settings={"fsync": "off"}) as server:
        connection = await psycopg.AsyncConnection.connect(server.conninfo)
        assert connection.info.dbname == "vsync"
        await connection.close()
    assert not server.running


async def test_a_start_that_is_cancelled_leaves_nothing_running(folder: Path) -> None:
    server = EmbeddedPostgres(folder, settings={"fsync": "off"})
    start = asyncio.create_task(server.start())
    await asyncio.to_thread(until, (folder / "lock").exists)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not server.running
    await server.start()
    await server.stop()


def test_a_server_that_dies_is_noticed_and_the_next_start_works(folder: Path) -> None:
    with running(folder) as server:
        pid = postmaster_pid(folder)
        os.kill(pid, signal.SIGQUIT)
        until(lambda: not server.running)
    with running(folder) as server:
        assert server.running


@pytest.mark.parametrize("content", ["", "not a number\n", "4194303\n", "{ours}\n/elsewhere\n"])
def test_a_stale_pid_file_does_not_stop_the_start_nor_harm_who_has_that_pid_now(folder: Path, content: str) -> None:
    with running(folder):
        pass
    (folder / "postgres" / "postmaster.pid").write_text(content.format(ours=os.getpid()))
    with running(folder) as server:
        assert server.running


def test_a_pid_file_that_names_another_cluster_is_left_to_a_human(folder: Path) -> None:
    with running(folder / "one") as one:
        two = EmbeddedPostgres(folder / "two")
        two.start_now()
        two.stop_now()
        pid_file = folder / "two" / "postgres" / "postmaster.pid"
        shutil.copy(folder / "one" / "postgres" / "postmaster.pid", pid_file)
        with pytest.raises(StartFailed, match="someone else"):
            two.start_now()
        assert one.running
        assert pid_file.exists()


def test_a_folder_of_another_major_version_is_refused(folder: Path) -> None:
    with running(folder, version=16):
        pass
    with pytest.raises(IncompatibleData, match="made by PostgreSQL 16, and this is 18"):
        EmbeddedPostgres(folder, version=18).start_now()
    (folder / "postgres" / "PG_VERSION").unlink()
    with pytest.raises(IncompatibleData, match="not a PostgreSQL cluster"):
        EmbeddedPostgres(folder, version=18).start_now()


def test_a_version_that_the_wheel_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(BinariesMissing, match="no PostgreSQL 17"):
        EmbeddedPostgres(folder, version=17).start_now()


def test_a_start_that_fails_says_why_with_the_servers_own_words_and_frees_the_folder(folder: Path) -> None:
    with pytest.raises(StartFailed, match="shared_buffers"):
        EmbeddedPostgres(folder, settings={"shared_buffers": "much"}).start_now()
    with pytest.raises(StartFailed, match="not ready after 0 s"):
        EmbeddedPostgres(folder, start_timeout=0).start_now()
    with running(folder) as server:
        assert server.running


def test_a_path_too_long_for_a_socket_gets_a_short_one_that_is_removed_again(folder: Path) -> None:
    data_dir = folder / ("long" * 25)
    with running(data_dir) as server:
        short = Path(show(server.conninfo, "unix_socket_directories").strip('"'))
        assert short.stat().st_mode & 0o777 == 0o700
        assert conninfo_of_running(data_dir) == server.conninfo
    assert not short.exists()
    with pytest.raises(NotRunning, match="start vsyncd serve --embedded --data-dir"):
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
