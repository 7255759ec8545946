"""Runs a vsyncd process with embedded servers in a temporary folder, as `make run` does."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from vsyncd.domains.registry import settings_class

_START_SECONDS = 120
_STOP_SECONDS = 60


class ServerDied(Exception):  # noqa: N818 - the name says what happened
    """The server exited before it served. The message is the end of its log."""


@contextlib.asynccontextmanager
async def own_server(*, python: Sequence[str] = (sys.executable,), **settings: str) -> AsyncIterator[str]:
    """Serves on a free port with these settings until the context ends, and returns host:port. Raises ServerDied.

    `python` is the interpreter with its options.
    """
    # mkdtemp creates a private folder. If root runs PostgreSQL as another user, vsyncd grants that user access.
    folder = Path(tempfile.mkdtemp(prefix="vsyncd-"))
    try:
        process = await _start(folder, python, settings)
        reading: list[asyncio.Task[None]] = []
        try:
            port = await asyncio.wait_for(_port(process), _START_SECONDS)
            reading.append(asyncio.create_task(_drain(process)))
            yield f"127.0.0.1:{port}"
        finally:
            await _stop(process)
            await asyncio.gather(*reading)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _start(folder: Path, python: Sequence[str], settings: Mapping[str, str]) -> asyncio.subprocess.Process:
    command = (
        "serve",
        "--embedded",
        "--data-dir",
        str(folder),
        "--listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    )
    # Settings of this machine and its .env must not affect the server.
    known = {name.upper() for name in settings_class().model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    return await asyncio.create_subprocess_exec(
        *python,
        "-c",
        "from vsyncd.cli import main; main()",
        *command,
        cwd=folder,
        env={**environment, **settings, "LOG_FORMAT": "json"},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C must reach only this process, which then stops the server.
        start_new_session=True,
    )


def _log_of(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stderr is None:
        raise AssertionError("it was started with a pipe")
    return process.stderr


async def _port(process: asyncio.subprocess.Process) -> int:
    """Returns the port from the log."""
    seen = b""
    async for line in _log_of(process):
        seen += line
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("event") == "serving":
                return int(entry["port"])
    raise ServerDied(seen.decode(errors="replace")[-2000:])


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Reads the log, so that the server never blocks on a full pipe."""
    while await _log_of(process).read(65536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
