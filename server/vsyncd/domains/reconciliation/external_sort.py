"""Sorting more CIDs than there is memory for: sorted runs in one file on disk, then merged.

Nothing here awaits; whoever calls it from a loop does so in a thread. A run is small, because a thread that sorts keeps
every other one of the process waiting.
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

RUN: Final = 1 << 16
# CIDs of all runs together that a merge holds at a time, and the least of one.
MERGED: Final = 1 << 16
LEAST: Final = 64
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpillFull(Exception):  # noqa: N818  what happened, not whose error it is
    """The disk of the spill files is full."""


class ExternalSort:
    """CIDs that are put in in any order and come out once each, ascending. `folder`: None for the system's own."""

    def __init__(self, folder: str | None = None) -> None:
        """Raises SpillFull, OSError. The file has no name: it goes with the process, however that ends."""
        self._file = _unnamed_file(folder)
        self._ends: list[int] = []
        self._pending = bytearray()
        self.received = 0
        self.distinct = 0
        self.xor = 0

    def add(self, packed: bytes) -> None:
        """Take packed CIDs. Raises SpillFull."""
        self._pending += packed
        self.received += len(packed) // CID_BYTES
        while len(self._pending) >= RUN * CID_BYTES:
            self._write(bytes(self._pending[: RUN * CID_BYTES]))
            del self._pending[: RUN * CID_BYTES]

    def finish(self) -> None:
        """Everything was added. Raises SpillFull."""
        if self._pending:
            self._write(bytes(self._pending))
            self._pending.clear()

    def blocks(self) -> Iterator[list[bytes]]:
        """All that was added before `finish`, ascending, without repetitions; again and again, when it is asked again.

        `distinct` and `xor` are whole at the end.
        """
        self.distinct = self.xor = 0
        last = b""
        for block in self._merged():
            once = _without_repetitions(block, last)
            if not once:
                continue
            last = once[-1]
            self.distinct += len(once)
            self.xor ^= xor_of(b"".join(once))
            yield once

    def close(self) -> None:
        """Give the disk back."""
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
            if error.errno in _FULL:
                with suppress(OSError):
                    self._file.truncate(0)
                raise SpillFull from error
            raise
        self._ends.append((self._ends[-1] if self._ends else 0) + len(packed))

    def _merged(self) -> Iterator[list[bytes]]:
        """Takes from each run what is not greater than the least of their last ones: the next runs begin behind it."""
        size = max(LEAST, MERGED // max(1, len(self._ends))) * CID_BYTES
        edges = pairwise((0, *self._ends))
        runs = [_Run(self._file.fileno(), begin, end, size) for begin, end in edges]
        while runs := [run for run in runs if run.fill()]:
            bound = min(run.last for run in runs)
            block: list[bytes] = []
            for run in runs:
                block += run.take(bound)
            block.sort()  # it finds the runs in it, and merges them
            yield block


def _unnamed_file(folder: str | None) -> io.FileIO:
    try:
        return tempfile.TemporaryFile(prefix="vsyncd-spill-", dir=folder, buffering=0)
    except FileNotFoundError as error:
        if folder is None:
            # tempfile found no temporary folder that it could write to: where there are any, they are full.
            raise SpillFull from error
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise SpillFull from error
        raise


class _Run:
    """A part of the file, read piece by piece."""

    def __init__(self, descriptor: int, begin: int, end: int, size: int) -> None:
        self._descriptor = descriptor
        self._at = begin
        self._end = end
        self._size = size
        self._cids: list[bytes] = []

    @property
    def last(self) -> bytes:
        """The greatest that is in memory."""
        return self._cids[-1]

    def fill(self) -> bool:
        """Have something in memory; False at the end."""
        if not self._cids and self._at < self._end:
            data = os.pread(self._descriptor, min(self._size, self._end - self._at), self._at)
            self._at += len(data)
            self._cids = unpack(data)
        return bool(self._cids)

    def take(self, bound: bytes) -> list[bytes]:
        """What is not greater, which is gone from here then."""
        at = bisect_right(self._cids, bound)
        taken, self._cids = self._cids[:at], self._cids[at:]
        return taken


def _without_repetitions(ascending: list[bytes], last: bytes) -> list[bytes]:
    once = list(dict.fromkeys(ascending))
    return once[1:] if once[0] == last else once
