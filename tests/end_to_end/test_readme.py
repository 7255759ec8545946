"""What the README shows is what its reader will see: its commands and its Python run against a real server, in order.

Ids, times and durations differ from run to run, and are compared as such.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vsyncd.config.settings import LOOPBACK

from scripts.own_server import own_server

README = Path(__file__).parents[2] / "README.md"
SHOWN_TARGET = "localhost:50051"
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
# What changes from run to run, and what stands for it.
_CHANGING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    # The Python example's participant is random, and the CID depends on it.
    (re.compile(r"(?<=^created \+5511987654321 with )[0-9a-f]{64}", re.MULTILINE), "<cid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"in [\d.]+ s, [\d,]+ records/s"), "in <time>"),
    (re.compile(r" +\d+ ms"), " <latency>"),
    (re.compile(r"latency +"), "latency "),
    (re.compile(r"(localhost|127\.0\.0\.1):\d+"), "<target>"),
    # Some builds of grpcurl write JSON's names as the proto does, others keyType for key_type.
    (re.compile(r'(?<=[a-z])[A-Z](?=[A-Za-z]*":)'), lambda found: f"_{found[0].lower()}"),
)


class Example(NamedTuple):
    """Something to run, and what the README says that it prints."""

    command: list[str]
    shown: str

    @property
    def is_program(self) -> bool:
        """Whether it is one of the README's Python programs."""
        return self.command[0] == sys.executable


def examples(text: str) -> Iterator[Example]:
    """Those of a text, in order: each `$ command` of a console block, and each Python block with the text behind it."""
    for kind, body, output in _BLOCK.findall(text):
        if kind == "python":
            yield Example([sys.executable, "-c", body], output)
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield Example(["/bin/sh", "-c", command], shown)


def normal(output: str) -> str:
    """An output without what changes from run to run."""
    for form, stands_for_it in _CHANGING:
        output = form.sub(stands_for_it, output)
    return "\n".join(line.rstrip() for line in output.splitlines())


def run(example: Example, target: str, folder: Path) -> str:
    """What it prints."""
    command = [argument.replace(SHOWN_TARGET, target) for argument in example.command]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "VSYNC_TARGET": target, "COLUMNS": "100"}
    # Both outputs, as a terminal shows them.
    ran = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return ran.communicate(timeout=60)[0]


async def test_what_the_readme_shows_is_what_its_reader_sees(tmp_path: Path) -> None:
    there = [example for example in examples(README.read_text()) if _can_run(example)]
    assert sum("vsync " in example.command[-1] for example in there) >= 5
    assert any("import vsync" in example.command[-1] for example in there)
    async with own_server() as target:
        for example in there:
            # A reader runs the program again, over the data of the first time.
            for _ in range(2 if example.is_program else 1):
                assert normal(run(example, target, tmp_path)) == normal(example.shown), example.command[-1]


def test_the_readme_names_the_addresses_that_make_run_listens_on() -> None:
    text = README.read_text()
    for address in LOOPBACK.values():
        assert address.replace("127.0.0.1", "localhost") in text
    assert LOOPBACK["grpc_listen"] == SHOWN_TARGET.replace("localhost", "127.0.0.1")


def _can_run(example: Example) -> bool:
    """grpcurl is shown, and need not be there."""
    return not example.command[-1].startswith("grpcurl ") or shutil.which("grpcurl") is not None
