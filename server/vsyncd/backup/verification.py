"""Verifies that the files of a backup are what the manifest says."""

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping
from typing import Final

from vsyncd.backup.manifest import (
    DUMP,
    MANIFEST,
    SUMS,
    VERIFICATION,
    FileEntry,
    Manifest,
    NotReadable,
    file_entry,
    read_manifest,
    read_verification,
    write_sums,
)
from vsyncd.backup.pg_tools import PgTools, ProgramFailed, credentials, run_program
from vsyncd.backup.records import Backup
from vsyncd.backup.store import BackupStore
from vsyncd.backup.tasks import Task, run_parallel

_TOC: Final = f"{DUMP}/toc.dat"
# The manifest of ten thousand tables takes 2 MB.
_MAX_SMALL_FILE_BYTES: Final = 64 * 1024**2


def inspect(store: BackupStore, name: str, sizes: Mapping[str, int]) -> Backup:
    """Returns the record of a backup from its small files and the sizes of the others."""
    manifest, problems = _inspect_files(store, name, sizes)
    verification = None
    if VERIFICATION in sizes:
        with contextlib.suppress(NotReadable, FileNotFoundError):  # as if it had never been verified
            verification = read_verification(_read_small(store, name, VERIFICATION))
    return Backup(
        name=name,
        size=sum(sizes.values()),
        manifest=manifest,
        complete=MANIFEST in sizes,
        problems=problems,
        verification=verification,
    )


def check_files(
    store: BackupStore, manifest: Manifest, *, known: tuple[str, ...], jobs: int, task: Task
) -> tuple[str, ...]:
    """Read all files, `jobs` at once. Returns the problems, one line each, with those that are already `known`."""
    data = _read_small(store, manifest.name, MANIFEST)
    try:
        sums = _read_small(store, manifest.name, SUMS)
    except FileNotFoundError:
        sums = b""
    if sums and hashlib.sha256(data).hexdigest().encode() not in sums:
        # Its checksums of the other files are not trusted either.
        return (f"{MANIFEST}: it differs from its checksum in {SUMS}",)
    on_bytes = task.count_bytes("verify", manifest.size)

    def problem_of(file: FileEntry) -> str | None:
        try:
            found = file_entry(file.path, store.read(manifest.name, file.path), on_bytes)
        except FileNotFoundError:
            return _missing(file.path)
        if found.size != file.size:
            return _wrong_size(file.path, found.size, file.size)
        return None if found == file else f"{file.path}: its content has changed (SHA-256)"

    found = run_parallel(problem_of, manifest.files, jobs=jobs, task=task)
    own = [] if sums in {b"", write_sums(manifest.files, data)} else [f"{SUMS}: its content has changed"]
    return tuple(dict.fromkeys([*known, *own, *filter(None, found)]))


def check_listing(store: BackupStore, manifest: Manifest, tools: PgTools, task: Task) -> tuple[str, ...]:
    """Check that pg_restore can read the table of contents, and that it lists every table. Returns the problems."""
    is_directory = manifest.dump_format == "directory"
    needed = {file.path: file.size for file in manifest.files if not is_directory or file.path == _TOC}
    with (
        store.local(manifest.name, needed, lambda _count: task.check()) as folder,
        tempfile.TemporaryFile() as listing,
        credentials("") as access,
    ):
        try:
            run_program(
                [tools.folder / "pg_restore", "--list", folder / DUMP], credentials=access, task=task, output=listing
            )
        except ProgramFailed as error:
            return (f"{DUMP}: {error}",)
        listing.seek(0)
        listed = sum(b" TABLE DATA " in line for line in listing)
    expected = len(manifest.content.tables)
    return () if listed >= expected else (f"{DUMP}: pg_restore lists {listed} of {expected} tables",)


def _inspect_files(store: BackupStore, name: str, sizes: Mapping[str, int]) -> tuple[Manifest | None, tuple[str, ...]]:
    try:
        data = _read_small(store, name, MANIFEST)
        manifest = read_manifest(data)
    except FileNotFoundError:
        return None, (_missing(MANIFEST),)
    except NotReadable as error:
        return None, (f"{MANIFEST}: {error}",)
    if manifest.name != name:
        return manifest, (f"{MANIFEST}: it belongs to another backup",)
    expected = {file.path: file.size for file in manifest.files}
    expected[SUMS] = len(write_sums(manifest.files, data))
    problems = [
        _wrong_size(path, sizes[path], size) if path in sizes else _missing(path)
        for path, size in expected.items()
        if sizes.get(path) != size
    ]
    unexpected = sizes.keys() - expected.keys() - {MANIFEST, VERIFICATION}
    return manifest, (*problems, *(f"{path}: unexpected file" for path in sorted(unexpected)))


def _missing(path: str) -> str:
    return f"{path}: missing"


def _wrong_size(path: str, found: int, expected: int) -> str:
    return f"{path}: {found} bytes instead of {expected}"


def _read_small(store: BackupStore, name: str, path: str) -> bytes:
    """Returns the whole file. Raises FileNotFoundError, or NotReadable if it is too large."""
    data = b""
    for piece in store.read(name, path):
        data += piece
        if len(data) > _MAX_SMALL_FILE_BYTES:
            raise NotReadable("too large")
    return data
