"""`vsyncd serve` as a process of its own, to be killed."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from tests.harness.clusters import Database

SCRIPTS = Path(sys.executable).parent
# Seconds. A start takes two seconds of processor time, which a busy machine stretches.
START_SECONDS = 120
# gRPC would wait longer after each failed attempt, up to two minutes.
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


# A machine that is busy or pauses must not open the circuit breaker.
_PATIENT = {"DB_CONNECT_TIMEOUT": "20", "DB_ACQUIRE_TIMEOUT": "20", "DB_PING_TIMEOUT": "20"}


class ServerProcess:
    """A server on a port that stays the same through restarts."""

    def __init__(self, database: Database, log: Path, **settings: str) -> None:
        self.target = f"127.0.0.1:{_free_port()}"
        given = {"DATABASE_URL": database.owner_url, "DB_MIN_CONNECTIONS": "1"} | _PATIENT | settings
        self._environment = os.environ | given
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers. A start that fails leaves no process."""
        command = [str(SCRIPTS / "vsyncd"), "serve", "--listen", self.target, "--http-listen", "127.0.0.1:0"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        with grpc.insecure_channel(self.target, options=_RECONNECT) as channel:
            try:
                grpc.channel_ready_future(channel).result(START_SECONDS)
            except grpc.FutureTimeoutError as error:
                self.kill()
                raise AssertionError(self._log.read_text()) from error

    @property
    def http_port(self) -> int:
        """Where it serves probes and metrics, as its log says."""
        ports: list[str] = re.findall(r'"http_port": (\d+)', self._log.read_text())
        return int(ports[-1])

    def kill(self) -> None:
        """As the power goes."""
        self._stop(signal.SIGKILL)

    def stop(self) -> None:
        """As an orchestrator does."""
        self._stop(signal.SIGTERM)

    async def restart(self, number: signal.Signals) -> None:
        """End it by a signal, in good order or not, and start it again, beside a loop."""
        self.send(number)
        code = await asyncio.to_thread(self.wait)
        assert code == (-number if number is signal.SIGKILL else 0), self._log.read_text()
        await asyncio.to_thread(self.start)

    def send(self, number: signal.Signals) -> None:
        """Send it one."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        return process.wait(START_SECONDS)

    def _stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None


@contextlib.contextmanager
def server_process(database: Database, log: Path) -> Iterator[ServerProcess]:
    """A server over this database, as long as the block lasts."""
    server = ServerProcess(database, log)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
