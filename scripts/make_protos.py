"""Generate the Python stubs of protos/ into a folder: `python scripts/make_protos.py client`.

grpcio-tools generates the modules, and mypy-protobuf their .pyi files with the protos' comments as docstrings.
"""

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"


def generate(target: Path) -> None:
    """Write every stub below `target`, as vsync/.... Raises RuntimeError if protoc fails."""
    target.mkdir(parents=True, exist_ok=True)
    _run_protoc(
        [
            f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).parent / 'protoc-gen-mypy_grpc'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
        ]
    )
    for folder in (target / "vsync").rglob("*"):
        if folder.is_dir() and folder.name != "__pycache__" and any(folder.rglob("*_pb2.py")):
            (folder / "__init__.py").touch()


def describe() -> FileDescriptorSet:
    """Returns the descriptors of every proto and of its imports. Raises RuntimeError as `generate` does."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "descriptors.binpb"
        _run_protoc(["--include_imports", f"--descriptor_set_out={target}"])
        return FileDescriptorSet.FromString(target.read_bytes())


def _run_protoc(options: Sequence[str]) -> None:
    includes = (f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}")
    protos = (str(path) for path in sorted(PROTOS.rglob("*.proto")))
    status = protoc.main(["protoc", *includes, *options, *protos])
    if status != 0:
        raise RuntimeError(f"protoc exited with {status}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "client")
