"""A PostgreSQL server of our own: made, started, watched and stopped with vsyncd."""

import asyncio
import contextlib
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from vsyncd.embedded.account import Account, account_for
from vsyncd.embedded.binaries import reachable_binaries
from vsyncd.embedded.cluster import CLUSTER, SUPERUSER, make_cluster, stop_orphan, stop_server
from vsyncd.embedded.errors import DataDirUnreachable, EmbeddedError, StartFailed
from vsyncd.embedded.folder import FolderLock, make_data_dir, open_to
from vsyncd.embedded.sockets import make_socket_dir, remove_socket_dir
from vsyncd.session_settings import connect

DATABASE = "vsync"
# For a machine that runs other things too. Durability stays at PostgreSQL's defaults: fsync and full pages are on.
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "shared_buffers": "128MB",
        "max_connections": "100",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        # Keys and tax ids stand in the details and statements of errors: they stay out of the log.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
    }
)
_LOG = "postgres.log"
_LOG_LINES = 20
_POLL_SECONDS = 0.02
# Waits until its input ends, which it does however we end, and then has the server stop.
_GUARD = 'read -r _; exec "$@"'


class EmbeddedPostgres:
    """PostgreSQL from the wheel over one data folder, which it makes on first use and holds while it runs.

    The server listens on a Unix socket in a folder of mode 0700 only. It stops with `stop`, and soon after this process
    when that is killed; the next start takes care of a server that is left over all the same.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        version: int = 18,
        settings: Mapping[str, str] = MappingProxyType({}),
        start_timeout: float = 120,
    ) -> None:
        """`settings` are server parameters over SETTINGS; `start_timeout` in seconds, crash recovery included."""
        self._data_dir = data_dir
        self._version = version
        self._settings = {**SETTINGS, **settings}
        self._start_timeout = start_timeout
        self._turn = threading.Lock()
        self._lock: FolderLock | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._conninfo = ""

    @property
    def conninfo(self) -> str:
        """How libpq reaches the database `vsync`, as its owner; empty before the start."""
        return self._conninfo

    @property
    def data_dir(self) -> Path:
        """The data folder; its real path once started."""
        return self._data_dir

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._server is not None and self._server.poll() is None

    async def start(self) -> str:
        """Start the server and give `conninfo`. Raises an EmbeddedError. Cancelled, it leaves nothing running."""
        start = asyncio.ensure_future(asyncio.to_thread(self.start_now))
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            with contextlib.suppress(EmbeddedError):
                await start  # a thread cannot be cancelled
            await asyncio.to_thread(self.stop_now)
            raise

    async def stop(self) -> None:
        """Stop the server and let go of the folder. Does nothing when it is not running."""
        await asyncio.to_thread(self.stop_now)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def start_now(self) -> str:
        """`start`, blocking."""
        with self._turn:
            if self._lock is not None:
                raise StartFailed(f"the server over {self._data_dir} has been started already")
            self._data_dir = make_data_dir(self._data_dir)
            lock = FolderLock(self._data_dir)
            lock.acquire()
            self._lock = lock
            try:
                self._start()
            except BaseException:
                self._stop()
                raise
            return self._conninfo

    def stop_now(self) -> None:
        """`stop`, blocking."""
        with self._turn:
            self._stop()

    def _start(self) -> None:
        cluster = self._data_dir / CLUSTER
        account = account_for(cluster)
        open_to(account, self._data_dir)
        try:
            stop_orphan(cluster)
            binaries = reachable_binaries(version=self._version, account=account, data_dir=self._data_dir)
            make_cluster(
                data_dir=self._data_dir,
                binaries=binaries,
                account=account,
                version=self._version,
                sync=self._settings.get("fsync") != "off",
            )
            sockets = make_socket_dir(data_dir=self._data_dir, account=account)
            self._server = self._spawn(binaries, account, sockets)
            self._guard = self._spawn_guard(binaries, account)
        except OSError as error:
            raise DataDirUnreachable(
                f"the data folder {self._data_dir} cannot be used: {error.strerror} ({error.filename})"
            ) from error
        self._await_ready(self._server)
        self._conninfo = make_conninfo(host=str(sockets), port=5432, user=SUPERUSER, dbname=DATABASE)
        self._create_database()

    def _spawn(self, binaries: Path, account: Account, sockets: Path) -> subprocess.Popen[bytes]:
        log = self._data_dir / _LOG
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        quoted = str(sockets).replace('"', '""')
        settings = {**self._settings, "listen_addresses": "", "unix_socket_directories": f'"{quoted}"'}
        command: list[str | Path] = [binaries / "postgres", "-D", self._data_dir / CLUSTER]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as output:  # noqa: PTH123 - a descriptor has no path
            return account.spawn(command, cwd=self._data_dir, stdin=subprocess.DEVNULL, output=output)

    def _spawn_guard(self, binaries: Path, account: Account) -> subprocess.Popen[bytes]:
        stop: list[str | Path] = [binaries / "pg_ctl", "stop", "-D", self._data_dir / CLUSTER, "-m", "fast", "-W"]
        return account.spawn(
            ["/bin/sh", "-c", _GUARD, "sh", *stop],
            cwd=self._data_dir,
            stdin=subprocess.PIPE,
            output=subprocess.DEVNULL,
        )

    def _await_ready(self, server: subprocess.Popen[bytes]) -> None:
        """Until the pid file says so, in its last line, as pg_ctl does it (miscadmin.h, LOCK_FILE_LINE_PM_STATUS)."""
        pid_file = self._data_dir / CLUSTER / "postmaster.pid"
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                lines = pid_file.read_text().splitlines()
                if len(lines) >= 8 and lines[0] == str(server.pid) and lines[7].strip() == "ready":
                    return
            try:
                status = server.wait(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            raise StartFailed(f"PostgreSQL over {self._data_dir} ended with {status}:\n{self._log_tail()}")
        raise StartFailed(
            f"PostgreSQL over {self._data_dir} was not ready after {self._start_timeout:g} s:\n{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        with (self._data_dir / _LOG).open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, maxlen=_LOG_LINES)).rstrip()

    def _create_database(self) -> None:
        try:
            with connect(self._conninfo, dbname="postgres") as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                    connection.execute(f'CREATE DATABASE "{DATABASE}"')
        except psycopg.Error as error:
            raise StartFailed(f"the database {DATABASE} could not be made in {self._data_dir}: {error}") from error

    def _stop(self) -> None:
        if self._guard is not None:
            self._guard.kill()  # first: it must not stop a server that comes after ours
            self._guard.communicate()
            self._guard = None
        if self._server is not None:
            if self._server.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    stop_server(psutil.Process(self._server.pid))
            self._server.wait()
            self._server = None
        if self._lock is not None:
            remove_socket_dir(self._data_dir)
            self._lock.release()
            self._lock = None
        self._conninfo = ""
