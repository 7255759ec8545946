"""The file of rejected lines: each line with its errors, to be corrected and imported again.

The import reads a line that has a `record` as that record and ignores its other fields (record_files.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vsync.atomic_files import AtomicFile, is_special
from vsync.errors import FieldViolation
from vsync.records import fields_of
from vsync.v1 import cid_pb2

MAX_EXAMPLES = 10
_BLOCK_BYTES = 1 << 20


class RejectsFile:
    """Collects rejected lines. The file exists only if a line was rejected, and only its owner can read it.

    An older file of the same name remains unchanged until `close`, because a user may still be correcting its lines.
    """

    def __init__(self, path: Path) -> None:
        """Opens a pipe or a device at once. Raises OSError."""
        self.path = path
        self.count = 0
        self.examples: list[str] = []
        """The errors of the first MAX_EXAMPLES lines, without values."""
        self._file: AtomicFile | None = None
        if is_special(path):
            self._open()

    def add(
        self,
        line: int,
        reason: str,
        violations: Sequence[FieldViolation],
        *,
        record: cid_pb2.CidRecord | None = None,
        text: str = "",
    ) -> None:
        """Writes one rejected line. Raises OSError."""
        entry: dict[str, object] = {
            "line": line,
            "reason": reason,
            "violations": [violation._asdict() for violation in violations],
        }
        if record is not None:
            entry["record"] = fields_of(record)
        elif text:
            entry["text"] = text
        file = self._file or self._open()
        file.stream.write(f"{json.dumps(entry, ensure_ascii=False)}\n".encode())
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            errors = "; ".join(f"{name} {rule}".strip() for name, rule in violations) or reason
            self.examples.append(f"line {line:,}: {errors}")

    def close(self, *, finished: bool) -> None:
        """Replaces the file of an earlier import. Raises OSError.

        `finished`: the server has answered every line, so the old file is removed if no line was rejected. After an
        unfinished import the old file is kept if it begins with the lines of this one: a resumed import rejects the
        same lines again, and the earlier run got further.
        """
        file, self._file = self._file, None
        if file is None:
            if finished and self.path.is_file():
                self.path.resolve().unlink()
            return
        try:
            if self.count:
                file.finish()
                if file.temporary and (finished or not _begins_with(file.path, file.temporary)):
                    file.rename()
        finally:
            file.discard()

    def _open(self) -> AtomicFile:
        # The path is absolute because "-" is an ordinary file name here.
        self._file = AtomicFile(str(self.path.absolute()))
        self._file.open()
        return self._file


def _begins_with(path: Path, beginning: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as whole, beginning.open("rb") as start:
        while block := start.read(_BLOCK_BYTES):
            if whole.read(len(block)) != block:
                return False
    return True
