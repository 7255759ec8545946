"""Reads a backup from end to end: is every file what it was when it was written?"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Final

from vsyncd.backup.credentials import credentials
from vsyncd.backup.manifest import (
    DUMP,
    MANIFEST,
    SUMS,
    VERIFICATION,
    FileEntry,
    Manifest,
    NotReadable,
    read_manifest,
    write_sums,
)
from vsyncd.backup.pg_tools import PgTools
from vsyncd.backup.progress import OnProgress, Progress
from vsyncd.backup.store import Store
from vsyncd.backup.subprocesses import ProgramFailed, Stop, run_program

_TICK_SECONDS: Final = 0.25
_TOC: Final = f"{DUMP}/toc.dat"
# A manifest of ten thousand tables has two megabytes.
_MOST_SMALL: Final = 64 * 1024**2


class ManifestDamaged(Exception):  # noqa: N818  named for what happened
    """The manifest, or its line in SHA256SUMS, is not what was written."""


def at_first_sight(store: Store, name: str, sizes: Mapping[str, int]) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest, and what is wrong without reading more: files that are missing, or of another size."""
    try:
        data = small_file(store, name, MANIFEST)
        manifest = read_manifest(data)
    except (NotReadable, FileNotFoundError) as error:
        return None, (f"{MANIFEST}: {error}",)
    if manifest.name != name:
        return manifest, (f"{MANIFEST}: it is that of another backup",)
    expected = {file.path: file.size for file in manifest.files}
    expected[SUMS] = len(write_sums(manifest.files, data))
    problems = [
        f"{path}: it is missing" if path not in sizes else f"{path}: it has {sizes[path]} bytes instead of {size}"
        for path, size in expected.items()
        if sizes.get(path) != size
    ]
    unknown = sizes.keys() - expected.keys() - {MANIFEST, VERIFICATION}
    return manifest, (*problems, *(f"{path}: it does not belong here" for path in sorted(unknown)))


def check_files(store: Store, manifest: Manifest, *, jobs: int, on_progress: OnProgress, stop: Stop) -> tuple[str, ...]:
    """What is wrong with the files, a line each; `jobs` of them are read at once. Raises ManifestDamaged."""
    problems = _check_sums(store, manifest)
    reading = _Reading(store, manifest.name, stop)
    with ThreadPoolExecutor(jobs, thread_name_prefix="backup check") as threads:
        found = [threads.submit(reading.problems_of, file) for file in manifest.files]
        try:
            while wait(found, timeout=_TICK_SECONDS, return_when=FIRST_EXCEPTION).not_done:
                stop.check()
                reading.check()
                on_progress(Progress("verify", done=reading.done, total=manifest.size))
            reading.check()
            problems += itertools.chain.from_iterable(each.result() for each in found)
        finally:
            reading.end()
            threads.shutdown(cancel_futures=True)
    on_progress(Progress("verify", done=reading.done, total=manifest.size))
    return tuple(problems)


class _Reading:
    """Reads files of a backup in several threads. When one of them fails the others end."""

    def __init__(self, store: Store, name: str, stop: Stop) -> None:
        self._store = store
        self._name = name
        self._stop = stop
        self._ended = Stop()
        self._failure: Exception | None = None
        self._counting = threading.Lock()
        self.done = 0

    def check(self) -> None:
        """Raises what the first raised that failed."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Who still reads need not go on."""
        self._ended.ask()

    def problems_of(self, file: FileEntry) -> tuple[str, ...]:
        """What is wrong with it. Raises StorageFailed, Interrupted."""
        try:
            return _difference(file, *self._read(file))
        except FileNotFoundError:
            return (f"{file.path}: it is missing",)
        except Exception as error:
            with self._counting:
                self._failure = self._failure or error
            self._ended.ask()
            raise

    def _read(self, file: FileEntry) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        self._go_on()
        for piece in self._store.read(self._name, file.path):
            self._go_on()
            digest.update(piece)
            size += len(piece)
            with self._counting:
                self.done += len(piece)
        return size, digest.hexdigest()

    def _go_on(self) -> None:
        self._stop.check()
        self._ended.check()


def check_listing(store: Store, manifest: Manifest, programs: PgTools, *, stop: Stop) -> tuple[str, ...]:
    """Whether pg_restore can read the table of contents, and every table stands in it."""
    if manifest.dump_format == "directory":
        wanted = {file.path: file.size for file in manifest.files if file.path == _TOC}
    else:
        wanted = {file.path: file.size for file in manifest.files}
    with (
        store.local(manifest.name, wanted, lambda _count: stop.check()) as folder,
        tempfile.TemporaryFile() as listing,
        credentials("") as access,
    ):
        try:
            run_program(
                [programs.path("pg_restore"), "--list", folder / DUMP],
                environment=access.environment,
                holding=access.holding,
                stop=stop,
                on_line=lambda _line: None,
                on_tick=lambda: None,
                output=listing,
            )
        except ProgramFailed as error:
            return (f"{DUMP}: pg_restore cannot read it: {error}",)
        listing.seek(0)
        listed = sum(b" TABLE DATA " in line for line in listing)
    if listed < len(manifest.census.tables):
        return (f"{DUMP}: pg_restore lists {listed} of {len(manifest.census.tables)} tables",)
    return ()


def major_of(version: str) -> int:
    """18 of 18.4."""
    return int(version.partition(".")[0])


def small_file(store: Store, name: str, path: str) -> bytes:
    """A file whole. Raises FileNotFoundError, NotReadable when it is not small."""
    data = b""
    for piece in store.read(name, path):
        data += piece
        if len(data) > _MOST_SMALL:
            raise NotReadable("it is too large")
    return data


def _check_sums(store: Store, manifest: Manifest) -> list[str]:
    """SHA256SUMS must be what the manifest comes to. Raises ManifestDamaged."""
    data = small_file(store, manifest.name, MANIFEST)
    try:
        sums = small_file(store, manifest.name, SUMS)
    except FileNotFoundError:
        return [f"{SUMS}: it is missing"]
    if hashlib.sha256(data).hexdigest().encode() not in sums:
        raise ManifestDamaged(f"{MANIFEST}: it does not agree with {SUMS}")
    return [] if sums == write_sums(manifest.files, data) else [f"{SUMS}: its content is not what was written"]


def _difference(file: FileEntry, size: int, sha256: str) -> tuple[str, ...]:
    if size != file.size:
        return (f"{file.path}: it has {size} bytes instead of {file.size}",)
    return () if sha256 == file.sha256 else (f"{file.path}: its content is not what was written (SHA-256)",)
