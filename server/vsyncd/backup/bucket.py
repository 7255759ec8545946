"""Backups in an S3-compatible store."""

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
from vsyncd.backup.manifest import MANIFEST, created_at_of, is_name
from vsyncd.backup.store import Contents, FolderStore, Workspace, file_sizes, write_file
from vsyncd.backup.tasks import OnBytes

# Memory is bounded by one piece for a download, and by this number of parts for an upload.
_PIECE_BYTES: Final = 8 * 1024**2
_MAX_CONCURRENT_PARTS: Final = 4
# S3 permits 10,000 parts.
_MAX_PARTS: Final = 9_000
# A backup without a manifest is being uploaded; after this time, its upload was killed.
_MAX_UPLOAD_TIME: Final = timedelta(days=2)
# The prefix of the objects that mark backups as in use, which is no valid backup name. A killed process leaves its
# mark, which expires.
_IN_USE: Final = "in-use"
_MARK_LIFETIME: Final = timedelta(days=1)
_ERROR_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The location. Without a key, AWS_ variables or the machine's role provide the credentials."""

    url: str
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = None


class BucketStore:
    """A Store in an S3 bucket. The manifest is uploaded last and removed first.

    Backups are assembled in `staging`, and downloaded to it for a restore.
    """

    def __init__(self, bucket: Bucket, *, staging: Path) -> None:
        self._staging = FolderStore(staging)
        config = {
            "region": bucket.region,
            "endpoint": bucket.endpoint,
            "access_key_id": bucket.access_key_id,
            "secret_access_key": bucket.secret_access_key,
        }
        with _storage_errors():
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
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        with _storage_errors():
            for objects in obstore.list(self._store, chunk_size=1000):
                for each in objects:
                    name, _, path = each["path"].partition("/")
                    if is_name(name) and path:
                        found[name][path] = each["size"]
        return dict(sorted(found.items()))

    def workspace(self, name: str) -> contextlib.AbstractContextManager[Workspace]:
        return self._staging.workspace(name)

    def keep(self, workspace: Workspace, name: str, on_bytes: OnBytes) -> None:
        with _storage_errors():
            for path in sorted(file_sizes(workspace.folder), key=lambda path: (path == MANIFEST, path)):
                self._put(f"{name}/{path}", workspace.folder / path, on_bytes)

    def read(self, name: str, path: str) -> Iterator[bytes]:
        """Requests ranges, so that a slow reader keeps no request open."""
        key = f"{name}/{path}"
        with _storage_errors():
            size = obstore.head(self._store, key)["size"]
            for start in range(0, size, _PIECE_BYTES):
                yield bytes(obstore.get_range(self._store, key, start=start, end=min(start + _PIECE_BYTES, size)))

    def write(self, name: str, path: str, data: bytes) -> None:
        with _storage_errors():
            obstore.put(self._store, f"{name}/{path}", data)

    @contextlib.contextmanager
    def local(self, name: str, paths: Mapping[str, int], on_bytes: OnBytes) -> Iterator[Path]:
        with self._staging.workspace(f"{name}.{secrets.token_hex(4)}") as workspace:
            for path in paths:
                self._fetch(name, path, workspace.folder / path, on_bytes)
            yield workspace.folder

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Sequence[int]]:
        """Marks the backup with an object. With a read-only key the backup is not protected."""
        mark = f"{_IN_USE}/{name}/{secrets.token_hex(8)}"
        with contextlib.suppress(StorageFailed), _storage_errors():
            obstore.put(self._store, mark, b"in use")
        try:
            with _storage_errors():
                obstore.head(self._store, f"{name}/{MANIFEST}")
            yield ()
        finally:
            with contextlib.suppress(StorageFailed, FileNotFoundError), _storage_errors():
                obstore.delete(self._store, mark)

    def remove(self, name: str) -> bool:
        """A `held` that starts at the same moment finds no manifest, or fails later for lack of a file."""
        if any(_is_valid(at) for at in self._marks(f"{_IN_USE}/{name}").values()):
            return False
        with _storage_errors():
            obstore.delete(self._store, f"{name}/{MANIFEST}")
            obstore.delete(self._store, [f"{name}/{path}" for path in self.contents().get(name, {})])
        return True

    def tidy(self) -> list[str]:
        stale = [
            name
            for name, sizes in self.contents().items()
            if MANIFEST not in sizes and datetime.now(UTC) - created_at_of(name) > _MAX_UPLOAD_TIME
        ]
        for name in stale:
            self.remove(name)
        with _storage_errors():
            obstore.delete(self._store, [mark for mark, at in self._marks(_IN_USE).items() if not _is_valid(at)])
        return [*self._staging.tidy(), *stale]

    def _marks(self, prefix: str) -> dict[str, datetime]:
        """Returns the marks below a prefix and when they were created."""
        with _storage_errors():
            listed = obstore.list(self._store, prefix, chunk_size=1000)
            return {each["path"]: each["last_modified"] for objects in listed for each in objects}

    def _put(self, key: str, path: Path, on_bytes: OnBytes) -> None:
        size = path.stat().st_size
        part = max(_PIECE_BYTES, -(-size // _MAX_PARTS))
        if size <= part:
            on_bytes(size)
            obstore.put(self._store, key, path.read_bytes())
            return
        with path.open("rb") as file:
            # An exception of `on_bytes` ends the upload.
            obstore.put(
                self._store, key, _pieces(file, on_bytes), chunk_size=part, max_concurrency=_MAX_CONCURRENT_PARTS
            )

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
    while piece := file.read(_PIECE_BYTES):
        on_bytes(len(piece))
        yield piece


def _is_valid(mark_created_at: datetime) -> bool:
    return datetime.now(UTC) - mark_created_at < _MARK_LIFETIME


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Reduces obstore's errors, which quote requests and responses, to S3's error code."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageFailed("the S3 store cannot be used: the bucket does not exist") from error
        raise FileNotFoundError("not in the S3 store") from error
    except (BaseError, OSError, ValueError) as error:
        code = _ERROR_CODE.search(str(error))
        raise StorageFailed(f"the S3 store cannot be used: {code[1] if code else type(error).__name__}") from error
