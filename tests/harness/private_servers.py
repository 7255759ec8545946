"""PostgreSQL servers that tests may kill, freeze, restart, replicate and promote."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 60
# Tests crash processes, not the machine, so fsync is not needed.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "100ms",
    "wal_receiver_status_interval": "1s",
    "deadlock_timeout": "200ms",
    "wal_retrieve_retry_interval": "200ms",
}


class Agent:
    """Runs PostgreSQL's programs in a folder, in a process of its own (see postgres_agent)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.postgres_agent", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,  # a test may have changed the working directory
        )

    def run(self, *command: str) -> str:
        """Runs a program, which must succeed, and returns its output."""
        answer = self._request({"run": command})
        assert answer["code"] == 0, answer["output"]
        output: str = answer["output"]
        return output

    def spawn(self, command: Sequence[str], log: Path) -> int:
        """Starts a program and returns its process id."""
        return int(self._request({"spawn": command, "log": str(log)})["pid"])

    def close(self) -> None:
        """Kills every process that it started."""
        self._process.communicate(timeout=_TIMEOUT_S)

    def _request(self, command: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            return answer


class PrivateServer:
    """A server with its data folder and Unix socket in the agent's folder."""

    def __init__(self, agent: Agent, name: str) -> None:
        self.agent = agent
        self.data = agent.folder / name
        self.sockets = agent.folder / f"{name}.run"
        self._pid = 0

    @classmethod
    def fresh(cls, agent: Agent, name: str, *options: str) -> Self:
        """Creates a new cluster, which trusts local connections. `options` are passed to initdb."""
        server = cls(agent, name)
        common = ["-U", "vsync", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8"]
        agent.run("initdb", "-D", str(server.data), *common, *options)
        return server

    def replicate(self, name: str) -> "PrivateServer":
        """Creates a streaming replica of this server, without starting it."""
        replica = PrivateServer(self.agent, name)
        source = make_conninfo(self.admin("postgres"), application_name=name)
        self.agent.run("pg_basebackup", "-D", str(replica.data), "-d", source, "-R", "-c", "fast", "--no-sync")
        return replica

    def admin(self, database: str) -> str:
        """Returns the superuser's conninfo."""
        return make_conninfo(host=str(self.sockets), port=5432, user="vsync", dbname=database)

    @property
    def socket(self) -> str:
        """The path of the Unix socket."""
        return str(self.sockets / ".s.PGSQL.5432")

    def start(self, **settings: str) -> None:
        """Starts the server and waits until it accepts connections."""
        self.agent.run("mkdir", "-p", str(self.sockets))
        command = ["postgres", "-D", str(self.data)]
        for name, value in {**_SETTINGS, "unix_socket_directories": str(self.sockets), **settings}.items():
            command += ["-c", f"{name}={value}"]
        self._pid = self.agent.spawn(command, self.data.with_suffix(".log"))
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.admin("postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.data.with_suffix(".log").read_text()
                time.sleep(0.01)
            else:
                return

    @property
    def running(self) -> bool:
        """Whether the postmaster is running."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return self._pid != 0 and _is_running(psutil.Process(self._pid))
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT is a fast shutdown, SIGQUIT an immediate one, SIGKILL kills every process."""
        processes = self._processes()
        if how is signal.SIGKILL:
            if processes:
                # A running postmaster could fork again, and a new server cannot start beside an old backend.
                processes[0].suspend()
                processes = self._processes()
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        elif processes:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
            processes[0].send_signal(how)
        deadline = time.monotonic() + _TIMEOUT_S
        while any(map(_is_running, processes)):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill_postmaster(self) -> None:
        """Kills only the postmaster with SIGKILL. The other processes notice this and exit."""
        processes = self._processes()
        processes[0].kill()
        deadline = time.monotonic() + _TIMEOUT_S
        while any(_is_running(process) for process in processes):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def remove(self) -> None:
        """Stops the server and deletes its folder, so that the name can be used again."""
        self.stop(signal.SIGKILL)
        self.agent.run("rm", "-rf", str(self.data), str(self.sockets))

    def kill_backend(self, database: str) -> None:
        """Kills one of vsyncd's backends with SIGKILL. The server then terminates all others."""
        query = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'vsyncd' LIMIT 1"
        )
        while True:
            ((pid,),) = self.execute(query, database)
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just exited; try another one
                psutil.Process(pid).kill()
                return

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops all processes with SIGSTOP: the server accepts connections and never answers."""
        self._processes()[0].suspend()  # so that it does not fork
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just exited
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Executes a statement as the superuser and returns its rows."""
        with psycopg.connect(self.admin(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _processes(self) -> list[psutil.Process]:
        if not self.running:
            return []
        postmaster = psutil.Process(self._pid)
        return [postmaster, *postmaster.children(recursive=True)]


def _is_running(process: psutil.Process) -> bool:
    """Whether the process is running and not a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
