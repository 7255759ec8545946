"""Runs the README's commands and Python programs in order against a real server and compares their output."""

from pathlib import Path

from vsyncd.config.settings import LOOPBACK

from scripts.own_server import own_server
from tests.harness.documented_commands import SHOWN_TARGET, examples, normal, run

README = Path(__file__).parents[2] / "README.md"


async def test_the_readme_shows_the_real_output(tmp_path: Path) -> None:
    runnable = [example for example in examples(README.read_text()) if example.can_run]
    assert sum("vsync " in example.command[-1] for example in runnable) >= 5
    assert any("import vsync" in example.command[-1] for example in runnable)
    async with own_server() as target:
        for example in runnable:
            # A reader may run a program again, with the data of the first run.
            for _ in range(2 if example.is_program else 1):
                assert normal(run(example, target, tmp_path)) == normal(example.shown), example.command[-1]


def test_the_readme_names_the_addresses_that_make_run_listens_on() -> None:
    text = README.read_text()
    for address in LOOPBACK.values():
        assert address.replace("127.0.0.1", "localhost") in text
    assert LOOPBACK["grpc_listen"] == SHOWN_TARGET.replace("localhost", "127.0.0.1")
