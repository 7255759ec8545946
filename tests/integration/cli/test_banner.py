"""The banner of `vsyncd serve --embedded`, and its default addresses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.embedded_service import embedded_service
from tests.harness.http import get_now
from tests.harness.owners import until

ROOT = Path(__file__).parents[3]


def execute(command: str, folder: Path) -> str:
    """Returns the output of a shell command, which must succeed."""
    ran = subprocess.run(["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout


def test_on_a_terminal_the_banner_has_addresses_and_commands_that_work(folder: Path) -> None:
    ours, theirs = os.openpty()
    with embedded_service(folder, out=theirs) as service:
        os.close(theirs)
        until(service.is_ready)
        banner = b""
        while b"\n  reset " not in banner or not banner.endswith(b"\n"):
            banner += os.read(ours, 4096)
        os.close(ours)
        shown = dict(re.findall(r"^  (\w+) +(.+?)\r?$", banner.decode(), re.MULTILINE))
        assert list(shown) == ["gRPC", "HTTP", "admin", "try", "data", "SQL", "stop", "reset"]
        assert shown["gRPC"] == service.target
        assert "healthy" in execute(shown["try"], folder)
        assert shown["data"] == str(service.data_dir)
        count = "--no-psqlrc -Atc 'SELECT count(*) FROM cids'"
        assert execute(f"{shown['SQL']} {count}", folder) == "0\n"
        port, _, path = shown["HTTP"].split()[0].removeprefix("http://127.0.0.1:").partition("/")
        assert get_now(int(port), f"/{path}").json["status"] == "HEALTHY"
        metrics = shown["admin"].split()[0].removeprefix("http://127.0.0.1:")
        assert get_now(int(metrics.partition("/")[0]), "/metrics").status == 200
        reset = shown["reset"].partition("  (")[0]
        assert reset.startswith(f"make -C {ROOT} reset ")
        assert service.stop() == 0
    assert all(json.loads(line) for line in service.error.splitlines()), "the log contains only JSON"


@pytest.mark.soak
def test_the_option_prints_the_banner_to_a_file_of_another_encoding(folder: Path) -> None:
    data = folder / "ação"
    data.mkdir(mode=0o755)
    with embedded_service(data, "--banner", PYTHONIOENCODING="ascii") as service:
        until(service.is_ready)
        assert service.stop() == 0
        assert r"a\xe7\xe3o" in service.output


@pytest.mark.parametrize("fault", ["full disk", "closed pipe"])
def test_a_banner_that_cannot_be_written_is_no_error(tmp_path: Path, fault: str) -> None:
    program = """
from pathlib import Path
from vsyncd.app import Application
from vsyncd.cli.banner import print_banner
from vsyncd.domains.registry import load_settings
from vsyncd.embedded import EmbeddedPostgres
print_banner(Application(load_settings()), EmbeddedPostgres(Path("data")))
"""
    if fault == "full disk":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, out = os.pipe()
        os.close(reading)
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, check=False)
    os.close(out)
    assert (ran.returncode, ran.stderr) == (0, b"")
