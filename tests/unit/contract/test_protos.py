"""The committed stubs match the protos, and every proto declares what clients and access control need."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from vsync.access.v1.access_pb2 import Role, role

from scripts.make_protos import PROTOS, describe, generate

ROOT = Path(__file__).resolve().parents[3]


def test_the_stubs_are_made_from_the_protos_of_this_commit(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = _generated(tmp_path / "vsync")
    committed = _generated(ROOT / "client" / "vsync")
    assert fresh.keys() == committed.keys()
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, "run `make protos` and commit what it makes"


ROLES = {"ROLE_PUBLIC", "ROLE_READER", "ROLE_WRITER", "ROLE_SYNC", "ROLE_AUDITOR", "ROLE_OPERATOR"}
LANGUAGE_OPTIONS = (
    "csharp_namespace",
    "go_package",
    "java_multiple_files",
    "java_package",
    "php_namespace",
    "ruby_package",
)


@pytest.fixture(scope="module")
def files() -> list[descriptor_pb2.FileDescriptorProto]:
    """The descriptors of every file in protos/."""
    ours = {str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")}
    return [file for file in describe().file if file.name in ours]


def test_every_method_declares_the_role_that_it_needs(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    roles = {
        f"{file.package}.{service.name}/{method.name}": Role.Name(method.options.Extensions[role])
        for file in files
        for service in file.service
        for method in service.method
    }
    assert roles
    assert {method: found for method, found in roles.items() if found not in ROLES} == {}


def test_every_file_names_its_package_in_other_languages(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    missing = {
        file.name: [option for option in LANGUAGE_OPTIONS if not file.options.HasField(option)]  # type: ignore[arg-type]
        for file in files
    }
    assert {name: options for name, options in missing.items() if options} == {}


def _generated(package: Path) -> dict[str, str]:
    return {
        str(path.relative_to(package)): path.read_text()
        for path in sorted(package.rglob("*_pb2*.py*"))
        if path.suffix in {".py", ".pyi"}
    }
