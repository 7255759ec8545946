"""PostgreSQL servers of one test run that may be killed, frozen, restarted, copied and promoted."""

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
_SECONDS = 60
# Crashes here are of processes, never of the machine.
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
    """The process that runs PostgreSQL's programs in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.postgres_agent", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,  # not where a test has gone
        )

    def run(self, *command: str) -> str:
        """A program to its end, which has to be a good one; its output."""
        answer = self._ask({"run": command})
        assert answer["code"] == 0, answer["output"]
        output: str = answer["output"]
        return output

    def spawn(self, command: Sequence[str], log: Path) -> int:
        """Start a program; its process id."""
        return int(self._ask({"spawn": command, "log": str(log)})["pid"])

    def close(self) -> None:
        """Kill everything."""
        self._process.communicate(timeout=_SECONDS)

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            return answer


class PrivateServer:
    """A server over a data folder of the agent's folder, on a Unix socket there."""

    def __init__(self, agent: Agent, name: str) -> None:
        self.agent = agent
        self.data = agent.folder / name
        self.sockets = agent.folder / f"{name}.run"
        self._pid = 0

    @classmethod
    def fresh(cls, agent: Agent, name: str, *options: str) -> Self:
        """A new cluster. Local connections are trusted. `options` are initdb's."""
        server = cls(agent, name)
        common = ["-U", "vsync", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8"]
        agent.run("initdb", "-D", str(server.data), *common, *options)
        return server

    def replicate(self, name: str) -> "PrivateServer":
        """A streaming replica of this one, not started yet."""
        replica = PrivateServer(self.agent, name)
        source = make_conninfo(self.admin("postgres"), application_name=name)
        self.agent.run("pg_basebackup", "-D", str(replica.data), "-d", source, "-R", "-c", "fast", "--no-sync")
        return replica

    def admin(self, database: str) -> str:
        """The superuser's conninfo."""
        return make_conninfo(host=str(self.sockets), port=5432, user="vsync", dbname=database)

    @property
    def socket(self) -> str:
        """The socket's path."""
        return str(self.sockets / ".s.PGSQL.5432")

    def start(self, **settings: str) -> None:
        """Start it, and wait until it takes connections."""
        self.agent.run("mkdir", "-p", str(self.sockets))
        command = ["postgres", "-D", str(self.data)]
        for name, value in {**_SETTINGS, "unix_socket_directories": str(self.sockets), **settings}.items():
            command += ["-c", f"{name}={value}"]
        self._pid = self.agent.spawn(command, self.data.with_suffix(".log"))
        deadline = time.monotonic() + _SECONDS
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
        """Whether its first process lives."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return self._pid != 0 and _lives(psutil.Process(self._pid))
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is PostgreSQL's fast, SIGQUIT its immediate shutdown, SIGKILL the power cut."""
        processes = self._processes()
        if how is signal.SIGKILL:
            if processes:
                # One that starts others would have one more by now, and no server starts beside a backend of the last.
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
        deadline = time.monotonic() + _SECONDS
        while any(map(_lives, processes)):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill_postmaster(self) -> None:
        """Its first process alone, as kill -9 does: the others notice it, and end by themselves."""
        processes = self._processes()
        processes[0].kill()
        deadline = time.monotonic() + _SECONDS
        while any(_lives(process) for process in processes):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def remove(self) -> None:
        """End it, and remove its folder, so that the name is free again."""
        self.stop(signal.SIGKILL)
        self.agent.run("rm", "-rf", str(self.data), str(self.sockets))

    def kill_a_backend(self, database: str) -> None:
        """As kill -9 does to one of the backends of vsyncd's: the server then ends all the others."""
        query = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'vsyncd' LIMIT 1"
        )
        while True:
            ((pid,),) = self.execute(query, database)
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended in between; there is another
                psutil.Process(pid).kill()
                return

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes stopped, as SIGSTOP does: it takes connections, and never answers."""
        self._processes()[0].suspend()  # so that it starts no more of them
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that was about to end
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """As the superuser."""
        with psycopg.connect(self.admin(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _processes(self) -> list[psutil.Process]:
        if not self.running:
            return []
        postmaster = psutil.Process(self._pid)
        return [postmaster, *postmaster.children(recursive=True)]


def _lives(process: psutil.Process) -> bool:
    """Whether it is there, and not only because nobody has asked how it ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
