"""A real Valkey of a test's own, which it may kill, freeze, fill and empty."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from redis.exceptions import RedisError
from vsyncd.embedded.valkey import binary

_SECONDS = 60


class ValkeyServer:
    """A server on a port of 127.0.0.1 that stays the same through restarts. Keeps nothing, unless told to."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = {"save": "", "appendonly": "no", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, for settings."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        return str(self.folder / f"{self.port}.sock")

    def start(self, *arguments: str) -> None:
        """Start it, and wait until it answers."""
        command = [str(binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--unixsocket", self.socket]
        for name, value in self._settings.items():
            command += [f"--{name.replace('_', '-')}", value]
        self._run([*command, *arguments])

    def start_sentinel(self, config: Path) -> None:
        """Start it as a sentinel with this configuration, which it writes to."""
        self._run([str(binary()), str(config), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"])

    def _run(self, command: list[str]) -> None:
        with (self.folder / f"valkey-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _SECONDS
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
        """Whether it lives."""
        return self._process is not None

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it. SIGKILL loses what was not written down; SIGTERM writes it."""
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self._process.pid).resume()
            self._process.send_signal(how)
            self._process.wait(_SECONDS)
            self._process = None

    def freeze(self) -> None:
        """As SIGSTOP does: it takes connections, and never answers."""
        assert self._process is not None
        psutil.Process(self._process.pid).suspend()

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        psutil.Process(self._process.pid).resume()

    def client(self, **options: Any) -> Redis:
        """A client for the test itself."""
        return Redis(port=self.port, socket_timeout=_SECONDS, **options)


@contextlib.contextmanager
def valkey_server(folder: Path, **settings: str) -> Iterator[ValkeyServer]:
    """A running server, for as long as the block lasts."""
    server = ValkeyServer(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
