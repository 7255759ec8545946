"""The life of one embedded server process: start, restart after a crash, stop."""

import abc
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from vsyncd.embedded.account import Account
from vsyncd.embedded.errors import DataDirUnreachable, EmbeddedError, StartFailed
from vsyncd.embedded.folder import FolderLock
from vsyncd.embedded.sockets import make_socket_dir, remove_socket_dir

_LOG_LINES: Final = 20
_POLL_S: Final = 0.02
# With less free space than this, a failed start mentions it: a server cannot log that it cannot write.
_LOW_DISK_BYTES: Final = 64 * 1024**2
# The guard's input ends however its parent ends. It then runs its arguments, which stop the server.
_GUARD: Final = 'read -r _; exec "$@"'


class EmbeddedServer(abc.ABC):
    """A server process over one data folder, which this object locks from `start` to `stop`.

    A guard process stops the server soon after this process is killed. The next start stops a server that is left
    over all the same. All methods whose names end in `_now` block, and exclude each other.
    """

    name: ClassVar[str]
    _log_name: ClassVar[str]

    def __init__(self, data_dir: Path, *, start_timeout: float) -> None:
        self._data_dir = data_dir
        self._start_timeout = start_timeout
        self._turn = threading.Lock()
        self._interrupted = threading.Event()
        self._lock: FolderLock | None = None
        self._sockets: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._address = ""

    @property
    def data_dir(self) -> Path:
        """The data folder; its real path once started."""
        return self._data_dir

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._server is not None and self._server.poll() is None

    @property
    def exit_status(self) -> str:
        """How the server's process ended: its exit code or signal. Empty while it runs or before its start."""
        return "" if self._server is None else _describe(self._server.poll())

    async def start(self) -> str:
        """Start the server and return its address. Raises EmbeddedError. Cancelled, it leaves nothing running."""
        start = asyncio.ensure_future(asyncio.to_thread(self.start_now))
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            self._interrupted.set()
            with contextlib.suppress(EmbeddedError):
                await start  # a thread cannot be cancelled
            await asyncio.to_thread(self.stop_now)
            raise

    async def restart(self) -> None:
        """Start a server that has ended again, under the same address. Raises EmbeddedError.

        Cancelled, it interrupts the attempt and leaves the server stopped or running; `stop` is still due.
        """
        restart = asyncio.ensure_future(asyncio.to_thread(self.restart_now))
        try:
            await asyncio.shield(restart)
        except asyncio.CancelledError:
            self._interrupted.set()
            with contextlib.suppress(EmbeddedError):
                await restart
            raise

    async def stop(self) -> None:
        """Stop the server and unlock the folder. Does nothing when it is not started."""
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
            self._interrupted.clear()
            try:
                self._data_dir = self._make_data_dir(self._data_dir)
                lock = FolderLock(self._data_dir)
                lock.acquire()
                self._lock = lock
                self._initialise()
                self._launch()
            except OSError as error:
                self._stop()
                raise self._unusable(error) from error
            except BaseException:
                self._stop()
                raise
            return self._address

    def restart_now(self) -> None:
        """`restart`, blocking."""
        with self._turn:
            if self._lock is None:
                raise StartFailed(f"the server over {self._data_dir} has not been started")
            try:
                self._end_processes()
                self._check_data()
                self._launch()
            except OSError as error:
                self._end_processes()
                raise self._unusable(error) from error
            except BaseException:
                self._end_processes()
                raise

    def stop_now(self) -> None:
        """`stop`, blocking."""
        with self._turn:
            self._stop()

    @abc.abstractmethod
    def _make_data_dir(self, path: Path) -> Path:
        """Create the data folder where it is missing and return its real path."""

    @abc.abstractmethod
    def _initialise(self) -> None:
        """Make what the first start needs, with the folder locked."""

    @abc.abstractmethod
    def _check_data(self) -> None:
        """Raise an EmbeddedError if the data that the server ran over is no longer there."""

    @abc.abstractmethod
    def _launch(self) -> None:
        """Stop leftovers of an earlier server, start the processes, wait until the server answers, set `_address`."""

    @abc.abstractmethod
    def _end_server(self, server: subprocess.Popen[bytes]) -> None:
        """Stop the server's process if it lives."""

    def _make_socket_dir(self, account: Account) -> Path:
        self._sockets = make_socket_dir(data_dir=self._data_dir, account=account, reuse=self._sockets)
        return self._sockets

    def _open_log(self, *, keep: bool) -> int:
        """Return a descriptor of the log: a new file, or at the end of the present one."""
        path = self._data_dir / self._log_name
        if path.exists() and not keep:
            path.replace(path.with_suffix(".log.1"))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        self._log_start = os.fstat(descriptor).st_size
        return descriptor

    def _spawn(self, account: Account, command: list[str | Path]) -> subprocess.Popen[bytes]:
        """Start the server. A restart appends to the log, so that the reason of a crash is kept."""
        descriptor = self._open_log(keep=bool(self._address))
        with open(descriptor, "ab") as output:  # noqa: PTH123 - a descriptor has no path
            self._server = account.spawn(command, cwd=self._data_dir, stdin=subprocess.DEVNULL, output=output)
        return self._server

    def _spawn_guard(self, account: Account, stop: list[str | Path]) -> None:
        command: list[str | Path] = ["/bin/sh", "-c", _GUARD, "sh", *stop]
        self._guard = account.spawn(command, cwd=self._data_dir, stdin=subprocess.PIPE, output=subprocess.DEVNULL)

    def _await_ready(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if self._is_ready(server):
                return
            if self._interrupted.is_set():
                raise StartFailed(f"the start of {self.name} over {self._data_dir} was interrupted")
            try:
                server.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                continue
            raise StartFailed(f"{self.name} over {self._data_dir} ended with {self.exit_status}:\n{self._log_tail()}")
        raise StartFailed(
            f"{self.name} over {self._data_dir} was not ready after {self._start_timeout:g} s:\n{self._log_tail()}"
        )

    @abc.abstractmethod
    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        """Whether the server answers."""

    def _log_tail(self) -> str:
        """The last lines of this start. No statement has run before a start is complete: they hold no data."""
        with (self._data_dir / self._log_name).open("rb") as log:
            log.seek(self._log_start)
            lines = [line.decode("utf-8", "replace").rstrip() for line in deque(log, maxlen=_LOG_LINES)]
        free = shutil.disk_usage(self._data_dir).free
        if free < _LOW_DISK_BYTES:
            lines.append(f"(the disk of {self._data_dir} has {free:,} bytes left)")
        return "\n".join(lines)

    def _unusable(self, error: OSError) -> DataDirUnreachable:
        return DataDirUnreachable(
            f"the data folder {self._data_dir} cannot be used: {error.strerror} ({error.filename})"
        )

    def _end_processes(self) -> None:
        if self._guard is not None:
            self._guard.kill()  # first: it must not stop a server that comes after ours
            self._guard.communicate()
            self._guard = None
        if self._server is not None:
            if self._server.poll() is None:
                self._end_server(self._server)
            self._server.wait()

    def _stop(self) -> None:
        self._end_processes()
        self._server = None
        self._sockets = None
        self._address = ""
        if self._lock is not None:
            remove_socket_dir(self._data_dir)
            self._lock.release()
            self._lock = None


def _describe(code: int | None) -> str:
    if code is None:
        return ""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
