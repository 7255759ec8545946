"""The files beside a dump: manifest.json, SHA256SUMS and verification.json."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from vsyncd.backup.tasks import OnBytes

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
VERIFICATION: Final = "verification.json"
DUMP: Final = "dump"
# Raised when an older vsyncd would misread a newer manifest.json.
FORMAT_VERSION: Final = 1

DumpFormat = Literal["directory", "custom"]
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}-\d{8}T\d{9}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the dump: its path inside the backup, its size in bytes and its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CidSet:
    """The CIDs of one participant and key type: their number, and their XOR, the VSync, in hexadecimal."""

    ispb: str
    key_type: int
    count: int
    vsync: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collation:
    """The options of CREATE DATABASE that keep encoding and sort order."""

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None
    rules: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentSummary:
    """The content of a database in one snapshot: rows per table, CID sets, and the last migration of each set.

    `schema` contains vsyncd's tables. `digests` are those of the views content_digest_<name>, by name.
    """

    schema: str
    tables: Mapping[str, int]
    cid_sets: tuple[CidSet, ...]
    migrations: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The dumped database, its owner, the roles that own objects or have privileges in it, and its server.

    A cluster keeps its system identifier from initdb on, and shares it with its replicas.
    """

    database: str
    system_identifier: str
    owner: str
    server_version: str
    server_major: int
    collation: Collation
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """manifest.json. `created_at` is the time of the snapshot."""

    format_version: int = FORMAT_VERSION
    name: str
    created_at: datetime
    duration_seconds: float
    vsyncd_version: str
    pg_dump_version: str
    dump_format: DumpFormat
    compression: str
    origin: Origin
    content: ContentSummary
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        """The dump's size in bytes."""
        return sum(file.size for file in self.files)

    @property
    def pg_dump_major(self) -> int:
        return int(self.pg_dump_version.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupVerification:
    """verification.json, the result of the last verification.

    `restored`: the backup was restored and its content compared. `restore_error`: pg_restore's error, if it failed.
    """

    verified_at: datetime
    restored: bool
    problems: tuple[str, ...] = ()
    restore_error: str | None = None


_MANIFEST: Final = TypeAdapter(Manifest)
_VERIFICATION: Final = TypeAdapter(BackupVerification)


class NotReadable(Exception):  # noqa: N818 - an adjective, as in the message
    """A file is not valid JSON of the expected structure. The message contains none of it."""


def name_of(database: str, at: datetime) -> str:
    """Returns a backup's name: the database's, and the time to the millisecond. Names sort by age."""
    return f"{name_prefix(database)}-{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"


def name_prefix(database: str) -> str:
    """Returns the database's name, with `_` in place of characters that are unusual in file names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", database)[:63].lstrip(".-") or "_"


def is_name(text: str) -> bool:
    """Whether the text is a valid backup name; such a name leads to no other folder."""
    return _NAME.fullmatch(text) is not None


def created_at_of(name: str) -> datetime:
    return datetime.strptime(name.rpartition("-")[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def file_entry(path: str, pieces: Iterable[bytes], on_bytes: OnBytes) -> FileEntry:
    """Returns the entry of a file with this content. `on_bytes` is called with the size of each piece."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        on_bytes(len(piece))
    return FileEntry(path=path, size=size, sha256=digest.hexdigest())


def write_manifest(manifest: Manifest) -> bytes:
    return _MANIFEST.dump_json(manifest, indent=2) + b"\n"


def read_manifest(data: bytes) -> Manifest:
    """Parses manifest.json. Raises NotReadable."""
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        raise NotReadable(f"not a manifest ({error.error_count()} errors)") from None
    if manifest.format_version > FORMAT_VERSION:
        raise NotReadable("written by a newer vsyncd")
    return manifest


def write_verification(verification: BackupVerification) -> bytes:
    return _VERIFICATION.dump_json(verification, indent=2) + b"\n"


def read_verification(data: bytes) -> BackupVerification:
    """Parses verification.json. Raises NotReadable."""
    try:
        return _VERIFICATION.validate_json(data)
    except ValidationError:
        raise NotReadable("not a verification") from None


def write_sums(files: Iterable[FileEntry], manifest: bytes) -> bytes:
    """Returns the content of SHA256SUMS, as `sha256sum --check` reads it. It covers the manifest too."""
    lines = [f"{file.sha256}  {file.path}\n" for file in files]
    return "".join([*lines, f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"]).encode()


def differences(expected: ContentSummary, found: ContentSummary) -> tuple[str, ...]:
    """Describes how a restored database differs from the dumped one, one line each."""
    lines = [
        f"{table}: {found.tables.get(table, 'no')} rows instead of {rows}"
        for table, rows in sorted(expected.tables.items())
        if found.tables.get(table) != rows
    ]
    lines += [f"{table}: not in the dump" for table in sorted(found.tables.keys() - expected.tables.keys())]
    changed = sorted({(each.ispb, each.key_type) for each in {*expected.cid_sets} ^ {*found.cid_sets}})
    lines += [f"the CID set of ISPB {ispb}, key type {key_type} differs" for ispb, key_type in changed]
    lines += [
        f"the content of {name} differs"
        for name, digest in sorted(expected.digests.items())
        if found.digests.get(name) != digest
    ]
    if dict(expected.migrations) != dict(found.migrations):
        lines.append("the versions of the migrations differ")
    return tuple(lines)
