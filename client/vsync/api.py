"""The public names of the package. `vsync` loads this module when one of them is first used."""

from vsync.channel import Tls
from vsync.cid_file import CidFile
from vsync.client import Client, SyncClient, connect, connect_sync
from vsync.correlation_id import correlation
from vsync.diffing import DiffOptions
from vsync.directory import DirectoryEntry, compute_cid, vsync_of, xor
from vsync.errors import (
    AbortedError,
    AlreadyExistsError,
    CallCancelledError,
    CallError,
    CommitUnknownError,
    ContentionError,
    DeadlineExceededError,
    DiffIncompleteError,
    FileError,
    InvalidArgumentError,
    InvalidTransitionError,
    NotFoundError,
    OutOfRangeError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ReadOnlyModeError,
    RequestIdReusedError,
    ResourceExhaustedError,
    RevisionMismatchError,
    SchemaOutOfDateError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    VsyncError,
)
from vsync.importing import ImportOptions, ImportProgress, ImportRejection
from vsync.keys import normalize_key
from vsync.rpc_status import FieldViolation
from vsync.version import __version__

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CallCancelledError",
    "CallError",
    "CidFile",
    "Client",
    "CommitUnknownError",
    "ContentionError",
    "DeadlineExceededError",
    "DiffIncompleteError",
    "DiffOptions",
    "DirectoryEntry",
    "FieldViolation",
    "FileError",
    "ImportOptions",
    "ImportProgress",
    "ImportRejection",
    "InvalidArgumentError",
    "InvalidTransitionError",
    "NotFoundError",
    "OutOfRangeError",
    "OverloadedError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "ReadOnlyModeError",
    "RequestIdReusedError",
    "ResourceExhaustedError",
    "RevisionMismatchError",
    "SchemaOutOfDateError",
    "ServerError",
    "SyncClient",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
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
