"""The PostgreSQL servers of a worker: one per version, started on demand and deleted when the run ends.

Each worker has servers of its own, because an open transaction affects every database of its server: it delays events
and invalidates caches.

If TEST_POSTGRES_URL is set, a superuser's URL of a running server, that server takes the place of the newest version
for all workers. It needs max_connections = 300 and max_prepared_transactions = 30.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from vsyncd.embedded import EmbeddedPostgres
from vsyncd.migrate import MigrationTarget, run_migrations

VERSIONS = (18, 16)
OWNER = "vsync_owner"
SERVICE = "vsyncd_service"
PASSWORD = "not-a-secret"  # noqa: S105 - the socket trusts everyone; a password is there to be looked for in logs
TEMPLATE = "vsync_template"
# Nothing has to survive a crash of the machine. Otherwise commits behave as in production.
_SETTINGS = MappingProxyType(
    {
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": "200",
        "max_prepared_transactions": "30",
        "max_wal_size": "256MB",
    }
)
# A file system in memory, because a test run creates and drops a thousand databases.
_MEMORY = Path("/dev/shm")  # noqa: S108  a private folder is created in it
_MIN_FREE_BYTES = 4 << 30
EXTERNAL_URL = "TEST_POSTGRES_URL"


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database of one test, as conninfo strings for the superuser, the owner role and the service role."""

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
    """The servers of a process that runs tests. `start` starts one on demand, and `stop` stops all.

    `folder` is the run's folder if another process deletes it. Otherwise one is created on demand and deleted by
    `stop`. Every user can enter it, because root runs PostgreSQL as another user.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._owns_folder = folder is None
        self._servers: dict[int, EmbeddedPostgres] = {}

    @property
    def folder(self) -> Path:
        """The run's folder, in memory if there is room."""
        if self._folder is None:
            has_space = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MIN_FREE_BYTES
            self._folder = Path(tempfile.mkdtemp(prefix="vsyncd-tests-", dir=_MEMORY if has_space else None))
            self._folder.chmod(0o755)
        return self._folder

    def start(self, version: int) -> str:
        """Start the server of this version unless it runs. Returns the superuser's conninfo."""
        if version == VERSIONS[0] and (external := os.environ.get(EXTERNAL_URL)):
            return external
        if version not in self._servers:
            data_dir = Path(tempfile.mkdtemp(prefix=f"{version}-", dir=self.folder))
            self._servers[version] = EmbeddedPostgres(data_dir, version=version, settings=_SETTINGS)
            make_roles(self._servers[version].start_now())
        return self._servers[version].conninfo

    def stop(self) -> None:
        """Stop the servers, and delete the folder if it was created here."""
        for server in self._servers.values():
            server.stop_now()
        self._servers.clear()
        if self._folder is not None and self._owns_folder:
            # A server whose worker was just killed may still be exiting.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Databases:
    """Creates databases on a server: copies of a migrated template, or empty ones."""

    def __init__(self, *, version: int, admin: str) -> None:
        self.version = version
        self.admin = admin
        self._connection = psycopg.connect(admin, dbname="postgres", autocommit=True)
        self._template_is_there = False

    def close(self) -> None:
        """Close the connection that creates databases."""
        self._connection.close()

    @contextlib.contextmanager
    def fresh(self, *, migrated: bool = True) -> Iterator[Database]:
        """A new database. It is dropped at the end, with any connections to it."""
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
        """On a server that workers share, one creates the template under a lock and renames it when it is complete."""
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


def prepare_external(admin: str) -> None:
    """Create the roles on the server of TEST_POSTGRES_URL, and drop the template and the roles of an earlier run."""
    with psycopg.connect(admin, dbname="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(TEMPLATE)))
        for role in (OWNER, SERVICE):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
    make_roles(admin)


def make_roles(admin: str) -> None:
    """Create the owner role and the service role. Neither is a superuser, so that tests find missing grants."""
    with psycopg.connect(admin, autocommit=True) as connection:
        for role in (OWNER, SERVICE):
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
            )


def migrate(database: Database) -> None:
    """Apply every migration as the owner, and grant the service its rights.

    The job `maintain` is recorded as just done, so that an application under test does not start with it.
    """
    run_migrations(MigrationTarget(conninfo=database.owner, service_user=SERVICE))
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
