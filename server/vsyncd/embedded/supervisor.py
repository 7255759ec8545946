"""Restarts an embedded server that ends unexpectedly, with a growing pause between attempts."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from vsyncd.embedded.errors import EmbeddedError, RestartsFailed
from vsyncd.embedded.server import EmbeddedServer

MAX_FAILED_RESTARTS: Final = 5
_POLL_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class ServerDied:
    """The server's process ended unexpectedly; `status` is its exit code or signal."""

    server: str
    status: str


@dataclass(frozen=True, kw_only=True)
class RestartFailed:
    """A restart failed; `failed` is the number of consecutive failed restarts."""

    server: str
    failed: int
    error: str


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """The server is ready again, `seconds` after its end was noticed."""

    server: str
    seconds: float


Report = Callable[[ServerDied | RestartFailed | Restarted], None]


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """When to restart and when to give up.

    A restart counts as failed if it raises, or if the server ends within `healthy_s` seconds.
    """

    max_failed: int = MAX_FAILED_RESTARTS
    first_pause_s: float = 0.5
    healthy_s: float = 10.0

    def pause_s(self, failed: int) -> float:
        """Returns the pause before the next attempt: 0 after a healthy run, then doubling."""
        return self.first_pause_s * 2 ** (failed - 1) if failed else 0.0

    def failed_after_run(self, failed: int, run_s: float) -> int:
        """Returns the number of consecutive failed restarts after a run of `run_s` seconds."""
        return 0 if run_s >= self.healthy_s else failed + 1


async def supervise(server: EmbeddedServer, report: Report, policy: RestartPolicy | None = None) -> NoReturn:
    """Keep a started server running until cancelled. Raises RestartsFailed with the last reason."""
    policy = policy or RestartPolicy()
    await _until_ended(server)
    failed = 0
    while True:
        report(ServerDied(server=server.name, status=server.exit_status))
        started_at = time.monotonic()
        failed = await _restart(server, report, policy, failed)
        restarted_at = time.monotonic()
        report(Restarted(server=server.name, seconds=round(restarted_at - started_at, 3)))
        await _until_ended(server)
        failed = policy.failed_after_run(failed, time.monotonic() - restarted_at)
        if failed >= policy.max_failed:
            raise _give_up(server, policy, f"it ended with {server.exit_status} soon after each restart")


async def _until_ended(server: EmbeddedServer) -> None:
    while server.running:  # noqa: ASYNC110 - a process that ends sets no event, and waitpid cannot be cancelled
        await asyncio.sleep(_POLL_S)


async def _restart(server: EmbeddedServer, report: Report, policy: RestartPolicy, failed: int) -> int:
    """Restart the server. Returns the number of consecutive failed restarts before. Raises RestartsFailed."""
    while True:
        await asyncio.sleep(policy.pause_s(failed))
        try:
            await server.restart()
        except EmbeddedError as error:
            failed += 1
            report(RestartFailed(server=server.name, failed=failed, error=str(error)))
            if failed >= policy.max_failed:
                raise _give_up(server, policy, str(error)) from error
        else:
            return failed


def _give_up(server: EmbeddedServer, policy: RestartPolicy, reason: str) -> RestartsFailed:
    return RestartsFailed(f"{server.name} could not be restarted {policy.max_failed} times in a row: {reason}")
