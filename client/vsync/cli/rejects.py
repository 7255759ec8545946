"""The file of rejected lines: what was wrong with each, and the line itself, to be mended and imported again.

A line with a record is imported as that record, whatever stands beside it (files.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vsync.atomic_files import Part, is_special
from vsync.records import fields_of
from vsync.rpc_status import Violation
from vsync.v1 import cid_pb2

SHOWN = 10
_BLOCK = 1 << 20


class Rejects:
    """Collects rejected lines. The file is there only if there are any; only its owner can read it.

    An older file of that name stays as it is until `close`: there may be lines in it that somebody is mending.
    """

    def __init__(self, path: Path) -> None:
        """A pipe or a device is opened at once, and written to as it is. Raises OSError."""
        self.path = path
        self.count = 0
        self.shown: list[str] = []
        """The first few, as sentences without values."""
        self._part: Part | None = None
        if is_special(path):
            self._open()

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
        part = self._part or self._open()
        part.stream.write(f"{json.dumps(entry, ensure_ascii=False)}\n".encode())
        self.count += 1
        if len(self.shown) < SHOWN:
            wrong = "; ".join(f"{name} {takes}".strip() for name, takes in violations) or reason
            self.shown.append(f"line {line:,}: {wrong}")

    def close(self, *, finished: bool) -> None:
        """Puts the lines of this run in the place of an older run's. Raises OSError.

        finished: the server has answered for every line. Then no file stays when none was rejected; before, that says
        nothing yet. Nor are an older run's lines replaced then when they begin with those of this run: an import that
        is resumed gives the same lines once more, and came further before.
        """
        part, self._part = self._part, None
        if part is None:
            if finished and self.path.is_file():
                self.path.resolve().unlink()
            return
        try:
            if self.count:
                part.finish()
                if part.temporary and (finished or not _begins_with(part.path, part.temporary)):
                    part.place()
        finally:
            part.discard()

    def _open(self) -> Part:
        # Absolute: a dash is a name here.
        self._part = Part(str(self.path.absolute()))
        self._part.open()
        return self._part


def _begins_with(older: Path, newer: Path) -> bool:
    """Whether all of the newer file stands at the older one's begin."""
    if not older.exists():
        return False
    with older.open("rb") as old, newer.open("rb") as new:
        while block := new.read(_BLOCK):
            if old.read(len(block)) != block:
                return False
    return True
