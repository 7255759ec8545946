"""Runs `vsyncd serve` as a child process that a test can kill."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from tests.harness.clusters import Database
from tests.harness.ports import free_port

SCRIPTS = Path(sys.executable).parent
# A start needs two seconds of processor time, which can take much longer on a busy machine.
START_SECONDS = 120
# By default gRPC waits longer after each failed attempt, up to two minutes.
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


# A machine that is busy or pauses must not open the circuit breaker.
_LONG_TIMEOUTS = {"DB_CONNECT_TIMEOUT": "20", "DB_ACQUIRE_TIMEOUT": "20", "DB_PING_TIMEOUT": "20"}


class ServerProcess:
    """A server on a port that stays the same through restarts."""

    def __init__(self, database: Database, log: Path, **settings: str) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        given = {"DATABASE_URL": database.owner_url, "DB_MIN_CONNECTIONS": "1"} | _LONG_TIMEOUTS | settings
        self._environment = os.environ | given
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers. A failed start leaves no process."""
        command = [str(SCRIPTS / "vsyncd"), "serve", "--listen", self.target, "--http-listen", "127.0.0.1:0"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        with self.ready_channel() as channel:
            try:
                grpc.channel_ready_future(channel).result(START_SECONDS)
            except grpc.FutureTimeoutError as error:
                self.kill()
                raise AssertionError(self._log.read_text()) from error

    def ready_channel(self) -> grpc.Channel:
        """Returns a channel that becomes ready when the server answers."""
        return grpc.insecure_channel(self.target, options=_RECONNECT)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def http_port(self) -> int:
        """The port of probes and metrics, from the log."""
        ports: list[str] = re.findall(r'"http_port": (\d+)', self._log.read_text())
        return int(ports[-1])

    def kill(self) -> None:
        """Stops the server with SIGKILL."""
        self._stop(signal.SIGKILL)

    def stop(self) -> None:
        """Stops the server with SIGTERM."""
        self._stop(signal.SIGTERM)

    async def restart(self, number: signal.Signals) -> None:
        """Ends the server with a signal and starts it again, without blocking the event loop."""
        self.send(number)
        code = await asyncio.to_thread(self.wait)
        assert code == (-number if number is signal.SIGKILL else 0), self._log.read_text()
        await asyncio.to_thread(self.start)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end of the process. Returns its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        return process.wait(START_SECONDS)

    def _stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None


@contextlib.contextmanager
def server_process(database: Database, log: Path, **settings: str) -> Iterator[ServerProcess]:
    """Runs a server on this database until the end of the block."""
    server = ServerProcess(database, log, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
