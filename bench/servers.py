"""The servers of a benchmark: one PostgreSQL with durable commits, its databases, and services as processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from vsyncd.embedded import EmbeddedPostgres
from vsyncd.migrate import MigrationTarget, run_migrations

VSYNCD = Path(sys.executable).parent / "vsyncd"
_SERVING = re.compile(
    r'"port": (?P<port>\d+), "http_port": (?P<http_port>\d+).*"event": "serving"|^port (?P<plain>\d+)$'
)


@contextmanager
def postgres() -> Iterator[str]:
    """Starts a PostgreSQL with its default durability (fsync, synchronous_commit). Yields its conninfo."""
    folder = Path(tempfile.mkdtemp(prefix="vsyncd-bench-"))
    folder.chmod(0o755)  # under root another user runs the server
    # Checkpoints caused by size would affect only one side of a comparison.
    server = EmbeddedPostgres(folder / "data", settings={"max_wal_size": "8GB", "checkpoint_timeout": "1h"})
    try:
        yield server.start_now()
    finally:
        server.stop_now()
        shutil.rmtree(folder)


@contextmanager
def database(admin: str, name: str) -> Iterator[str]:
    """Creates a migrated database. Yields its conninfo."""
    conninfo = make_conninfo(admin, dbname=name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            run_migrations(MigrationTarget(conninfo=conninfo))
            connection.execute("CHECKPOINT")
            yield conninfo
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: its port, and its process for measurements."""

    process: "subprocess.Popen[str]"
    port: int
    http_port: int


def cpu_seconds(service: Service) -> float:
    """Returns the CPU time that the service's process has used, in user and system mode."""
    times = psutil.Process(service.process.pid).cpu_times()
    return times.user + times.system


@contextmanager
def vsyncd(conninfo: str, **environment: str) -> Iterator[Service]:
    """Starts vsyncd on a database as a user does."""
    with _process([str(VSYNCD), "serve"], _settings(conninfo) | environment) as service:
        yield service


@contextmanager
def changed_vsyncd(module: str, conninfo: str, **environment: str) -> Iterator[Service]:
    """Starts the vsyncd that a module of bench.peers changes."""
    with _process([sys.executable, "-m", f"bench.peers.{module}"], _settings(conninfo) | environment) as service:
        yield service


@contextmanager
def another_vsyncd(program: Path, conninfo: str) -> Iterator[Service]:
    """Starts the vsyncd of another installation on a database."""
    with _process([str(program), "serve"], _settings(conninfo)) as service:
        yield service


@contextmanager
def bare_peer(conninfo: str) -> Iterator[Service]:
    """Starts vsyncd without its pool manager on a database."""
    with _process([sys.executable, "-m", "bench.peers.bare"], _settings(conninfo)) as service:
        yield service


@contextmanager
def from_afar(conninfo: str, *, seconds: float) -> Iterator[str]:
    """Adds a delay in seconds (one way) to a database. Yields the conninfo."""
    socket = f"{conninfo_to_dict(conninfo)['host']}/.s.PGSQL.5432"
    with _process([sys.executable, "-m", "bench.distance", socket, str(seconds)], {}) as proxy:
        yield make_conninfo(conninfo, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")


@contextmanager
def plain_peer(conninfo: str, module: str = "plain") -> Iterator[Service]:
    """Starts a plain service, a module of bench/peers, on a database."""
    with _process([sys.executable, "-m", f"bench.peers.{module}", conninfo], {}) as service:
        yield service


def _settings(conninfo: str) -> dict[str, str]:
    return {
        "DATABASE_URL": conninfo,
        "GRPC_LISTEN": "127.0.0.1:0",
        "HTTP_LISTEN": "127.0.0.1:0",
        "LOG_FORMAT": "json",
    }


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[Service]:
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = process.stdout
    try:
        port, http_port = _ports(process)
        # Without a reader the service would stop when the pipe is full.
        drain = threading.Thread(target=lambda: deque(output or (), maxlen=0), daemon=True)
        drain.start()
        yield Service(process, port, http_port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _ports(process: "subprocess.Popen[str]") -> tuple[int, int]:
    if process.stdout is None:
        raise RuntimeError("the process has no output to read")
    seen = []
    for line in process.stdout:
        seen.append(line)
        found = _SERVING.search(line)
        if found:
            return int(found["port"] or found["plain"]), int(found["http_port"] or 0)
    raise RuntimeError("it did not start:\n" + "".join(seen))
