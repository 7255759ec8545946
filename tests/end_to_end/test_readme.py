"""Runs the README's commands and Python programs in order against a real server and compares their output.

Ids, times and durations differ in each run and are replaced before the comparison.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vsyncd.config import Settings

from scripts.own_server import own_server

README = Path(__file__).parents[2] / "README.md"
SHOWN_TARGET = "localhost:50051"
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
# Patterns of text that differs in each run, and their replacements.
_CHANGING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    # The participant in the Python example is random, and the CID depends on it.
    (re.compile(r"(?<=^created \+5511987654321 with )[0-9a-f]{64}", re.MULTILINE), "<cid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"in [\d.]+ s, [\d,]+ records/s"), "in <time>"),
    (re.compile(r" +\d+ ms +"), " <latency> "),
    (re.compile(r"latency +"), "latency "),
    (re.compile(r"(localhost|127\.0\.0\.1):\d+"), "<target>"),
    # Some builds of grpcurl write key_type in JSON, others keyType.
    (re.compile(r'(?<=[a-z])[A-Z](?=[A-Za-z]*":)'), lambda found: f"_{found[0].lower()}"),
)


class Example(NamedTuple):
    """A command or program of the README, and the output that it shows."""

    command: list[str]
    shown: str

    @property
    def is_program(self) -> bool:
        """Whether this is a Python program."""
        return self.command[0] == sys.executable


def examples(text: str) -> Iterator[Example]:
    """Yields each `$ command` of a console block, and each Python block with the text after it, in order."""
    for kind, body, output in _BLOCK.findall(text):
        if kind == "python":
            yield Example([sys.executable, "-c", body], output)
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield Example(["/bin/sh", "-c", command], shown)


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


async def test_the_readme_shows_the_real_output(tmp_path: Path) -> None:
    runnable = [example for example in examples(README.read_text()) if _can_run(example)]
    assert sum("vsync " in example.command[-1] for example in runnable) >= 5
    assert any("import vsync" in example.command[-1] for example in runnable)
    async with own_server() as target:
        for example in runnable:
            # A reader may run a program again, with the data of the first run.
            for _ in range(2 if example.is_program else 1):
                assert normal(run(example, target, tmp_path)) == normal(example.shown), example.command[-1]


def test_the_readme_names_the_addresses_that_make_run_listens_on() -> None:
    text = README.read_text()
    listen = {name: Settings.model_fields[name].default for name in ("grpc_listen", "http_listen")}
    for address in listen.values():
        assert address.replace("127.0.0.1", "localhost") in text
    assert listen["grpc_listen"] == SHOWN_TARGET.replace("localhost", "127.0.0.1")


def _can_run(example: Example) -> bool:
    """Examples with grpcurl run only if it is installed."""
    return not example.command[-1].startswith("grpcurl ") or shutil.which("grpcurl") is not None
