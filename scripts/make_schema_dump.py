"""Write tests/schema.sql, the schema after all migrations.

Run `python -m scripts.make_schema_dump` after adding a migration. Tests compare the file with real servers.
"""

import tempfile
from pathlib import Path

from vsyncd.embedded import EmbeddedPostgres
from vsyncd.migrate import MigrationTarget, run_migrations

from tests.harness.clusters import SERVICE, Databases, make_roles
from tests.harness.schema_dump import COMMITTED, schema_dump


def main() -> None:
    """Apply the migrations to a new server and write its schema."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another user
        server = EmbeddedPostgres(Path(folder) / "data")
        make_roles(server.start_now())
        try:
            databases = Databases(version=18, admin=server.conninfo)
            with databases.fresh(migrated=False) as database:
                run_migrations(MigrationTarget(conninfo=database.owner, service_user=SERVICE))
                COMMITTED.write_text(schema_dump(database.owner), encoding="utf-8")
            databases.close()
        finally:
            server.stop_now()


if __name__ == "__main__":
    main()
