"""Tells PostgreSQL's programs where to connect, and with which password: on no command line, in no environment."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from vsyncd.backup.errors import DatabaseFailed

# What PostgreSQL's programs need of our environment; none of our own settings, which hold secrets.
_KEPT: Final = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "KRB5CCNAME", "KRB5_CONFIG")
# libpq sends these after the connection string's options, so that they would win over them.
_IGNORED: Final = ("PGPASSWORD", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ")
_SERVICE: Final = "vsyncd"
# What isspace() takes in the locale C.
_SPACE: Final = " \t\n\v\f\r"
DBNAME: Final = f"--dbname=service={_SERVICE}"
# Where a process finds the files that it inherited. On Linux each opening begins at the file's beginning, as every
# connection needs it; elsewhere they share one position.
_DESCRIPTORS: Final = Path("/proc/self/fd")


class Credentials(NamedTuple):
    """The environment of a program that connects as `service=vsyncd`, and the descriptors that it has to inherit."""

    environment: Mapping[str, str]
    holding: Sequence[int]


@contextlib.contextmanager
def credentials(conninfo: str, options: str | None = None) -> Iterator[Credentials]:
    """For as long as the context lasts. Host, user and all else stand in a service file, the password in a PGPASSFILE.
    `options` are the PGOPTIONS: a line of a service file holds a thousand characters at most.

    On Linux neither has a name: they are memory, and go with the last process that has them, kill -9 or not. Elsewhere
    they are 0600 in a temporary folder. Raises DatabaseFailed.
    """
    require_tellable(conninfo)
    parameters = _parameters(conninfo)
    password = parameters.pop("password", None)
    ignored = {*_IGNORED, *_left_empty(conninfo)}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (name.startswith("PG") and name not in ignored)
    }
    if options is not None:
        environment["PGOPTIONS"] = options
    files = {
        "PGSERVICEFILE": "".join([f"[{_SERVICE}]\n", *(f"{name}={value}\n" for name, value in parameters.items())])
    }
    if password is not None:
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        files["PGPASSFILE"] = f"*:*:*:*:{escaped}\n"
    with contextlib.ExitStack() as stack:
        paths, holding = _in_memory(files, stack) if _DESCRIPTORS.is_dir() else _in_folder(files, stack)
        yield Credentials(environment | {"LC_ALL": "C"} | paths, holding)


def require_tellable(conninfo: str) -> None:
    """Raises DatabaseFailed for what a service file cannot hold: libpq takes a line's end for the value's, without the
    white space in front of it (parseServiceFile of fe-connect.c)."""
    for name, value in _parameters(conninfo).items():
        if name != "password" and ("\n" in value or value != value.rstrip(_SPACE)):
            raise DatabaseFailed(
                f"pg_dump and pg_restore cannot be told of a {name} with a line's end, or white space at its end"
            )


def _left_empty(conninfo: str) -> set[str]:
    """The environment variables of the parameters that a connection string leaves empty on purpose."""
    return {
        option.envvar.decode()
        for option in pq.Conninfo.parse(conninfo.encode())
        if option.val == b"" and option.envvar is not None
    }


def _parameters(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value not in {None, ""}}


def _in_memory(files: Mapping[str, str], stack: contextlib.ExitStack) -> tuple[dict[str, str], list[int]]:
    paths, holding = {}, []
    for name, text in files.items():
        descriptor = os.memfd_create(name)
        stack.callback(os.close, descriptor)
        os.fchmod(descriptor, 0o600)  # libpq takes no password that others could read
        os.write(descriptor, text.encode())
        holding.append(descriptor)
        paths[name] = str(_DESCRIPTORS / str(descriptor))
    return paths, holding


def _in_folder(files: Mapping[str, str], stack: contextlib.ExitStack) -> tuple[dict[str, str], list[int]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vsyncd-")))  # made 0700
    for name, text in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(text)
    return {name: str(folder / name) for name in files}, []
