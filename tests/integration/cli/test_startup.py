"""The modules that the vsyncd command imports."""

import json
import subprocess
import sys

import click
import pytest
from vsyncd.cli import command

_PRINT_MODULES = """
import json, sys
from vsync.cli.standard_streams import run_process
from vsyncd.cli.command import run
assert run(sys.argv[1:]) == 0
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(*arguments: str) -> set[str]:
    process = subprocess.run(
        [sys.executable, "-c", _PRINT_MODULES, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(process.stdout.splitlines()[-1]))


def test_the_help_imports_neither_grpc_nor_the_settings() -> None:
    assert not imported_by("--help") & {"grpc", "google.protobuf", "psycopg", "pydantic", "structlog", "vsync.client"}


def test_check_config_imports_neither_grpc_nor_the_client() -> None:
    assert not imported_by("check-config") & {"grpc", "google.protobuf", "structlog", "vsync.client"}


@pytest.mark.parametrize("name", command.vsyncd.list_commands(click.Context(command.vsyncd)))
def test_the_help_lists_the_first_sentence_of_each_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    listed = dict(line.split(maxsplit=1) for line in commands)
    loaded = command.vsyncd.get_command(click.Context(command.vsyncd), name)
    assert loaded is not None
    assert loaded.help is not None
    assert listed[name] == " ".join(loaded.help.partition("\n\n")[0].split())
