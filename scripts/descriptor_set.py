"""The descriptor set of the API, for programs that read no proto files: `python scripts/descriptor_set.py FILE`.

It contains every service, what they import, and google.rpc.Status with its error details. Hatchling runs this as a
build hook, which adds the set to the wheel as vsync/vsyncd.protoset.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STUBS = Path(__file__).resolve().parent.parent / "client"


def descriptor_set() -> bytes:
    """Returns the descriptors of the stubs, each file after those that it imports."""
    sys.path.insert(0, str(STUBS))
    modules = sorted(path.relative_to(STUBS).with_suffix("").parts for path in STUBS.rglob("*_pb2.py"))
    files = [import_module(".".join(parts)).DESCRIPTOR for parts in modules]
    found = FileDescriptorSet()
    seen: set[str] = set()
    for file in (*files, status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        for needed in _with_imports(file):
            if needed.name not in seen:
                seen.add(needed.name)
                needed.CopyToProto(found.file.add())
    return found.SerializeToString(deterministic=True)


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file


class DescriptorSetHook(BuildHookInterface[Any]):
    """Adds the descriptor set to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes the set into a temporary folder, from which hatchling copies it."""
        self._folder = TemporaryDirectory()
        if version != "editable":
            path = Path(self._folder.name) / "vsyncd.protoset"
            path.write_bytes(descriptor_set())
            build_data["force_include"][str(path)] = "vsync/vsyncd.protoset"

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """Removes the folder."""
        self._folder.cleanup()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(descriptor_set())
