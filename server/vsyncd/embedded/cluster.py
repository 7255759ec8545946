"""The folder of a PostgreSQL cluster: atomic initdb, and the end of servers whose vsyncd was killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from vsyncd.embedded.account import Account
from vsyncd.embedded.errors import EmbeddedError, StartFailed

CLUSTER = "postgres"
_UNFINISHED = f"{CLUSTER}.new-"
SUPERUSER = "vsync"
FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT  # PostgreSQL's shutdown modes
_FAST_TIMEOUT_S = 30
_IMMEDIATE_TIMEOUT_S = 10
_POLL_S = 0.02


def make_cluster(*, data_dir: Path, binaries: Path, account: Account, version: int, sync: bool) -> None:
    """Create the cluster if it does not exist. Raises EmbeddedError.

    initdb writes to a temporary folder, which is renamed at the end: after a kill, the next start begins again.
    """
    cluster = data_dir / CLUSTER
    for unfinished in data_dir.glob(f"{_UNFINISHED}*"):
        # The next start tries again: an initdb whose vsyncd was killed may still be writing.
        shutil.rmtree(unfinished, ignore_errors=True)
    if cluster.exists():
        _check_version(cluster, version)
        return
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data_dir))
    account.chown(unfinished)
    command: list[str | Path] = [
        binaries / "initdb",
        "-D",
        unfinished,
        "-U",
        SUPERUSER,
        "--encoding=UTF8",
        "--locale=C",
    ]
    if version >= 17:
        # PostgreSQL's own collation does not change with the operating system's libraries.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Trust: only the owner can enter the socket's folder, and the server does not listen to the network.
    command += ["--data-checksums", "--auth-local=trust", "--auth-host=reject"]
    command += [] if sync else ["--no-sync"]
    try:
        done = account.run(command, cwd=data_dir)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedError(f"initdb cannot be run for {cluster}: {error}") from error
    if done.returncode:
        raise EmbeddedError(f"initdb failed for {cluster}:\n{done.stdout.strip()}")
    unfinished.rename(cluster)
    _sync_folder(data_dir)


def stop_leftovers(cluster: Path) -> None:
    """Stop all processes of a previous server of this cluster, and remove its pid file. Raises StartFailed."""
    _stop_orphan(cluster)
    kill_backends(cluster)


def kill_backends(cluster: Path) -> None:
    """Kill the children of a killed postmaster. Raises EmbeddedError if one does not end.

    Children end when they notice the loss, which a busy one may do late, and no new server starts while one is attached
    to the old shared memory. Crash recovery decides about the transactions that were being committed.
    """
    deadline = time.monotonic() + _IMMEDIATE_TIMEOUT_S
    while backends := [process for process in psutil.process_iter() if _is_backend(process, cluster)]:
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"process {backends[0].pid} of the previous server of {cluster} does not end after SIGKILL"
            )
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.kill()
        time.sleep(_POLL_S)


def _is_backend(process: psutil.Process, cluster: Path) -> bool:
    """Whether the process is a child of a server of this cluster, by its title and working folder."""
    try:
        return " ".join(process.cmdline()).startswith("postgres: ") and process.cwd() == str(cluster)
    except (psutil.Error, OSError):  # it has ended, or belongs to another user
        return False


def _stop_orphan(cluster: Path) -> None:
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except FileNotFoundError:
        return
    except (IndexError, ValueError):
        pid_file.unlink()  # truncated by a crash of the machine
        return
    try:
        server = psutil.Process(pid)
        if str(cluster) in server.cmdline():
            stop_server(server)
        elif server.name() == "postgres":
            # Two servers of one cluster would destroy it.
            raise StartFailed(
                f"{pid_file} contains the process id of another PostgreSQL ({pid}): stop it or remove that file"
            )
    except psutil.NoSuchProcess:
        pass
    pid_file.unlink(missing_ok=True)


def stop_server(server: psutil.Process) -> None:
    """Stop a postmaster with a fast shutdown, then an immediate shutdown, then SIGKILL. Raises EmbeddedError."""
    for signal_number, timeout_s in (
        (FAST, _FAST_TIMEOUT_S),
        (IMMEDIATE, _IMMEDIATE_TIMEOUT_S),
        (signal.SIGKILL, _IMMEDIATE_TIMEOUT_S),
    ):
        try:
            server.send_signal(signal_number)
            server.wait(timeout=timeout_s)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            pass
        return
    raise EmbeddedError(f"PostgreSQL (process {server.pid}) does not end after SIGKILL")


def _check_version(cluster: Path, version: int) -> None:
    try:
        found = (cluster / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise EmbeddedError(f"{cluster} is not a PostgreSQL cluster: {error.strerror} ({error.filename})") from error
    if found != str(version):
        raise EmbeddedError(
            f"{cluster} was created by PostgreSQL {found}, and this is {version}: "
            "dump it with the older version, or choose another data folder"
        )


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
