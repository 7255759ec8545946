"""The committed stubs are what the protos say."""

from pathlib import Path

from scripts.make_protos import generate

ROOT = Path(__file__).resolve().parents[3]


def test_the_stubs_are_made_from_the_protos_of_this_commit(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = _generated(tmp_path / "vsync")
    committed = _generated(ROOT / "client" / "vsync")
    assert fresh.keys() == committed.keys()
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, "run `make protos` and commit what it makes"


def _generated(package: Path) -> dict[str, str]:
    return {
        str(path.relative_to(package)): path.read_text()
        for path in sorted(package.rglob("*_pb2*.py*"))
        if path.suffix in {".py", ".pyi"}
    }
