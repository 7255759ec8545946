"""A Valkey server for one test, which may kill, freeze, fill and flush it."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from redis.exceptions import RedisError
from vsyncd.embedded.valkey import binary

from tests.harness.ports import free_port

_TIMEOUT_S = 60


class ValkeyServer:
    """A server on 127.0.0.1. Its port stays the same after a restart. By default it does not persist data."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = {"save": "", "appendonly": "no", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        return str(self.folder / f"{self.port}.sock")

    def start(self, *arguments: str) -> None:
        """Starts the server and waits until it answers."""
        command = [str(binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--unixsocket", self.socket]
        for name, value in self._settings.items():
            command += [f"--{name.replace('_', '-')}", value]
        self._run([*command, *arguments])

    def start_sentinel(self, config: Path) -> None:
        """Starts it as a sentinel with this configuration file, which it modifies."""
        self._run([str(binary()), str(config), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"])

    def _run(self, command: list[str]) -> None:
        with (self.folder / f"valkey-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except RedisError:
                assert time.monotonic() < deadline, "Valkey does not start"
                time.sleep(0.01)
            else:
                return

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._process is not None

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Stops the server. With SIGTERM it saves its data first, if configured; with SIGKILL it does not."""
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self._process.pid).resume()
            self._process.send_signal(how)
            self._process.wait(_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """Stops the process: it accepts connections and never answers."""
        assert self._process is not None
        psutil.Process(self._process.pid).suspend()

    def thaw(self) -> None:
        """Resumes the process."""
        assert self._process is not None
        psutil.Process(self._process.pid).resume()

    def client(self, **options: Any) -> Redis:
        """Returns a client for the test."""
        return Redis(port=self.port, socket_timeout=_TIMEOUT_S, **options)


@contextlib.contextmanager
def valkey_server(folder: Path, **settings: str) -> Iterator[ValkeyServer]:
    """A running server until the end of the block."""
    server = ValkeyServer(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
