"""A cluster's folder: made with initdb in one step, and freed of a server that outlived its vsyncd."""

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
from vsyncd.embedded.errors import EmbeddedError, IncompatibleData, InitFailed, StartFailed

CLUSTER = "postgres"
_UNFINISHED = f"{CLUSTER}.new-"
SUPERUSER = "vsync"
FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT  # PostgreSQL's shutdown modes
_FAST_SECONDS = 30
_IMMEDIATE_SECONDS = 10
_POLL_S = 0.02


def make_cluster(*, data_dir: Path, binaries: Path, account: Account, version: int, sync: bool) -> None:
    """Make the cluster unless it is there. Raises InitFailed, IncompatibleData.

    initdb works under another name and is renamed at its end, so that one that was killed is just begun anew.
    """
    cluster = data_dir / CLUSTER
    for unfinished in data_dir.glob(f"{_UNFINISHED}*"):
        # Errors are for the next start: an initdb whose vsyncd was killed may still be writing there.
        shutil.rmtree(unfinished, ignore_errors=True)
    if cluster.exists():
        _check_version(cluster, version)
        return
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data_dir))
    account.own(unfinished)
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
        # PostgreSQL's own collation, which no update of the operating system changes.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Trust: the socket's folder admits its owner only, and there is no other way in.
    command += ["--data-checksums", "--auth-local=trust", "--auth-host=reject"]
    command += [] if sync else ["--no-sync"]
    try:
        done = account.run(command, cwd=data_dir)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InitFailed(f"initdb could not be run for {cluster}: {error}") from error
    if done.returncode:
        raise InitFailed(f"initdb refused to make {cluster}:\n{done.stdout.strip()}")
    unfinished.rename(cluster)
    _sync_folder(data_dir)


def stop_leftovers(cluster: Path) -> None:
    """Stop every process of an earlier server of this cluster, and remove its pid file. Raises StartFailed."""
    _stop_orphan(cluster)
    kill_backends(cluster)


def kill_backends(cluster: Path) -> None:
    """Kill the children of a postmaster that was killed. Raises EmbeddedError if one does not end.

    They end by themselves once they notice, but a busy one may not for long, and a new server does not start while one
    is attached to the old shared memory. A transaction that one of them was committing is decided by crash recovery.
    """
    deadline = time.monotonic() + _IMMEDIATE_SECONDS
    while backends := [process for process in psutil.process_iter() if _is_backend(process, cluster)]:
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"process {backends[0].pid} of the last server over {cluster} does not end after SIGKILL"
            )
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.kill()
        time.sleep(_POLL_S)


def _is_backend(process: psutil.Process, cluster: Path) -> bool:
    """Whether it is a living child of a server of this cluster: they work in its folder, and set such a title."""
    try:
        return " ".join(process.cmdline()).startswith("postgres: ") and process.cwd() == str(cluster)
    except (psutil.Error, OSError):  # it has ended, or belongs to someone else
        return False


def _stop_orphan(cluster: Path) -> None:
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except FileNotFoundError:
        return
    except (IndexError, ValueError):
        pid_file.unlink()  # cut short by a crash of the machine
        return
    try:
        server = psutil.Process(pid)
        if str(cluster) in server.cmdline():
            stop_server(server)
        elif server.name() == "postgres":
            # Never guess here: two servers on one cluster destroy it.
            raise StartFailed(
                f"{pid_file} names process {pid}, a PostgreSQL of someone else: stop it or remove that file"
            )
    except psutil.NoSuchProcess:
        pass
    pid_file.unlink(missing_ok=True)


def stop_server(server: psutil.Process) -> None:
    """Stop a postmaster: disconnect everyone and check out properly; if that takes too long, at once."""
    for how, seconds in ((FAST, _FAST_SECONDS), (IMMEDIATE, _IMMEDIATE_SECONDS), (signal.SIGKILL, _IMMEDIATE_SECONDS)):
        try:
            server.send_signal(how)
            server.wait(timeout=seconds)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            pass
        return
    raise EmbeddedError(f"PostgreSQL (process {server.pid}) does not end, even after SIGKILL")


def _check_version(cluster: Path, version: int) -> None:
    try:
        found = (cluster / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise IncompatibleData(f"{cluster} is not a PostgreSQL cluster: {error.strerror} ({error.filename})") from error
    if found != str(version):
        raise IncompatibleData(
            f"{cluster} was made by PostgreSQL {found}, and this is {version}: "
            "dump it with the older one, or choose another data folder"
        )


def _sync_folder(path: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
