"""The client of vsyncd, the data service of a Pix participant's VSync system.

    import vsync
    from vsync.v1.cid_pb2 import GetCidRequest

    async with vsync.connect("localhost:50051") as client:
        answer = await client.cids.GetCid(GetCidRequest(cid="28c06eb4..."))

`connect` is for asyncio, `connect_sync` for threads. Failed calls raise leaves of `CallError`. `compute_cid`,
`vsync_of` and `xor` are the directory's functions. `normalize_key` returns a key in its canonical form. Messages
are in vsync.v1, sample entries in vsync.sample.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsync.channel import Tls
    from vsync.cidfile import CidFile
    from vsync.client import Client, SyncClient, connect, connect_sync
    from vsync.correlation_id import correlation
    from vsync.diffing import DiffOptions
    from vsync.directory import Entry, compute_cid, vsync_of, xor
    from vsync.errors import (
        Aborted,
        AlreadyExists,
        CallError,
        Cancelled,
        CommitUnknown,
        Contention,
        DeadlineExceeded,
        DifferencesIncomplete,
        FileError,
        InvalidArgument,
        InvalidTransition,
        NotFound,
        OutOfRange,
        Overloaded,
        PermissionDenied,
        PreconditionFailed,
        ReadOnlyMode,
        RequestIdReused,
        ResourceExhausted,
        RevisionMismatch,
        SchemaOutOfDate,
        ServerFault,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        VsyncError,
    )
    from vsync.importing import ImportOptions, ImportProgress, Rejection
    from vsync.keys import normalize_key
    from vsync.rpc_status import Violation
    from vsync.version import __version__

# The names below are imported on first use (PEP 562): gRPC and protobuf take most of the start of a command, and a
# command that only prints its help needs neither. A name that is not listed is in vsync.errors.
_MODULES = {
    "CidFile": "cidfile",
    "Client": "client",
    "DiffOptions": "diffing",
    "Entry": "directory",
    "ImportOptions": "importing",
    "ImportProgress": "importing",
    "Rejection": "importing",
    "SyncClient": "client",
    "Tls": "channel",
    "Violation": "rpc_status",
    "__version__": "version",
    "compute_cid": "directory",
    "connect": "client",
    "connect_sync": "client",
    "correlation": "correlation_id",
    "normalize_key": "keys",
    "vsync_of": "directory",
    "xor": "directory",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"vsync.{_MODULES.get(name, 'errors')}"), name)
    return value


__all__ = [
    "Aborted",
    "AlreadyExists",
    "CallError",
    "Cancelled",
    "CidFile",
    "Client",
    "CommitUnknown",
    "Contention",
    "DeadlineExceeded",
    "DiffOptions",
    "DifferencesIncomplete",
    "Entry",
    "FileError",
    "ImportOptions",
    "ImportProgress",
    "InvalidArgument",
    "InvalidTransition",
    "NotFound",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "PreconditionFailed",
    "ReadOnlyMode",
    "Rejection",
    "RequestIdReused",
    "ResourceExhausted",
    "RevisionMismatch",
    "SchemaOutOfDate",
    "ServerFault",
    "SyncClient",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Violation",
    "VsyncError",
    "__version__",
    "compute_cid",
    "connect",
    "connect_sync",
    "correlation",
    "normalize_key",
    "vsync_of",
    "xor",
]
