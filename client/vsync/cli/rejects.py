"""The file of rejected lines: what was wrong with each, and the line itself, to be mended and imported again.

A line with a record is imported as that record, whatever stands beside it (files.py).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from vsync.failures import Violation
from vsync.records import fields_of
from vsync.v1 import cid_pb2

SHOWN = 10


class Rejects:
    """Collects rejected lines. The file is there only if there are any; only its owner can read it."""

    def __init__(self, path: Path) -> None:
        """An older file of that name goes: it is about another run. Raises OSError."""
        self.path = path
        self.count = 0
        self.shown: list[str] = []
        """The first few, as sentences without values."""
        self._file: IO[str] | None = None
        path.unlink(missing_ok=True)

    def add(
        self,
        line: int,
        reason: str,
        violations: Sequence[Violation],
        *,
        record: cid_pb2.CidRecord | None = None,
        text: str = "",
    ) -> None:
        """Writes one down. Raises OSError."""
        entry: dict[str, object] = {
            "line": line,
            "reason": reason,
            "violations": [violation._asdict() for violation in violations],
        }
        if record is not None:
            entry["record"] = fields_of(record)
        elif text:
            entry["text"] = text
        self._open().write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.count += 1
        if len(self.shown) < SHOWN:
            wrong = "; ".join(f"{name} {takes}".strip() for name, takes in violations) or reason
            self.shown.append(f"line {line:,}: {wrong}")

    def close(self) -> None:
        """Writes what is buffered."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[str]:
        if self._file is None:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        return self._file
