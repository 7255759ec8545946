"""An embedded server that ends unexpectedly is restarted; if that fails, the service exits with the reason."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from vsyncd.embedded import (
    DataDirUnreachable,
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedServer,
    EmbeddedValkey,
    RestartPolicy,
    conninfo_of_running,
    supervise,
)

from tests.harness.embedded_service import EmbeddedService, embedded_service
from tests.harness.owners import postmaster_pid, read, running, until, write
from tests.harness.small_disk import small_disk

POSTGRES, VALKEY = "postgres", "valkey-server"
ENDED, RESTARTED = "embedded server ended unexpectedly", "embedded server restarted"
NAMES = {POSTGRES: "PostgreSQL", VALKEY: "Valkey"}
# Restarts immediately, and counts each restart after which the server ends again as failed.
QUICK = RestartPolicy(first_pause_s=0.01, healthy_s=3600)


class TestTheService:
    """`vsyncd serve --embedded` as a process whose servers are killed."""

    def test_recovers_after_kill_9_of_one_or_both_servers_and_logs_it(self, folder: Path) -> None:
        restarts = dict.fromkeys(NAMES, 0)
        with embedded_service(folder) as service:
            for killed in [(POSTGRES,), (VALKEY,), (POSTGRES, VALKEY)]:
                until(service.is_ready)
                for server in [service.server(name) for name in killed]:
                    server.kill()
                for name in killed:
                    restarts[name] += 1
                    died = {"server": NAMES[name], "status": "signal SIGKILL"}
                    service.await_event(ENDED, count=restarts[name], **died)
                    service.await_event(RESTARTED, count=restarts[name], server=NAMES[name])
            until(service.is_ready)
            until(lambda: serving_roles(service) == {("vsync_service", False)})
            assert service.stop() == 0
            assert len(service.events(RESTARTED)) == sum(restarts.values())
            assert service.output == "", "the banner is only for a terminal"

    @pytest.mark.soak
    def test_recovers_from_a_postgresql_killed_during_its_start(self, folder: Path) -> None:
        with embedded_service(folder) as service:
            service.await_event("PostgreSQL started")
            service.server(POSTGRES).kill()
            service.await_event(RESTARTED, server="PostgreSQL")
            until(service.is_ready)
            assert service.stop() == 0

    @pytest.mark.soak
    def test_restarts_nothing_while_it_stops(self, folder: Path) -> None:
        with embedded_service(folder, SHUTDOWN_DELAY="3") as service:
            until(service.is_ready)
            servers = [service.server(POSTGRES), service.server(VALKEY)]
            service.process.send_signal(signal.SIGTERM)
            service.await_event("draining")
            for server in servers:
                server.kill()
            assert service.wait() == 0
            assert service.events(RESTARTED) == []

    @pytest.mark.soak
    def test_exits_on_sigterm_while_it_waits_for_the_next_restart(self, folder: Path) -> None:
        with embedded_service(folder) as service:
            until(service.is_ready)
            lose_data(service)
            service.await_event("embedded server could not be restarted")
            assert service.stop() == 0
            assert service.events("stopped")

    def test_exits_with_1_and_the_reason_after_five_failed_restarts(self, folder: Path) -> None:
        with embedded_service(folder) as service:
            until(service.is_ready)
            lose_data(service)
            assert service.wait() == 1
            failed = service.events("embedded server could not be restarted")
            assert [event["failed"] for event in failed] == [1, 2, 3, 4, 5]
            last = service.error.splitlines()[-1]
            assert last.startswith("vsyncd: PostgreSQL could not be restarted 5 times in a row: ")
            assert "no longer exists" in last
            assert "Traceback" not in service.error


def serving_roles(service: EmbeddedService) -> set[tuple[str, bool]]:
    """Returns the roles of the service's permanent connections, and whether each is a superuser."""
    query = """
        SELECT usename, usesuper FROM pg_stat_activity JOIN pg_user USING (usename)
        WHERE application_name IN ('vsyncd monitor', 'vsyncd cache')"""
    with psycopg.connect(conninfo_of_running(service.data_dir)) as connection:
        return set(connection.execute(query).fetchall())


def lose_data(service: EmbeddedService) -> None:
    """Rename the data folder and kill PostgreSQL."""
    server = service.server(POSTGRES)
    service.data_dir.rename(service.data_dir.with_name("elsewhere"))
    server.kill()


