"""The embedded Valkey: folder, socket, and the end of its owner process."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from vsyncd.embedded import DataDirInUse, DataDirUnreachable, EmbeddedValkey, StartFailed, valkey

_OWNER = """
import sys
from pathlib import Path
from vsyncd.embedded import EmbeddedValkey
print(EmbeddedValkey(Path(sys.argv[1])).start_now(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Redis]:
    server = EmbeddedValkey(folder)
    try:
        with Redis.from_url(server.start_now()) as client:
            yield client
    finally:
        server.stop_now()


def process_of(client: Redis) -> psutil.Process:
    return psutil.Process(int(client.info("server")["process_id"]))


def test_it_listens_on_a_private_socket_and_stores_nothing(folder: Path) -> None:
    folder = folder / "valkey"
    with running(folder) as client:
        client.set("a", "b")
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
        path = Path(str(client.config_get("unixsocket")["unixsocket"]))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
        process = process_of(client)
    assert not process.is_running()
    with running(folder) as client:
        assert client.get("a") is None


class TestAsRoot:
    """Another user runs Valkey, as for PostgreSQL."""

    pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")

    def test_an_unprivileged_user_runs_the_server_and_its_guard(self, folder: Path) -> None:
        with running(folder / "valkey") as client:
            server = process_of(client)
            processes = children_in(folder / "valkey")
            assert server in processes
            assert len(processes) == 2
            assert [each for each in processes if 0 in {*each.uids(), *each.gids(), *groups_of(each)}] == []
            assert (folder / "valkey").stat().st_uid == 0
            assert (folder / "valkey" / "valkey.pid").stat().st_uid == 0

    def test_an_inaccessible_parent_is_named_and_keeps_its_mode(self, folder: Path) -> None:
        closed = folder / "home"
        closed.mkdir(mode=0o700)
        with pytest.raises(DataDirUnreachable, match=f"cannot enter {closed};"):
            EmbeddedValkey(closed / "valkey").start_now()
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_a_folder_of_a_server_that_ran_as_root_is_used_again(self, folder: Path) -> None:
        (folder / "valkey").mkdir(mode=0o700)
        (folder / "valkey" / "valkey.log").write_text("")
        with running(folder / "valkey") as client:
            assert client.ping()

    def test_a_program_in_an_inaccessible_folder_is_copied(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = folder / "home"
        closed.mkdir(mode=0o700)
        program = shutil.copy(valkey.binary(), closed)
        monkeypatch.setattr(valkey, "binary", lambda: Path(program))
        for _ in range(2):
            with running(folder / "valkey") as client:
                assert process_of(client).exe() == str(folder / "valkey" / "valkey-server")


def children_in(folder: Path) -> list[psutil.Process]:
    """Returns this process's children with this working directory."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.cwd() == str(folder) else []
    return found


def groups_of(process: psutil.Process) -> list[int]:
    """Returns the supplementary groups of a process."""
    (line,) = re.findall(r"^Groups:(.*)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return [int(group) for group in line.split()]


def test_a_long_path_works(folder: Path) -> None:
    with running(folder / ("long" * 30)) as client:
        assert client.ping()


def test_a_second_server_is_refused(folder: Path) -> None:
    with running(folder), pytest.raises(DataDirInUse):
        EmbeddedValkey(folder).start_now()


@pytest.fixture
def owner(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs an EmbeddedValkey."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_after_kill_9_of_its_owner_it_stops(folder: Path, owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    with Redis.from_url(owner.stdout.readline().strip()) as client:
        server = process_of(client)
    owner.kill()
    owner.wait()
    server.wait(timeout=30)
    with running(folder) as client:
        assert client.ping()


def test_an_orphaned_server_is_stopped_by_the_next_start(folder: Path, owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    with Redis.from_url(owner.stdout.readline().strip()) as client:
        orphan = process_of(client)
        (guard,) = (child for child in psutil.Process(owner.pid).children() if child.pid != orphan.pid)
        guard.kill()
        owner.kill()
        owner.wait()
        assert orphan.is_running()
        with running(folder) as second:
            assert process_of(second).pid != orphan.pid
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.wait(timeout=30)


def test_ctrl_c_in_the_terminal_does_not_reach_it(folder: Path) -> None:
    with running(folder) as client:
        process = process_of(client)
        assert os.getsid(process.pid) != os.getsid(0)


def test_the_error_of_a_failed_start_contains_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsyncd.embedded.valkey._SETTINGS", (("maxmemory", "much"),))
    with pytest.raises(StartFailed, match="maxmemory"):
        EmbeddedValkey(folder).start_now()
