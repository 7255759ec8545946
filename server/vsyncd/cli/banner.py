"""The text that `vsyncd serve --embedded` prints when the service is ready."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from vsyncd.app import Application
from vsyncd.cli.options import embedded_data_dir, source_checkout
from vsyncd.config.endpoints import HostPort, parse_host_port
from vsyncd.embedded import EmbeddedPostgres
from vsyncd.http.listeners import admin_address

_DEFAULT_PORT: Final = 50051
_LOCAL_HOSTS: Final = ("127.0.0.1", "localhost", "0.0.0.0", "::", "::1")  # noqa: S104 - nothing is bound here


def print_banner(application: Application, postgres: EmbeddedPostgres) -> None:
    """Prints the banner to standard output. Write errors do not affect the service."""
    text = banner(application, postgres).encode(sys.stdout.encoding, "backslashreplace")
    # Bypasses Python's buffer, which is flushed again at exit and would fail on a closed pipe or a full disk.
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), text)


def banner(application: Application, postgres: EmbeddedPostgres) -> str:
    """Returns addresses and the commands to try next, to query the database, to stop and to reset."""
    grpc = _address(application.settings.grpc_listen, application.port)
    http = _address(application.settings.http_listen, application.http.port)
    admin = _address(admin_address(application.settings), application.http.admin_port)
    rows = (
        ("gRPC", str(grpc)),
        ("HTTP", f"http://{http}/health  (also /live, /ready)"),
        ("admin", f"http://{admin}/metrics  (also /health/detailed)"),
        ("try", _next_command(grpc)),
        ("data", str(postgres.data_dir)),
        ("SQL", f"{_program('psql', postgres.binaries)} {shlex.quote(postgres.conninfo)}"),
        ("stop", "Ctrl-C; the data is kept"),
        ("reset", f"{_reset_command(postgres.data_dir)}  (stop the service first; deletes the data)"),
    )
    return "\n".join(["", "vsyncd is ready.", "", *(f"  {name:<6} {text}" for name, text in rows), ""])


def _address(listen: str, port: int) -> HostPort:
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
    """Returns the name of a program if it is on PATH, or else its path in `folder`."""
    return name if shutil.which(name) else shlex.quote(_shown(folder / name))


def _shown(path: Path) -> str:
    """Returns the path, relative to the working directory if it is inside it."""
    path = path.absolute()
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
