"""The process of an embedded server: start, stop, and restarts with a growing pause if it ends unexpectedly."""

import abc
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, NoReturn, Self

from vsyncd.embedded.account import Account
from vsyncd.embedded.errors import DataDirUnreachable, EmbeddedError, StartFailed
from vsyncd.embedded.folder import lock_data_dir, make_socket_dir, remove_socket_dir

_LOG_TAIL_LINES: Final = 20
_POLL_S: Final = 0.02
# The error of a failed start mentions less free space than this: a server cannot log that the disk is full.
_LOW_DISK_BYTES: Final = 64 * 1024**2
# The guard's input is closed when its parent ends, in whatever way. It then runs its arguments to stop the server.
_GUARD: Final = 'read -r _; exec "$@"'
MAX_FAILED_RESTARTS: Final = 5
_WATCH_INTERVAL_S: Final = 0.1


class EmbeddedServer(abc.ABC):
    """A server process in one data folder, which is locked from `start` to `stop`.

    A guard process stops the server after this process was killed; if both were, the next start stops it. The methods
    whose names end in `_now` block, and exclude each other. `data_dir` is the real path after the start.
    """

    name: ClassVar[str]
    _log_name: ClassVar[str]

    def __init__(self, data_dir: Path, *, start_timeout: float) -> None:
        self.data_dir = data_dir
        self._start_timeout = start_timeout
        self._mutex = threading.Lock()
        self._interrupted = threading.Event()
        self._lock: int | None = None
        self._socket_dir: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._address = ""

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    @property
    def exit_status(self) -> str:
        """The exit code or signal of the server's process; empty while it runs or before its start."""
        code = None if self._server is None else self._server.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal has no name
            return f"signal {-code}"

    async def start(self) -> str:
        """Start the server. Returns its address. Raises EmbeddedError. A cancelled start leaves nothing running."""
        try:
            await self._in_thread(self.start_now)
        except asyncio.CancelledError:
            await self.stop()
            raise
        return self._address

    async def restart(self) -> None:
        """Start a server that has ended again, with the same address. Raises EmbeddedError.

        If it is cancelled, the server may run or not; `stop` is still required.
        """
        await self._in_thread(self.restart_now)

    async def _in_thread(self, function: Callable[[], object]) -> None:
        """Run a function that waits for the server. A cancellation interrupts it and waits for its end."""
        running = asyncio.ensure_future(asyncio.to_thread(function))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            self._interrupted.set()
            with contextlib.suppress(EmbeddedError):
                await running
            raise

    async def stop(self) -> None:
        """Stop the server and unlock the folder. Does nothing if it is not started."""
        await asyncio.to_thread(self.stop_now)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def start_now(self) -> str:
        with self._mutex:
            if self._lock is not None:
                raise StartFailed(f"the server in {self.data_dir} has already been started")
            self._interrupted.clear()
            with self._on_error(self._stop):
                self.data_dir = self._make_data_dir(self.data_dir)
                self._lock = lock_data_dir(self.data_dir)
                self._initialise()
                self._launch()
            return self._address

    def restart_now(self) -> None:
        with self._mutex:
            if self._lock is None:
                raise StartFailed(f"the server in {self.data_dir} has not been started")
            with self._on_error(self._end_processes):
                self._end_processes()
                self._launch()

    def stop_now(self) -> None:
        with self._mutex:
            self._stop()

    @abc.abstractmethod
    def _make_data_dir(self, path: Path) -> Path:
        """Create the data folder if it does not exist. Returns its real path."""

    @abc.abstractmethod
    def _initialise(self) -> None:
        """Prepare the locked data folder for the first start."""

    @abc.abstractmethod
    def _launch(self) -> None:
        """Stop a previous server, start the processes, wait until the server is ready, and set `_address`."""

    @abc.abstractmethod
    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        """Whether the server accepts connections."""

    @abc.abstractmethod
    def _end_server(self, server: subprocess.Popen[bytes]) -> None:
        """Stop the server's running process."""

    def _make_socket_dir(self, account: Account) -> Path:
        self._socket_dir = make_socket_dir(data_dir=self.data_dir, account=account, reuse=self._socket_dir)
        return self._socket_dir

    def _open_log(self, *, keep: bool) -> int:
        """Open the log. Returns a descriptor of a new file, or of the end of the current one."""
        path = self.data_dir / self._log_name
        if path.exists() and not keep:
            path.replace(path.with_suffix(".log.1"))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        self._log_start = os.fstat(descriptor).st_size
        return descriptor

    def _spawn(self, account: Account, command: list[str | Path]) -> subprocess.Popen[bytes]:
        """Start the server. A restart appends to the log, which keeps the reason of the crash."""
        descriptor = self._open_log(keep=bool(self._address))
        with open(descriptor, "ab") as output:  # noqa: PTH123 - a descriptor has no path
            self._server = account.spawn(command, cwd=self.data_dir, stdin=subprocess.DEVNULL, output=output)
        return self._server

    def _spawn_guard(self, account: Account, stop: list[str | Path]) -> None:
        command: list[str | Path] = ["/bin/sh", "-c", _GUARD, "sh", *stop]
        self._guard = account.spawn(command, cwd=self.data_dir, stdin=subprocess.PIPE, output=subprocess.DEVNULL)

    def _await_ready(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if self._is_ready(server):
                return
            if self._interrupted.is_set():
                raise StartFailed(f"the start of {self.name} in {self.data_dir} was interrupted")
            try:
                server.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                continue
            raise StartFailed(f"{self.name} in {self.data_dir} ended with {self.exit_status}:\n{self._log_tail()}")
        raise StartFailed(
            f"{self.name} in {self.data_dir} was not ready after {self._start_timeout:g} s:\n{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        """Returns the last lines of this start. They contain no data: no statement runs before a start is complete."""
        with (self.data_dir / self._log_name).open("rb") as log:
            log.seek(self._log_start)
            lines = [line.decode("utf-8", "replace").rstrip() for line in deque(log, maxlen=_LOG_TAIL_LINES)]
        free = shutil.disk_usage(self.data_dir).free
        if free < _LOW_DISK_BYTES:
            lines.append(f"(the disk of {self.data_dir} has {free:,} bytes left)")
        return "\n".join(lines)

    @contextlib.contextmanager
    def _on_error(self, clean_up: Callable[[], None]) -> Iterator[None]:
        """Clean up after an error. Raises DataDirUnreachable for an OSError."""
        try:
            yield
        except OSError as error:
            clean_up()
            raise DataDirUnreachable(
                f"the data folder {self.data_dir} cannot be used: {error.strerror} ({error.filename})"
            ) from error
        except BaseException:
            clean_up()
            raise

    def _end_processes(self) -> None:
        if self._guard is not None:
            self._guard.kill()  # first: it must not stop a later server
            self._guard.communicate()
            self._guard = None
        if self._server is not None:
            if self._server.poll() is None:
                self._end_server(self._server)
            self._server.wait()

    def _stop(self) -> None:
        self._end_processes()
        self._server = None
        self._socket_dir = None
        self._address = ""
        if self._lock is not None:
            remove_socket_dir(self.data_dir)
            os.close(self._lock)
            self._lock = None


Report = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """When to restart and when to give up.

    A restart counts as failed if it raises, or if the server ends within `healthy_s` seconds.
    """

    max_failed: int = MAX_FAILED_RESTARTS
    first_pause_s: float = 0.5
    healthy_s: float = 10.0

    def pause_s(self, failed: int) -> float:
        """Returns the pause before the next attempt: 0 after a healthy run, then doubling."""
        return self.first_pause_s * 2 ** (failed - 1) if failed else 0.0

    def failed_after_run(self, failed: int, run_s: float) -> int:
        """Returns the number of consecutive failed restarts after a run of `run_s` seconds."""
        return 0 if run_s >= self.healthy_s else failed + 1


async def supervise(server: EmbeddedServer, report: Report, policy: RestartPolicy | None = None) -> NoReturn:
    """Keep a started server running until cancelled. Raises EmbeddedError with the last reason.

    `report` is called with a level of `logging`, an event and its fields.
    """
    policy = policy or RestartPolicy()
    await _until_ended(server)
    failed = 0
    while True:
        report(logging.ERROR, "embedded server ended unexpectedly", server=server.name, status=server.exit_status)
        started_at = time.monotonic()
        failed = await _restart(server, report, policy, failed)
        restarted_at = time.monotonic()
        seconds = round(restarted_at - started_at, 3)
        report(logging.WARNING, "embedded server restarted", server=server.name, seconds=seconds)
        await _until_ended(server)
        failed = policy.failed_after_run(failed, time.monotonic() - restarted_at)
        if failed >= policy.max_failed:
            raise _give_up(server, policy, f"it ended with {server.exit_status} soon after each restart")


async def _until_ended(server: EmbeddedServer) -> None:
    while server.running:  # noqa: ASYNC110 - a process that ends sets no event, and waitpid cannot be cancelled
        await asyncio.sleep(_WATCH_INTERVAL_S)


async def _restart(server: EmbeddedServer, report: Report, policy: RestartPolicy, failed: int) -> int:
    """Restart the server. Returns the number of consecutive failed restarts before. Raises EmbeddedError."""
    while True:
        await asyncio.sleep(policy.pause_s(failed))
        try:
            await server.restart()
        except EmbeddedError as error:
            failed += 1
            event = "embedded server could not be restarted"
            report(logging.ERROR, event, server=server.name, failed=failed, error=str(error))
            if failed >= policy.max_failed:
                raise _give_up(server, policy, str(error)) from error
        else:
            return failed


def _give_up(server: EmbeddedServer, policy: RestartPolicy, reason: str) -> EmbeddedError:
    return EmbeddedError(f"{server.name} could not be restarted {policy.max_failed} times in a row: {reason}")
