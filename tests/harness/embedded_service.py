"""`vsyncd serve --embedded` as a child process, with a data folder of the test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from vsyncd.domains.registry import settings_class

from tests.harness.http import get_now
from tests.harness.owners import until

SCRIPTS = Path(sys.executable).parent
_STOP_TIMEOUT_S = 60
# Long timeouts, so that a machine that is slow or stands still for a second does not look like a fault.
_PATIENT = {"LOG_FORMAT": "json", "HEALTH_CHECK_TIMEOUT": "10", "DB_PING_TIMEOUT": "20", "DB_CONNECT_TIMEOUT": "20"}


class EmbeddedService:
    """The process, its log and its embedded servers."""

    def __init__(self, folder: Path, *arguments: str, out: int | None = None, **settings: str) -> None:
        self.data_dir = folder / "data"
        self._log = folder / "log"
        self._out = folder / "out"
        known = {name.upper() for name in settings_class().model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in known}
        listen = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", *arguments)
        with self._log.open("wb") as log, self._out.open("wb") as file:
            self.process = subprocess.Popen(
                [str(SCRIPTS / "vsyncd"), "serve", "--embedded", "--data-dir", str(self.data_dir), *listen],
                cwd=folder,
                env=environment | _PATIENT | settings,
                stdin=subprocess.DEVNULL,
                stdout=file if out is None else out,
                stderr=log,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the log's complete lines of this event."""
        found = []
        for line in self._log.read_text().splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                if line.endswith("\n") and (entry := json.loads(line)).get("event") == name:
                    found.append(entry)
        return found

    def await_event(self, name: str, *, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """Wait until the log contains `count` of these events. Returns them."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events(name) if event.items() >= fields.items()]

        def is_complete() -> bool:
            assert self.process.poll() is None, self.error
            return len(found()) >= count

        until(is_complete, seconds=120)
        return found()

    @property
    def error(self) -> str:
        """The process's standard error."""
        return self._log.read_text()

    @property
    def output(self) -> str:
        """The process's standard output."""
        return self._out.read_text()

    @property
    def target(self) -> str:
        """The gRPC address."""
        (serving,) = self.await_event("serving")
        return f"127.0.0.1:{serving['port']}"

    def is_ready(self) -> bool:
        """Whether /ready answers 200."""
        (serving,) = self.await_event("serving")
        return get_now(serving["http_port"], "/ready").status == 200

    def server(self, name: str) -> psutil.Process:
        """Returns the process of an embedded server: postgres or valkey-server."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # programs that ran only for a moment
                found += [child] if child.name() == name else []
        (server,) = found
        return server

    def wait(self) -> int:
        """Wait until the process ends. Returns its exit code."""
        return self.process.wait(_STOP_TIMEOUT_S)

    def stop(self) -> int:
        """Stop the process with SIGTERM. Returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


@contextlib.contextmanager
def embedded_service(
    folder: Path, *arguments: str, out: int | None = None, **settings: str
) -> Iterator[EmbeddedService]:
    """Runs a service while the context lasts. `out`: a descriptor for its standard output."""
    service = EmbeddedService(folder, *arguments, out=out, **settings)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()
