"""Runs commands in a process whose standard streams, locale or terminal are hostile."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self

import click

# One process for all commands: most of the time of a command is spent on its imports.
_RUNNER = """
import json, os, sys
import vsync.cli, vsyncd.cli

results = os.fdopen(int(sys.argv[1]), "w")
def given(text):
    # Decodes as the interpreter decodes command lines, in any locale.
    return os.fsdecode(text.encode())

for name, arguments, environment in json.loads(os.environ.pop("COMMANDS")):
    sys.argv = [name, *map(given, arguments)]
    before = dict(os.environ)
    os.environ.update({variable: given(value) for variable, value in environment.items()})
    try:
        code = vsync.cli.main() if name == "vsync" else vsyncd.cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = repr(error)
    os.environ.clear()
    os.environ.update(before)
    results.write(json.dumps(code) + "\\n")
    results.flush()
"""
_SECONDS = 150


class Command(NamedTuple):
    """A command line."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The standard streams and the environment of a process."""

    out: Literal["pipe", "closed", "full", "unread"] = "pipe"
    err: Literal["pipe", "closed", "full", "terminal"] = "pipe"
    closed_stdin: bool = False
    encoding: str = "utf-8"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def redirections(self) -> str:
        """The redirections in the shell's syntax."""
        words = {"closed": "{}>&-", "full": "{}>/dev/full"}
        out, err = words.get(self.out, ""), words.get(self.err, "")
        return f"{out.format(1)} {err.format(2)} {'<&-' if self.closed_stdin else ''}"


class Ran(NamedTuple):
    """The exit codes of the commands, and the output of all of them."""

    codes: list[object]
    out: bytes
    err: bytes


def run_all(commands: Sequence[Command], streams: Streams, folder: Path, *, before: str = "") -> Ran:
    """Runs the commands one after the other, in `folder`, after `before` in Python."""
    result_reader, result_writer = os.pipe()
    words = [sys.executable, "-c", f"{before}\n{_RUNNER}", str(result_writer)]
    with (
        _Sink(streams.out) as out,
        _Sink(streams.err) as err,
        open(result_reader) as results,  # noqa: PTH123 - a descriptor has no path
    ):
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {streams.redirections}', "sh", *words],
            cwd=folder,
            env=os.environ | streams.environment | {"COMMANDS": json.dumps(commands)},
            stdin=subprocess.DEVNULL,
            stdout=out.descriptor,
            stderr=err.descriptor,
            pass_fds=[result_writer],
        )
        os.close(result_writer)
        out.read()
        err.read()
        process.wait(_SECONDS)
        codes = [json.loads(line) for line in results]
    return Ran(codes, out.data, err.data)


class _Sink:
    """The other end of a stream."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.data = b""

    def __enter__(self) -> Self:
        self._ours, self.descriptor = os.openpty() if self._kind == "terminal" else os.pipe()
        self._reader = threading.Thread(target=self._collect)
        return self

    def read(self) -> None:
        """Begins to read, except for `unread`. Call it after the process has received the descriptor."""
        os.close(self.descriptor)
        if self._kind == "unread":
            os.close(self._ours)
        else:
            self._reader.start()

    def __exit__(self, *_: object) -> None:
        if self._kind != "unread":
            self._reader.join()
            os.close(self._ours)

    def _collect(self) -> None:
        # Reading a terminal fails when its last writer has closed it.
        with contextlib.suppress(OSError):
            while piece := os.read(self._ours, 65536):
                self.data += piece


def leaves(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all commands below a click command that have no subcommands."""

    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), (*path, name))
