"""What a backup says of itself: manifest.json and SHA256SUMS, which stand beside the dump."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
VERIFICATION: Final = "verification.json"
DUMP: Final = "dump"
# The form of manifest.json. It is raised when an older vsyncd would misread a newer one's.
FORM: Final = 1

DumpFormat = Literal["directory", "custom"]
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}-\d{8}T\d{9}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the dump: its path inside the backup, its size in bytes, and its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CidSet:
    """The CIDs of one key type of one participant: how many, and the XOR of them all, which is their VSync."""

    ispb: str
    key_type: int
    count: int
    vsync: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collation:
    """What a new database needs to sort as the old one did, by the names of CREATE DATABASE."""

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None
    rules: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentSummary:
    """What one snapshot of a database holds: rows of each table, CID sets, and the migrations that were applied.
    `schema` is the one of vsyncd's tables."""

    schema: str
    tables: Mapping[str, int]
    cid_sets: tuple[CidSet, ...]
    migrations: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a dump comes from: the database, who owns it, the roles that own something in it or have a right, and the
    server: its system identifier, which a cluster gets when it is made and its replicas share (None: of a vsyncd that
    did not note it)."""

    database: str
    system_identifier: str | None = None
    owner: str
    server_version: str
    server_major: int
    collation: Collation
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole. `created_at` is the time of the snapshot, `seconds` how long the backup took."""

    form: int = FORM
    name: str
    created_at: datetime
    seconds: float
    vsyncd_version: str
    pg_dump_version: str
    dump_format: DumpFormat
    compression: str
    origin: Origin
    census: ContentSummary
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of the dump."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupVerification:
    """What the last verification came to: `restored` when it was restored for it, what was wrong with its files or with
    what was restored, and what pg_restore said when it refused the dump."""

    at: datetime
    restored: bool
    problems: tuple[str, ...] = ()
    restore_error: str | None = None


_MANIFEST: Final = TypeAdapter(Manifest)
_VERIFICATION: Final = TypeAdapter(BackupVerification)


class NotReadable(Exception):  # noqa: N818  what it is, not that it is an error
    """A file that should be JSON of ours is not, or has another form. The message never quotes it."""


def name_of(database: str, at: datetime) -> str:
    """A backup's name: the database, with `_` for what a file's name should not have, and the time to the
    millisecond, so that names sort by age."""
    return f"{name_prefix(database)}-{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"


def name_prefix(database: str) -> str:
    """The first part of the names of a database's backups."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", database)[:63].lstrip(".-") or "_"


def is_name(text: str) -> bool:
    """Whether it can be a backup's name, and leads to no other folder."""
    return _NAME.fullmatch(text) is not None


def write_manifest(manifest: Manifest) -> bytes:
    """manifest.json."""
    return _MANIFEST.dump_json(manifest, indent=2) + b"\n"


def read_manifest(data: bytes) -> Manifest:
    """Raises NotReadable."""
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        raise NotReadable(f"it is not a manifest ({error.error_count()} errors)") from None
    if manifest.form > FORM:
        raise NotReadable("it was written by a newer vsyncd")
    return manifest


def write_verification(verification: BackupVerification) -> bytes:
    """verification.json."""
    return _VERIFICATION.dump_json(verification, indent=2) + b"\n"


def read_verification(data: bytes) -> BackupVerification:
    """Raises NotReadable."""
    try:
        return _VERIFICATION.validate_json(data)
    except ValidationError:
        raise NotReadable("it is not a verification") from None


def write_sums(files: Iterable[FileEntry], manifest: bytes) -> bytes:
    """SHA256SUMS, as `sha256sum --check` reads it. It covers the manifest too."""
    lines = [f"{file.sha256}  {file.path}\n" for file in files]
    return "".join([*lines, f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"]).encode()


def differences(expected: ContentSummary, found: ContentSummary) -> tuple[str, ...]:
    """How what was restored differs from what was dumped, a line each."""
    lines = [
        f"{table}: {found.tables.get(table, 0)} rows, and {rows} were dumped"
        for table, rows in sorted(expected.tables.items())
        if found.tables.get(table) != rows
    ]
    lines += [f"{table}: it was not dumped" for table in sorted(found.tables.keys() - expected.tables.keys())]
    was = {(each.ispb, each.key_type): each for each in expected.cid_sets}
    now = {(each.ispb, each.key_type): each for each in found.cid_sets}
    lines += [
        f"the CID set of ispb {ispb}, key type {key_type} is another one"
        for ispb, key_type in sorted(was.keys() | now.keys())
        if was.get((ispb, key_type)) != now.get((ispb, key_type))
    ]
    if dict(expected.migrations) != dict(found.migrations):
        lines.append("the versions of the migrations are others")
    return tuple(lines)
