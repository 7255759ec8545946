"""The wheel contains everything that is needed to serve, nothing else, and serves."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import vsync
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from vsync.v1 import server_pb2
from vsyncd.migrate import latest_versions

from scripts.own_server import own_server
from tests.harness.clusters import Database

ROOT = Path(__file__).parents[2]


# Without `site` no .pth file is read, and so no editable install is on the path.
PYTHON = (sys.executable, "-S")


def path_with(package: Path) -> str:
    """Returns a PYTHONPATH with an unpacked wheel and the installed dependencies."""
    return os.pathsep.join([str(package), *site.getsitepackages()])


def packages_of(folder: Path) -> list[Path]:
    """Returns where a process in this folder finds the packages."""
    program = "import vsync, vsyncd; print(vsync.__file__, vsyncd.__file__)"
    ran = subprocess.run([*PYTHON, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return [Path(path) for path in ran.stdout.split()]


def test_the_editable_install_is_not_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", path_with(tmp_path))
    ran = subprocess.run(
        [*PYTHON, "-c", "import vsyncd.cli"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "No module named 'vsyncd.cli'" in ran.stderr


def test_the_wheel_has_the_stubs_of_every_proto(wheel: Path) -> None:
    protos = {path.relative_to(ROOT / "protos").with_suffix("") for path in (ROOT / "protos").rglob("*.proto")}
    with ZipFile(wheel) as archive:
        stubs = {name for name in archive.namelist() if "_pb2" in name}
    suffixes = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    assert stubs == {f"{proto}{suffix}" for proto in protos for suffix in suffixes}


def test_the_wheel_has_the_descriptors_of_every_service_and_of_error_details(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        found = FileDescriptorSet.FromString(archive.read("vsync/vsyncd.protoset"))
    known: set[str] = set()
    for file in found.file:
        # A reader can add the files in this order.
        assert known.issuperset(file.dependency)
        known.add(file.name)
    protos = {path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto")}
    assert known >= protos | {"google/rpc/status.proto", "google/rpc/error_details.proto"}


def test_the_wheel_has_the_two_packages_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert folders == {"vsync", "vsyncd", f"vsyncd-{vsync.__version__}.dist-info"}


def test_the_wheel_has_every_statement_and_every_migration(wheel: Path) -> None:
    queries = {path.relative_to(ROOT / "server").as_posix() for path in (ROOT / "server").rglob("*.sql")}
    migrations = {f"vsyncd/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "migrations").rglob("*.sql")}
    assert queries
    assert migrations
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".sql")} == queries | migrations


async def test_the_wheel_migrates_and_serves(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    monkeypatch.setenv("PYTHONPATH", path_with(tmp_path))
    assert [path.parent.parent for path in packages_of(tmp_path)] == [tmp_path, tmp_path]
    async with own_server(python=PYTHON, DOMAINS="all") as target, vsync.connect(target) as client:
        info = (await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())).info
    assert info.version == vsync.__version__
    assert {each.set: each.version for each in info.schema_versions} == latest_versions(None)


@pytest.mark.soak
def test_the_wheels_command_migrates_and_maintains_without_the_source_tree(
    wheel: Path, tmp_path: Path, empty_database: Database
) -> None:
    package, elsewhere = tmp_path / "package", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with ZipFile(wheel) as archive:
        archive.extractall(package)

    def vsyncd(*arguments: str, code: int = 0, **environment: str) -> str:
        ran = subprocess.run(
            [*PYTHON, "-c", "from vsyncd.cli import main; main()", *arguments],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": path_with(package), "DATABASE_URL": empty_database.owner_url} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    plan = json.loads(vsyncd("migrate", "up", "--dry-run", "--json"))
    shipped = package / "vsyncd" / "migrations"
    assert {Path(step["path"]).parent for step in plan} == {shipped / "core", shipped / "vsync"}
    assert vsyncd("migrate", "up").count("up   ") == len(plan)
    assert {each["state"] for each in json.loads(vsyncd("migrate", "status", "--json"))} == {"applied"}
    vsyncd("maintain")
    # Installed files must not be changed. The operator's own sets may be.
    assert "DB_MIGRATE_PATH" in vsyncd("migrate", "create", "mine", code=1)
    created = vsyncd("migrate", "create", "mine", "--set", "own", DB_MIGRATE_PATH=str(elsewhere))
    assert Path(created.split()[0]) == elsewhere / "own" / "000001_mine.up.sql"
