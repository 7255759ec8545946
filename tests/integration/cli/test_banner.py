"""What `vsyncd serve --embedded` tells people once it serves, and where it listens by default."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.embedded_service import EmbeddedService, embedded_service
from tests.harness.http import get_now
from tests.harness.owners import until

ROOT = Path(__file__).parents[3]


def rows(service: EmbeddedService) -> dict[str, str]:
    """The banner's lines by their names."""
    return dict(re.findall(r"^  (\w+) +(.+)$", service.output, re.MULTILINE))


def execute(command: str, folder: Path) -> str:
    """What a shell command prints; it has to succeed."""
    ran = subprocess.run(["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout


def test_the_banner_has_addresses_and_commands_that_work(folder: Path) -> None:
    with embedded_service(folder, "--banner") as service:
        until(service.is_ready)
        shown = rows(service)
        assert list(shown) == ["gRPC", "HTTP", "try", "data", "SQL", "stop", "reset"]
        assert shown["gRPC"] == service.target
        assert "healthy" in execute(shown["try"], folder)
        assert shown["data"] == str(service.data_dir)
        count = "--no-psqlrc -Atc 'SELECT count(*) FROM cids'"
        assert execute(f"{shown['SQL']} {count}", folder) == "0\n"
        port, _, path = shown["HTTP"].split()[0].removeprefix("http://127.0.0.1:").partition("/")
        assert get_now(int(port), f"/{path}").json["status"] == "HEALTHY"
        reset = shown["reset"].partition("  (")[0]
        assert reset.startswith(f"make -C {ROOT} reset ")
        assert service.stop() == 0
    assert all(json.loads(line) for line in service.error.splitlines()), "the log is not mixed with it"


def test_without_a_terminal_nothing_is_printed(folder: Path) -> None:
    with embedded_service(folder) as service:
        until(service.is_ready)
        assert service.stop() == 0
        assert service.output == ""


def test_on_a_terminal_it_is_printed(folder: Path) -> None:
    ours, theirs = os.openpty()
    with embedded_service(folder, out=theirs) as service:
        os.close(theirs)
        service.await_event("serving")
        seen = b""
        while b"reset" not in seen:
            seen += os.read(ours, 4096)
    os.close(ours)
    assert b"vsyncd is ready." in seen


@pytest.mark.parametrize("fault", ["encoding", "full disk", "closed pipe"])
def test_it_serves_though_the_banner_cannot_be_written(folder: Path, fault: str) -> None:
    data = folder / "ação"
    data.mkdir()
    data.chmod(0o755)
    if fault == "encoding":
        out = os.open(folder / "printed", os.O_WRONLY | os.O_CREAT)
    elif fault == "full disk":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, out = os.pipe()
        os.close(reading)
    with embedded_service(data, "--banner", out=out, PYTHONIOENCODING="ascii") as service:
        os.close(out)
        until(service.is_ready)
        assert service.stop() == 0
        assert "Traceback" not in service.error
    if fault == "encoding":
        assert r"a\xe7\xe3o" in (folder / "printed").read_text()
