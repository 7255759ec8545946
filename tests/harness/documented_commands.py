"""The commands and Python programs of a page, executed in order, and their outputs.

Ids, times and durations differ in each run and are replaced before a comparison.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SHOWN_TARGET = "localhost:50051"
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
# Patterns of text that differs in each run, and their replacements.
_CHANGING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    # The participant in the Python example is random, and the CID depends on it.
    (re.compile(r"(?<=^created \+5511987654321 with )[0-9a-f]{64}", re.MULTILINE), "<cid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"in [\d.]+ s, [\d,]+ records/s"), "in <time>"),
    (re.compile(r" +\d+ ms"), " <latency>"),
    (re.compile(r"latency +"), "latency "),
    (re.compile(r"(localhost|127\.0\.0\.1):\d+"), "<target>"),
    # Some builds of grpcurl write key_type in JSON, others keyType.
    (re.compile(r'(?<=[a-z0-9])[A-Z](?=[A-Za-z]*":)'), lambda found: f"_{found[0].lower()}"),
)


class Example(NamedTuple):
    """A command or program of a page, and the output that it shows."""

    command: list[str]
    shown: str

    @property
    def is_program(self) -> bool:
        """Whether this is a Python program."""
        return self.command[0] == sys.executable

    @property
    def can_run(self) -> bool:
        """Whether the program that it uses is installed, if that is grpcurl."""
        return not self.command[-1].startswith("grpcurl ") or shutil.which("grpcurl") is not None


def examples(text: str) -> Iterator[Example]:
    """Yields each `$ command` of a console block, and each Python block with the text after it, in order."""
    for kind, body, output in _BLOCK.findall(text):
        if kind == "python":
            yield Example([sys.executable, "-c", body], output)
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            lines = part.splitlines(keepends=True)
            length = _command_lines(lines)
            yield Example(["/bin/sh", "-c", "".join(lines[:length])], "".join(lines[length:]))


def normal(output: str) -> str:
    """Returns the output with replacements for text that differs in each run."""
    for form, replacement in _CHANGING:
        output = form.sub(replacement, output)
    return "\n".join(line.rstrip() for line in output.splitlines())


def run(example: Example, target: str, folder: Path) -> str:
    """Returns the output of an example."""
    command = [argument.replace(SHOWN_TARGET, target) for argument in example.command]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "VSYNC_TARGET": target, "COLUMNS": "100"}
    # Standard output and standard error together, as in a terminal.
    ran = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return ran.communicate(timeout=60)[0]


def _command_lines(lines: list[str]) -> int:
    """Returns the number of lines of the command at the beginning: it ends where its quotes are closed."""
    quotes = 0
    for number, line in enumerate(lines, 1):
        quotes += line.count("'")
        if quotes % 2 == 0:
            return number
    return len(lines)
