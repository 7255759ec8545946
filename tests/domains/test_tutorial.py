"""docs/domains.md, executed: its files, its commands and its programs, in order, in a copy of the source tree."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.own_server import own_server
from tests.harness.domain_tree import EXAMPLE, REGISTRY_LINE, ROOT, DomainTree

TUTORIAL = (ROOT / "docs" / "domains.md").read_text()
_FILE = re.compile(r"^`([^`]+)`:\n\n```\w+\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^```console\n\$ (.*?)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"^```python\n(import vsync\n.*?)^```\n\n```text\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_CHANGING = (
    re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"),
)


def normal(output: str) -> str:
    """Returns an output without ids and times. Some builds of grpcurl write createdAt."""
    for form in _CHANGING:
        output = form.sub("", output)
    return output.replace("createdAt", "created_at").strip()


def test_it_shows_every_file_of_the_example_as_it_is() -> None:
    shown = {name: text for name, text in _FILE.findall(TUTORIAL) if (EXAMPLE / name).exists()}
    files = {str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".sql", ".proto"}}
    assert shown.keys() == files
    assert {name for name, text in shown.items() if text != (EXAMPLE / name).read_text()} == set()


@pytest.mark.soak
async def test_it_ends_with_a_served_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = DomainTree(tmp_path)
    for name, text in _FILE.findall(TUTORIAL):
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_text(text)
    assert f"+{REGISTRY_LINE}" in TUTORIAL
    tree.register()
    commands = _COMMAND.findall(TUTORIAL)
    assert len(commands) == 3
    for command, shown in commands[:2]:
        # The list of known domains is abbreviated.
        assert re.fullmatch(re.escape(shown).replace(re.escape("..."), "[a-z_, ]+"), run(tree, command))
    assert "\nDOMAINS=all vsyncd serve --embedded\n" in TUTORIAL
    monkeypatch.setenv("PYTHONPATH", tree.environment["PYTHONPATH"])
    async with own_server(DOMAINS="all") as target:
        command, shown = commands[2]
        if shutil.which("grpcurl"):
            assert normal(run(tree, command.replace("localhost:50051", target))) == normal(shown)
        else:
            create = "note=notes_pb2.Note(title='milk', text='two litres')"
            program = _PROGRAM.findall(TUTORIAL)[0][0].replace(
                "    for note in", f"    notes.CreateNote(notes_pb2.CreateNoteRequest({create}))\n    for note in"
            )
            tree.run("python", "-c", program.replace("localhost:50051", target))
        ((program, shown),) = _PROGRAM.findall(TUTORIAL)
        assert tree.run("python", "-c", program.replace("localhost:50051", target)) == shown


def run(tree: DomainTree, command: str) -> str:
    """Runs a command of the shell and returns its output."""
    ran = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tree.root, env=tree.environment, capture_output=True, text=True, check=False
    )
    return ran.stdout + ran.stderr