class TestPostgreSQL:
    """EmbeddedPostgres without a supervisor."""

    def test_restarts_although_a_child_of_the_killed_postmaster_is_busy(self, folder: Path) -> None:
        with running(folder) as server:
            write(server.conninfo)
            with contextlib.closing(psycopg.connect(server.conninfo)) as connection:
                pid = connection.info.backend_pid
                # Never waits, so it does not notice that the postmaster was killed.
                connection.pgconn.send_query(b"SELECT count(*) FROM pg_class a, pg_class b, pg_class c, pg_class d")
                until(lambda: is_active(server.conninfo, pid))
                os.kill(postmaster_pid(folder), signal.SIGKILL)
                until(lambda: not server.running)
                server.restart_now()
            assert read(server.conninfo) == 42

    def test_keeps_address_and_log_after_a_restart(self, folder: Path) -> None:
        with running(folder / ("long" * 25)) as server:
            address = server.conninfo
            os.kill(postmaster_pid(server.data_dir), signal.SIGKILL)
            until(lambda: not server.running)
            shutil.rmtree(address.partition("host=")[2].partition(" ")[0])
            server.restart_now()
            assert server.conninfo == address
            write(address)
            assert (server.data_dir / "postgres.log").read_text().count("ready to accept connections") == 2

    def test_is_not_replaced_by_an_empty_cluster_if_its_data_is_missing(self, folder: Path) -> None:
        with running(folder / "data") as server:
            write(server.conninfo)
            (folder / "data" / "postgres").rename(folder / "kept")
            server._end_processes()
            with pytest.raises(DataDirUnreachable, match="no longer exists"):
                server.restart_now()
            assert not (folder / "data" / "postgres").exists()
            (folder / "kept").rename(folder / "data" / "postgres")
            server.restart_now()
            assert read(server.conninfo) == 42

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
    def test_reports_a_full_disk_and_restarts_once_space_is_free(self, folder: Path) -> None:
        with small_disk(folder / "disk", megabytes=256) as disk:
            disk.path.chmod(0o755)
            with running(disk.path / "data", settings={"min_wal_size": "32MB", "max_wal_size": "48MB"}) as server:
                write(server.conninfo)
                os.kill(postmaster_pid(server.data_dir), signal.SIGKILL)
                until(lambda: not server.running)
                disk.fill()
                with pytest.raises(EmbeddedError, match=r"No space left|bytes left"):
                    server.restart_now()
                disk.free()
                server.restart_now()
                assert read(server.conninfo) == 42


def is_active(conninfo: str, pid: int) -> bool:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    return row == ("active",)


@pytest.mark.parametrize(
    "make",
    [lambda folder: EmbeddedPostgres(folder, settings={"fsync": "off"}), EmbeddedValkey],
    ids=["PostgreSQL", "Valkey"],
)
async def test_the_supervisor_gives_up_on_a_server_that_ends_after_each_restart(
    folder: Path, make: Callable[[Path], EmbeddedServer]
) -> None:
    events: list[str] = []
    async with make(folder / "data") as server:

        def kill_again(_level: int, event: str, **_fields: object) -> None:
            events.append(event)
            if event == RESTARTED:
                kill(server)

        kill(server)
        with pytest.raises(EmbeddedError, match="5 times in a row: it ended with signal SIGKILL"):
            await supervise(server, kill_again, QUICK)
    assert events == [ENDED, RESTARTED] * 5


async def test_a_server_with_healthy_runs_is_restarted_any_number_of_times(folder: Path) -> None:
    restarts = 0
    done = asyncio.Event()
    async with EmbeddedValkey(folder / "data") as server:

        def kill_again(_level: int, event: str, **_fields: object) -> None:
            nonlocal restarts
            if event == RESTARTED:
                restarts += 1
                done.set() if restarts > 10 else kill(server)

        kill(server)
        supervisor = asyncio.create_task(supervise(server, kill_again, RestartPolicy(first_pause_s=60, healthy_s=0)))
        await asyncio.wait({supervisor, asyncio.create_task(done.wait())}, return_when=asyncio.FIRST_COMPLETED)
        supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervisor
        assert server.running
    assert restarts == 11


async def test_a_cancelled_restart_ends_and_leaves_nothing_running(folder: Path) -> None:
    async with EmbeddedPostgres(folder / "data", settings={"fsync": "off"}) as server:
        kill(server)
        until(lambda: not server.running)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await server.restart()
        assert time.monotonic() - started < 60
    assert not server.running


def kill(server: EmbeddedServer) -> None:
    """Kill the server's process with SIGKILL."""
    assert server._server is not None
    server._server.kill()
