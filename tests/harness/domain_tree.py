"""A copy of the source tree with one more domain, and commands that run from the copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from vsyncd.domains.registry import settings_class

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "domains" / "notes"
REGISTRY = "server/vsyncd/domains/registry.py"
REGISTRY_LINE = '    RegisteredDomain("notes", "notes"),\n'
_COPIED = ("client", "server", "protos", "migrations", "scripts", "docs")
_FILES = ("pyproject.toml", "README.md", "buf.yaml")
_SCRIPTS = Path(sys.executable).parent


class DomainTree:
    """A copy of the source tree in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in _COPIED:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, root / name)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that runs from the copy, without the settings of this machine."""
        settings = {name.upper() for name in settings_class().model_fields}
        given = {name: value for name, value in os.environ.items() if name not in settings}
        given["PATH"] = f"{_SCRIPTS}{os.pathsep}{given['PATH']}"
        return given | {"PYTHONPATH": f"{self.root / 'client'}{os.pathsep}{self.root / 'server'}"}

    def add_example(self) -> None:
        """Adds the domain `notes`: its files, its line in the registry and its generated stubs."""
        shutil.copytree(EXAMPLE, self.root, dirs_exist_ok=True)
        self.register()
        self.run("python", "scripts/make_protos.py", "client")

    def register(self) -> None:
        """Adds the line of `notes` to the registry."""
        path = self.root / REGISTRY
        before, end, after = path.read_text().partition("\n)\n\nDOMAINS")
        assert end
        path.write_text(f"{before}\n{REGISTRY_LINE.rstrip()}{end}{after}")

    def run(self, *command: str, code: int = 0, settings: Mapping[str, str] = MappingProxyType({})) -> str:
        """Runs a command in the copy and returns its output."""
        ran = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | dict(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def files(self) -> dict[str, bytes]:
        """Returns the content of every file, by its path."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
