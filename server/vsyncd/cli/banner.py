"""What `vsyncd serve --embedded` prints for people once it serves."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from vsyncd.app import Application
from vsyncd.cli.embedded import embedded_data_dir, source_checkout
from vsyncd.config.endpoints import HostPort, parse_host_port
from vsyncd.embedded import EmbeddedPostgres

_DEFAULT_PORT: Final = 50051
_LOCAL_HOSTS: Final = ("127.0.0.1", "localhost", "0.0.0.0", "::", "::1")  # noqa: S104 - nothing is bound here


def print_banner(application: Application, postgres: EmbeddedPostgres) -> None:
    """Print it to standard output. The service does not depend on whether anybody reads it."""
    text = banner(application, postgres).encode(sys.stdout.encoding, "backslashreplace")
    # Past Python's buffer, which is flushed again at the exit: a closed pipe or a full disk must not fail the service.
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), text)


def banner(application: Application, postgres: EmbeddedPostgres) -> str:
    """Addresses, the next command, the data folder, how to look into it, how to stop and how to start afresh."""
    grpc = _address(application.settings.grpc_listen, application.port)
    http = _address(application.settings.http_listen, application.http_port)
    rows = (
        ("gRPC", str(grpc)),
        ("HTTP", f"http://{http}/health  (also /live, /ready, /metrics)"),
        ("try", _next_command(grpc)),
        ("data", str(postgres.data_dir)),
        ("SQL", f"{_program('psql', postgres.binaries)} {shlex.quote(postgres.conninfo)}"),
        ("stop", "Ctrl-C; the data is kept"),
        ("reset", f"{_reset_command(postgres.data_dir)}  (once stopped; deletes the data)"),
    )
    return "\n".join(["", "vsyncd is ready.", "", *(f"  {name:<6} {text}" for name, text in rows), ""])


def _address(listen: str, port: int) -> HostPort:
    """The configured host and the real port, also where a free one was taken; a socket's path is shown as it is."""
    return HostPort(parse_host_port(listen).host, port)


def _next_command(grpc: HostPort) -> str:
    command = f"{_program('vsync', Path(sys.argv[0]).parent)} health"
    if grpc.host in _LOCAL_HOSTS:
        return command if grpc.port == _DEFAULT_PORT else f"{command} --target localhost:{grpc.port}"
    return f"{command} --target {shlex.quote(str(grpc))}"


def _reset_command(data_dir: Path) -> str:
    checkout = source_checkout()
    if checkout is None:
        return f"rm -r {shlex.quote(str(data_dir))}"
    make = "make reset" if checkout == Path.cwd() else f"make -C {shlex.quote(str(checkout))} reset"
    if data_dir == embedded_data_dir(None).resolve():
        return make
    return f"{make} ARGS={shlex.quote(f'--data-dir {shlex.quote(str(data_dir))}')}"


def _program(name: str, folder: Path) -> str:
    """How to call a program: by its name if the shell finds one, else by its path in `folder`."""
    return name if shutil.which(name) else shlex.quote(_shown(folder / name))


def _shown(path: Path) -> str:
    """A path, relative to the working folder where it is below that."""
    path = path.absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
