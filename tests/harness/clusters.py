"""The PostgreSQL clusters of one test run: one a version, shared by all workers, gone when the run ends."""

import contextlib
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from vsyncd.embedded import EmbeddedPostgres
from vsyncd.migrate import MigrationTarget, migrate_up

VERSIONS = (18, 16)
OWNER = "vsync_owner"
SERVICE = "vsyncd_service"
PASSWORD = "not-a-secret"  # noqa: S105 - the socket trusts everyone; a password is there to be looked for in logs
TEMPLATE = "vsync_template"
# The machine may not crash during a test; commits behave as in production.
_SETTINGS = MappingProxyType(
    {
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": "300",
        "max_prepared_transactions": "30",
        "max_wal_size": "256MB",
    }
)
# A file system in memory: a thousand databases are made here, and thrown away. In bytes, what has to be free there.
_MEMORY = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
_ROOM = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Database:
    """One database of a test, as conninfo strings: for the superuser, for who migrates, and for the service."""

    name: str
    version: int
    admin: str
    owner: str
    service: str

    @property
    def owner_url(self) -> str:
        """`owner` as a URL, for settings."""
        return _url(self.owner)

    @property
    def service_url(self) -> str:
        """`service` as a URL, for settings."""
        return _url(self.service)


class Clusters:
    """The servers themselves, in the process that runs pytest. Started when asked for, all stopped by `stop`."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._folder: Path | None = None
        self._servers: dict[int, EmbeddedPostgres] = {}

    @property
    def folder(self) -> Path:
        """The run's own folder, which every user can enter: under root another one runs the servers."""
        with self._making:
            if self._folder is None:
                roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
                self._folder = Path(tempfile.mkdtemp(prefix="vsyncd-tests-", dir=_MEMORY if roomy else None))
                self._folder.chmod(0o755)
            return self._folder

    def start(self, version: int) -> str:
        """The superuser's conninfo of this version's server, which is started the first time."""
        if version not in self._servers:
            self._servers[version] = EmbeddedPostgres(self.folder / str(version), version=version, settings=_SETTINGS)
            make_roles(self._servers[version].start_now())
        return self._servers[version].conninfo

    def start_all(self) -> dict[int, str]:
        """Every version at once."""
        with ThreadPoolExecutor() as threads:
            return dict(zip(VERSIONS, threads.map(self.start, VERSIONS), strict=True))

    def stop(self) -> None:
        """Stop what was started and leave nothing behind."""
        for server in self._servers.values():
            server.stop_now()
        self._servers.clear()
        if self._folder is not None:
            # A server whose worker was killed a moment ago may still be leaving.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Databases:
    """Makes databases in a cluster, each a copy of a migrated template or empty."""

    def __init__(self, *, version: int, admin: str) -> None:
        self.version = version
        self.admin = admin
        self._connection = psycopg.connect(admin, dbname="postgres", autocommit=True)
        self._template_is_there = False

    def close(self) -> None:
        """Close the connection that databases are made over."""
        self._connection.close()

    @contextlib.contextmanager
    def fresh(self, *, migrated: bool = True) -> Iterator[Database]:
        """A new database; dropped at the end, whoever is still connected."""
        if migrated:
            self._make_template()
        database = self._describe(f"test_{secrets.token_hex(6)}")
        self._create(database.name, template=TEMPLATE if migrated else "template0")
        try:
            yield database
        finally:
            self._connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name))
            )

    def _describe(self, name: str) -> Database:
        return Database(
            name=name,
            version=self.version,
            admin=make_conninfo(self.admin, dbname=name),
            owner=make_conninfo(self.admin, dbname=name, user=OWNER, password=PASSWORD),
            service=make_conninfo(self.admin, dbname=name, user=SERVICE, password=PASSWORD),
        )

    def _create(self, name: str, *, template: str) -> None:
        self._connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)
            )
        )

    def _make_template(self) -> None:
        """Once a cluster: the first worker makes it, under a lock, and gives it its name when it is whole."""
        if self._template_is_there:
            return
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(1)")
            try:
                if cursor.execute("SELECT FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone() is None:
                    unfinished = f"{TEMPLATE}_{secrets.token_hex(4)}"
                    self._create(unfinished, template="template0")
                    migrate(self._describe(unfinished))
                    cursor.execute(
                        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                            sql.Identifier(unfinished), sql.Identifier(TEMPLATE)
                        )
                    )
            finally:
                cursor.execute("SELECT pg_advisory_unlock(1)")
        self._template_is_there = True


def make_roles(admin: str) -> None:
    """The two roles of the design: neither is a superuser, so that missing grants show."""
    with psycopg.connect(admin, autocommit=True) as connection:
        for role in (OWNER, SERVICE):
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
            )


def migrate(database: Database) -> None:
    """Apply every migration as the owner, and give the service its rights.

    The job `maintain` has just run here: an application under test does not begin with it.
    """
    migrate_up(MigrationTarget(conninfo=database.owner, service_user=SERVICE))
    with psycopg.connect(database.owner) as connection:
        connection.execute(
            "INSERT INTO vsync.job_runs (name, last_started, last_finished, last_succeeded)"
            " VALUES ('maintain', now(), now(), now())"
        )


def _url(conninfo: str) -> str:
    parts = conninfo_to_dict(conninfo)
    return (
        f"postgresql://{parts['user']}:{parts['password']}@/{parts['dbname']}?host={parts['host']}&port={parts['port']}"
    )
