"""PgBouncer in transaction mode, with fewer connections to the server than its clients have to PgBouncer."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.harness.clusters import PASSWORD, SERVICE, Database
from tests.harness.owners import until
from tests.harness.ports import free_port
from tests.harness.private_servers import Agent, PrivateServer

_TIMEOUT_S = 60
# Connections to the server, fewer than a pool of vsyncd has to PgBouncer.
CONNECTIONS = 3


def _program() -> str:
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
    assert program is not None, "this test needs PgBouncer (Debian: apt-get install pgbouncer)"
    return program


class PgBouncer:
    """A PgBouncer process. Its port stays the same after a restart."""

    def __init__(self, server: PrivateServer) -> None:
        self._program = _program()
        self._agent = server.agent
        self._folder = server.agent.folder
        self.port = free_port()
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": self._folder / "pgbouncer.users",
            "pool_mode": "transaction",
            "default_pool_size": CONNECTIONS,
            "max_client_conn": 200,
            # By default PgBouncer waits 15 seconds before it reconnects to a server that refused a connection.
            "server_login_retry": 1,
        }
        if self.prepares:
            self._settings["max_prepared_statements"] = 200
        self._server = server
        self._pid = 0

    @property
    def version(self) -> tuple[int, int]:
        """The major and minor version."""
        output = subprocess.run([self._program, "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"PgBouncer (\d+)\.(\d+)", output)
        assert found, output
        return int(found[1]), int(found[2])

    @property
    def prepares(self) -> bool:
        """Whether it supports prepared statements. Dropping them as libpq does requires version 1.22."""
        return self.version >= (1, 22)

    def start(self) -> None:
        """Starts it and waits until it listens."""
        (self._folder / "pgbouncer.users").write_text(f'"{SERVICE}" "{PASSWORD}"\n')
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        ini = self._folder / "pgbouncer.ini"
        target = f"* = host={self._server.sockets} port=5432 user={SERVICE}"
        ini.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
        log = self._folder / "pgbouncer.log"
        self._pid = self._agent.spawn([self._program, str(ini)], log)
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Kills it with SIGKILL."""
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self._pid).send_signal(signal.SIGKILL)

    def url(self, database: Database) -> str:
        """Returns the URL of a database behind PgBouncer."""
        return f"postgresql://{SERVICE}:{quote(PASSWORD)}@127.0.0.1:{self.port}/{database.name}?sslmode=disable"


@contextlib.contextmanager
def pgbouncer(server: PrivateServer) -> Iterator[PgBouncer]:
    """A PgBouncer in front of this server until the end of the block."""
    bouncer = PgBouncer(server)
    bouncer.start()
    try:
        yield bouncer
    finally:
        bouncer.stop()


@contextlib.contextmanager
def pooled(conninfo: str, folder: Path) -> Iterator[str]:
    """The same server and role through a PgBouncer, on a Unix socket in this folder."""
    server = conninfo_to_dict(conninfo)
    with contextlib.closing(Agent(folder)) as agent:
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={server['host']} port={server['port']} user={server['user']}\n"
            f"[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 20\n"
        )
        agent.spawn([_program(), str(configuration)], folder / "pgbouncer.log")
        until((folder / ".s.PGSQL.6432").exists)
        yield make_conninfo(conninfo, host=str(folder), port=6432)
