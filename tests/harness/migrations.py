"""Migration files of tests, and processes that apply them."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from vsyncd.migrate import MigrationTarget, State, Step, advice, fetch_status

from tests.harness.clusters import Database

# With several copies: processes that are forked from one with all modules loaded.
_PROGRAM = """
import os, sys
from pathlib import Path
from vsyncd.migrate import Down, MigrationTarget, Up, run_migrations
command = Up() if sys.argv[3] == "up" else Down()
copies = int(sys.argv[4])
children = []
while len(children) < copies and (child := os.fork()):
    children.append(child)
if len(children) == copies > 0:
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
for step in run_migrations(MigrationTarget(conninfo=sys.argv[1], root=Path(sys.argv[2])), command):
    print(step.migration.version)
"""
_TABLE = 'CREATE TABLE "vsync".wide (id integer, other integer); INSERT INTO "vsync".wide SELECT n, n % 10 FROM '
# Creates a table, and indexes outside a transaction. Duplicate values make the first index fail.
FILES = {
    "vsync/000001_table.up": _TABLE + "generate_series(1, 100) AS n",
    "vsync/000001_table.down": 'DROP TABLE "vsync".wide',
    "vsync/000002_index.up": '-- vsyncd: no transaction\nALTER TABLE "vsync".wide ADD COLUMN third integer;\n'
    'CREATE UNIQUE INDEX CONCURRENTLY wide_other_idx ON "vsync".wide (other);\n'
    'CREATE INDEX CONCURRENTLY wide_id_idx ON "vsync".wide (id);\n',
    "vsync/000002_index.down": "-- vsyncd: no transaction\n"
    'DROP INDEX CONCURRENTLY IF EXISTS "vsync".wide_id_idx;\n'
    'DROP INDEX CONCURRENTLY IF EXISTS "vsync".wide_other_idx;\n'
    'ALTER TABLE "vsync".wide DROP COLUMN third',
}


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Write migration files, given by their path without `.sql`. Returns the root."""
    for name, text in files.items():
        path = root / f"{name}.sql"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def target_of(database: Database, root: Path) -> MigrationTarget:
    """Returns the target for the files, with a lock timeout of 60 s."""
    return MigrationTarget(conninfo=database.owner, root=root, lock_timeout=60)


def labels(steps: tuple[Step, ...]) -> list[str]:
    """Returns each step as `up set/000001_name`."""
    return [f"{step.direction} {step.migration}" for step in steps]


def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    """Returns the rows of a query that the owner executes."""
    with psycopg.connect(database.owner) as connection:
        return connection.execute(query.encode()).fetchall()


def dirty_advice(target: MigrationTarget) -> str:
    """Returns the advice for the only dirty set."""
    (status,) = (each for each in fetch_status(target) if each.state is State.DIRTY)
    text = advice(status, target.schema)
    assert text is not None
    return text


def start_up(
    database: Database, root: Path, *, conninfo: str | None = None, direction: str = "up", copies: int = 0
) -> subprocess.Popen[str]:
    """Start a process that applies all migrations or reverts the last one, and prints the versions.

    With `copies` it starts that many processes, which do so together; its exit code is 0 if all succeed.
    """
    command = [sys.executable, "-c", _PROGRAM, conninfo or database.owner, str(root), direction, str(copies)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
