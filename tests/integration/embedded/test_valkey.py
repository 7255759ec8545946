"""The embedded Valkey: folder, socket, and the end of its owner process."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from vsyncd.embedded import DataDirInUse, EmbeddedValkey, StartFailed

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


def test_it_listens_on_a_private_socket_and_stores_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "valkey"
    with running(folder) as client:
        client.set("a", "b")
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
        path = Path(str(client.config_get("unixsocket")["unixsocket"]))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_mode & 0o777 == 0o700
        process = process_of(client)
    assert not process.is_running()
    with running(folder) as client:
        assert client.get("a") is None


def test_a_long_path_works(tmp_path: Path) -> None:
    with running(tmp_path / ("long" * 30)) as client:
        assert client.ping()


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    with running(tmp_path), pytest.raises(DataDirInUse):
        EmbeddedValkey(tmp_path).start_now()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs an EmbeddedValkey."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_after_kill_9_of_its_owner_it_stops(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    with Redis.from_url(owner.stdout.readline().strip()) as client:
        server = process_of(client)
    owner.kill()
    owner.wait()
    server.wait(timeout=30)
    with running(tmp_path) as client:
        assert client.ping()


def test_an_orphaned_server_is_stopped_by_the_next_start(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    with Redis.from_url(owner.stdout.readline().strip()) as client:
        orphan = process_of(client)
        (guard,) = (child for child in psutil.Process(owner.pid).children() if child.pid != orphan.pid)
        guard.kill()
        owner.kill()
        owner.wait()
        assert orphan.is_running()
        with running(tmp_path) as second:
            assert process_of(second).pid != orphan.pid
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.wait(timeout=30)


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        process = process_of(client)
        assert os.getsid(process.pid) != os.getsid(0)


def test_the_error_of_a_failed_start_contains_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsyncd.embedded.valkey._SETTINGS", (("maxmemory", "much"),))
    with pytest.raises(StartFailed, match="maxmemory"):
        EmbeddedValkey(tmp_path).start_now()
