"""Backups in an S3-compatible store."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from vsyncd.backup.errors import StorageFailed
from vsyncd.backup.folder import FolderStore, write_file
from vsyncd.backup.manifest import MANIFEST, is_name
from vsyncd.backup.store import Contents, OnBytes, Workspace

# What is in memory at a time: a piece that is read; of an upload, so many parts.
_PIECE: Final = 8 * 1024**2
_PARTS_AT_ONCE: Final = 4
# S3 takes at most 10,000 parts.
_MOST_PARTS: Final = 9_000
# What has no manifest is an upload under way, or one that was killed. None takes longer than this.
_UPLOAD: Final = timedelta(days=2)
# Where it is noted that backups are in use: no backup has such a name. What is older was left by a killed process.
_IN_USE: Final = "in-use"
_HELD: Final = timedelta(days=1)
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where it is. Without a key, AWS_ variables or the machine's role are asked for one."""

    url: str
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = None


class BucketStore:
    """See Store. The manifest is sent last and removed first: a backup without one is none. Backups are put together
    in `staging`, and brought there to be restored."""

    def __init__(self, bucket: Bucket, *, staging: Path) -> None:
        self._staging = FolderStore(staging)
        config = {
            "region": bucket.region,
            "endpoint": bucket.endpoint,
            "access_key_id": bucket.access_key_id,
            "secret_access_key": bucket.secret_access_key,
        }
        with _storage():
            self._store = S3Store.from_url(
                bucket.url,
                config={name: value for name, value in config.items() if value is not None},  # type: ignore[arg-type]  # a TypedDict
                client_options={
                    "allow_http": (bucket.endpoint or "").startswith("http://"),
                    "connect_timeout": timedelta(seconds=5),
                    "timeout": timedelta(minutes=5),  # of one part
                },
                retry_config={"max_retries": 5, "retry_timeout": timedelta(minutes=1)},
            )

    def contents(self) -> Contents:
        """See Store."""
        return {name: sizes for name, sizes in self._all().items() if MANIFEST in sizes}

    def incomplete(self) -> Sequence[str]:
        """See Store. Those that are just being sent, too."""
        return [name for name, sizes in self._all().items() if MANIFEST not in sizes]

    def workspace(self, name: str) -> contextlib.AbstractContextManager[Workspace]:
        """See Store."""
        return self._staging.workspace(name)

    def keep(self, workspace: Workspace, name: str, on_bytes: OnBytes) -> None:
        """See Store."""
        paths = [path for path in workspace.folder.rglob("*") if path.is_file()]
        with _storage():
            for path in sorted(paths, key=lambda path: (path.name == MANIFEST, path)):
                self._put(f"{name}/{path.relative_to(workspace.folder).as_posix()}", path, on_bytes)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """See Store. By ranges: a request is short however long the reader takes."""
        key = f"{name}/{path}"
        with _storage():
            size = obstore.head(self._store, key)["size"]
            for start in range(0, size, _PIECE):
                yield bytes(obstore.get_range(self._store, key, start=start, end=min(start + _PIECE, size)))

    def write(self, name: str, path: str, data: bytes) -> None:
        """See Store."""
        with _storage():
            obstore.put(self._store, f"{name}/{path}", data)

    @contextlib.contextmanager
    def local(self, name: str, paths: Mapping[str, int], on_bytes: OnBytes) -> Iterator[Path]:
        """See Store. Takes as much room as the backup does."""
        with self._staging.workspace(f"{name}.{secrets.token_hex(4)}") as workspace:
            for path in paths:
                self._fetch(name, path, workspace.folder / path, on_bytes)
            yield workspace.folder

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Sequence[int]]:
        """See Store. By an object that counts for a day; a key that may only read restores all the same."""
        mark = f"{_IN_USE}/{name}/{secrets.token_hex(8)}"
        with contextlib.suppress(StorageFailed), _storage():
            obstore.put(self._store, mark, b"in use")
        try:
            with _storage():
                obstore.head(self._store, f"{name}/{MANIFEST}")
            yield ()
        finally:
            with contextlib.suppress(StorageFailed, FileNotFoundError), _storage():
                obstore.delete(self._store, mark)

    def remove(self, name: str) -> bool:
        """See Store. Who comes to hold it at this very moment finds no manifest, or a file missing."""
        if any(_is_fresh(at) for at in self._marks(f"{_IN_USE}/{name}").values()):
            return False
        with _storage():
            obstore.delete(self._store, f"{name}/{MANIFEST}")
            obstore.delete(self._store, [f"{name}/{path}" for path in self._all().get(name, {})])
        return True

    def tidy(self) -> list[str]:
        """See Store."""
        stale = [name for name, sizes in self._all().items() if MANIFEST not in sizes and _is_stale(name)]
        for name in stale:
            self.remove(name)
        with _storage():
            obstore.delete(self._store, [mark for mark, at in self._marks(_IN_USE).items() if not _is_fresh(at)])
        return [*self._staging.tidy(), *stale]

    def _marks(self, prefix: str) -> dict[str, datetime]:
        """The objects that say that a backup is in use, and when they were put there."""
        with _storage():
            listed = obstore.list(self._store, prefix, chunk_size=1000)
            return {each["path"]: each["last_modified"] for objects in listed for each in objects}

    def _all(self) -> dict[str, dict[str, int]]:
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        with _storage():
            for objects in obstore.list(self._store, chunk_size=1000):
                for each in objects:
                    name, _, path = each["path"].partition("/")
                    if is_name(name) and path:
                        found[name][path] = each["size"]
        return dict(sorted(found.items()))

    def _put(self, key: str, path: Path, on_bytes: OnBytes) -> None:
        size = path.stat().st_size
        part = max(_PIECE, -(-size // _MOST_PARTS))
        if size <= part:
            on_bytes(size)
            obstore.put(self._store, key, path.read_bytes())
            return
        with path.open("rb") as file:
            # What `on_bytes` raises ends the upload.
            obstore.put(self._store, key, _pieces(file, on_bytes), chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

    def _fetch(self, name: str, path: str, target: Path, on_bytes: OnBytes) -> None:
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            write_file(target, b"")
            with target.open("ab") as file:
                for piece in self.read(name, path):
                    file.write(piece)
                    on_bytes(len(piece))
        except OSError as error:
            raise StorageFailed(f"{target.parent} cannot be written to: {error.strerror or path}") from error


def _pieces(file: IO[bytes], on_bytes: OnBytes) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        on_bytes(len(piece))
        yield piece


def _is_fresh(at: datetime) -> bool:
    return datetime.now(UTC) - at < _HELD


def _is_stale(name: str) -> bool:
    at = datetime.strptime(name.rpartition("-")[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    return datetime.now(UTC) - at > _UPLOAD


@contextlib.contextmanager
def _storage() -> Iterator[None]:
    """The library's errors quote requests and answers; what S3 calls the error says enough."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageFailed("the S3 store cannot be used: there is no such bucket") from error
        raise FileNotFoundError("it is not in the S3 store") from error
    except (BaseError, OSError, ValueError) as error:
        code = _CODE.search(str(error))
        raise StorageFailed(f"the S3 store cannot be used: {code[1] if code else type(error).__name__}") from error
