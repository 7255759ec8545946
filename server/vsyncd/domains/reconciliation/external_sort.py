"""Sorts more CIDs than fit into memory: writes sorted runs to a file and merges them.

The methods block; call them in a thread. Runs are small, because sorting a run holds the GIL.
"""

import errno
import io
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Final, Self

from vsync.cid_codec import CID_BYTES, unpack, xor_of

RUN_CIDS: Final = 1 << 16
# CIDs of all runs together that a merge keeps in memory, and the minimum for one run.
MERGE_CIDS: Final = 1 << 16
MIN_MERGE_CIDS_PER_RUN: Final = 64
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpillFullError(Exception):
    """The disk for spill files is full."""


class ExternalSort:
    """Sorts CIDs and removes duplicates. `folder` None is the system's temporary folder."""

    def __init__(self, folder: str | None = None) -> None:
        """Raises SpillFullError, OSError. The file has no name, so it disappears with the process."""
        self._file = _unnamed_file(folder)
        self._ends: list[int] = []
        self._pending = bytearray()
        self.received = 0
        self.distinct = 0
        self.xor = 0

    def add(self, packed: bytes) -> None:
        """Adds packed CIDs. Raises SpillFullError."""
        self._pending += packed
        self.received += len(packed) // CID_BYTES
        while len(self._pending) >= RUN_CIDS * CID_BYTES:
            self._write(bytes(self._pending[: RUN_CIDS * CID_BYTES]))
            del self._pending[: RUN_CIDS * CID_BYTES]

    def finish(self) -> None:
        """Ends the input. Raises SpillFullError."""
        if self._pending:
            self._write(bytes(self._pending))
            self._pending.clear()

    def blocks(self) -> Iterator[list[bytes]]:
        """Yields all CIDs in ascending order without duplicates. It can be called repeatedly.

        At the end `distinct` and `xor` are those of all CIDs.
        """
        self.distinct = self.xor = 0
        last = b""
        for block in self._merged():
            unique = _without_duplicates(block, last)
            if not unique:
                continue
            last = unique[-1]
            self.distinct += len(unique)
            self.xor ^= xor_of(b"".join(unique))
            yield unique

    def close(self) -> None:
        """Releases the disk space."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, packed: bytes) -> None:
        run = unpack(packed)
        run.sort()
        data = memoryview(b"".join(run))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            if error.errno in _DISK_FULL:
                with suppress(OSError):
                    self._file.truncate(0)
                raise SpillFullError from error
            raise
        self._ends.append((self._ends[-1] if self._ends else 0) + len(packed))

    def _merged(self) -> Iterator[list[bytes]]:
        """Yields from all runs the CIDs up to the smallest of their last CIDs in memory."""
        size = max(MIN_MERGE_CIDS_PER_RUN, MERGE_CIDS // max(1, len(self._ends))) * CID_BYTES
        edges = pairwise((0, *self._ends))
        runs = [_Run(self._file.fileno(), begin, end, size) for begin, end in edges]
        while runs := [run for run in runs if run.fill()]:
            bound = min(run.last for run in runs)
            block: list[bytes] = []
            for run in runs:
                block += run.take(bound)
            block.sort()  # timsort merges the sorted runs
            yield block


def _unnamed_file(folder: str | None) -> io.FileIO:
    try:
        return tempfile.TemporaryFile(prefix="vsyncd-spill-", dir=folder, buffering=0)
    except FileNotFoundError as error:
        if folder is None:
            # tempfile cannot write to any temporary folder: they are full.
            raise SpillFullError from error
        raise
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise SpillFullError from error
        raise


class _Run:
    def __init__(self, descriptor: int, begin: int, end: int, size: int) -> None:
        self._descriptor = descriptor
        self._at = begin
        self._end = end
        self._size = size
        self._cids: list[bytes] = []

    @property
    def last(self) -> bytes:
        return self._cids[-1]

    def fill(self) -> bool:
        """Reads a block if none is in memory. Returns False at the end."""
        if not self._cids and self._at < self._end:
            data = os.pread(self._descriptor, min(self._size, self._end - self._at), self._at)
            self._at += len(data)
            self._cids = unpack(data)
        return bool(self._cids)

    def take(self, bound: bytes) -> list[bytes]:
        """Removes and returns the CIDs in memory up to the bound."""
        at = bisect_right(self._cids, bound)
        head, self._cids = self._cids[:at], self._cids[at:]
        return head


def _without_duplicates(ascending: list[bytes], last: bytes) -> list[bytes]:
    unique = list(dict.fromkeys(ascending))
    return unique[1:] if unique[0] == last else unique
