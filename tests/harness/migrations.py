"""Files of migrations that tests write, and processes that apply them."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vsyncd.migrate import MigrationTarget

from tests.harness.clusters import Database

_PROGRAM = """
import sys
from pathlib import Path
from vsyncd.migrate import MigrationTarget, migrate_down, migrate_up
migrate = {"up": migrate_up, "down": migrate_down}[sys.argv[3]]
for step in migrate(MigrationTarget(conninfo=sys.argv[1], root=Path(sys.argv[2]))):
    print(step.migration.version)
"""
_TABLE = 'CREATE TABLE "vsync".wide (id integer, other integer); INSERT INTO "vsync".wide SELECT n, n % 10 FROM '
# A table, and indexes outside a transaction: values that are not unique stop the first of them.
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


def lay(root: Path, files: Mapping[str, str]) -> Path:
    """Write files of sets, by their path without `.sql`; their root."""
    for name, text in files.items():
        path = root / f"{name}.sql"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def target_of(database: Database, root: Path) -> MigrationTarget:
    """Where the files are applied, with patience for locks."""
    return MigrationTarget(conninfo=database.owner, root=root, lock_timeout=60)


def start_up(
    database: Database, root: Path, *, conninfo: str | None = None, direction: str = "up"
) -> subprocess.Popen[str]:
    """A process that applies them all, or takes back the last one, and prints the versions that it did."""
    command = [sys.executable, "-c", _PROGRAM, conninfo or database.owner, str(root), direction]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Look again and again until it holds; for what nothing announces."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not so after {seconds:g} s"
        time.sleep(0.02)
