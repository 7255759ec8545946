"""The command `vsyncd doctor`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from vsyncd.cli.command import expected_errors
from vsyncd.cli.doctor.databases import check_backup_programs, check_owner, check_primary, check_replica
from vsyncd.cli.doctor.findings import Finding, Level, error
from vsyncd.cli.doctor.services import check_folders, check_grpc, check_ports, check_redis
from vsyncd.cli.doctor.settings import check_access, check_variables
from vsyncd.cli.options import embedded_options, json_option, settings_of_running
from vsyncd.config import ConfigError, Settings

# Each check has shorter timeouts of its own.
_CHECK_TIMEOUT_S: Final = 60.0
_COLORS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}

Check = Callable[[], AsyncIterator[Finding]]


@click.command()
@json_option
@embedded_options
def doctor(*, embedded: bool, data_dir: Path | None, as_json: bool) -> int:
    """Check the settings, and everything that they name.

    Prints one line for each check: variables, access control, connections and TLS, roles, versions, clocks, migrations,
    pg_dump, folders and ports. Changes nothing. Exits with 0 if all is well, with 1 after warnings, and with 2 after
    errors.
    """
    findings = _check_all(embedded=embedded, data_dir=data_dir)
    worst = max((finding.level for finding in findings), key=lambda level: level.value)
    if as_json:
        checks = [{"level": each.level.name, "subject": each.subject, "message": each.message} for each in findings]
        click.echo(json.dumps({"level": worst.name, "checks": checks}))
        return worst.value
    for finding in findings:
        level = click.style(f"{finding.level.name.lower():<7}", fg=_COLORS[finding.level])
        click.echo(f"{level}  {finding.subject}: {finding.message}")
    return worst.value


def _check_all(*, embedded: bool, data_dir: Path | None) -> list[Finding]:
    try:
        findings = list(check_variables())
        settings = settings_of_running(embedded=embedded, data_dir=data_dir)
    except (OSError, UnicodeDecodeError):
        return [error("variables", ".env: takes readable UTF-8 text")]
    except ConfigError as problem:
        # Without valid settings there is nothing else to check.
        return [*findings, *(error("settings", line) for line in problem.lines)]
    except expected_errors() as problem:  # no embedded server is running
        return [*findings, error("database", str(problem))]
    findings += check_access(settings)
    findings += asyncio.run(_check_connections(settings, embedded=embedded))
    findings += check_folders(settings)
    findings += check_ports(settings)
    return findings


async def _check_connections(settings: Settings, *, embedded: bool) -> list[Finding]:
    """Checks all dependencies at the same time, except the owner role of the embedded server and its cache."""
    checks: Sequence[Check] = (
        partial(check_primary, settings),
        *(() if embedded else (partial(check_owner, settings),)),
        *(partial(check_replica, settings, host) for host in settings.replica_hosts),
        partial(check_backup_programs, settings),
        *(() if embedded else (partial(check_redis, settings),)),
        *(partial(check_grpc, dependency) for dependency in settings.grpc_dependencies),
    )
    results: Iterable[list[Finding]] = await asyncio.gather(*map(_run, checks))
    return [finding for result in results for finding in result]


async def _run(check: Check) -> list[Finding]:
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            async for finding in check():
                findings.append(finding)  # noqa: PERF401  what was found before a timeout is kept
    except TimeoutError:
        findings.append(error(findings[-1].subject if findings else "connections", "no answer in time"))
    return findings
