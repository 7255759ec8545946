"""The vsync command in the process of the tests."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from vsync.cli import app

NOWHERE = "127.0.0.1:1"


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        fields: dict[str, object] = json.loads(self.out)
        return fields


Vsync = Callable[..., Ran]


def vsync_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Vsync:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str, given: bytes | IO[str] = b"") -> Ran:
        # Files, as records are written to the descriptor of standard output.
        out, err = (tmp_path.with_name(f"{tmp_path.name}.{name}").open("w+", encoding="utf-8") for name in ("o", "e"))
        monkeypatch.setattr(sys, "argv", ["vsync", *arguments])
        stdin = io.TextIOWrapper(io.BytesIO(given)) if isinstance(given, bytes) else given
        monkeypatch.setattr(sys, "stdin", stdin)
        with out, err:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = app.run()
            return Ran(code, *(_written(stream) for stream in (out, err)))

    return run


def _written(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()
