"""`vsyncd authz`: explains decisions of an AUTHZ_FILE, and validates one."""

from pathlib import Path
from typing import Final

import click

from vsyncd.access.policy import Policy, parse_policy
from vsyncd.access.roles import required_role
from vsyncd.access.watched_files import read_file
from vsyncd.cli.command import DONE, FAILED
from vsyncd.config import ConfigError, load_settings
from vsyncd.core.grants import Grant, Role
from vsyncd.domains.registry import DOMAINS

_SETTING: Final = "AUTHZ_FILE"


@click.group()
def authz() -> None:
    """Check who may call what."""


@authz.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def lint(*, file: Path) -> None:
    """Validate an AUTHZ_FILE. Prints one line for each invalid entry, and exits with 1."""
    policy = parse_policy(read_file(_SETTING, str(file)))
    click.echo(f"{file} is valid, with {len(policy.entries)} entries.")
    for pattern in policy.entries:
        if pattern.endswith("*") and pattern[-2:-1] not in {"/", ":", "#", "=", ","}:
            click.echo(f"warning: {pattern} matches longer names, such as {pattern[:-1]}x: end it with a separator")


@authz.command()
@click.option("--principal", required=True, help="The caller, for example spiffe://bank.example/worker.")
@click.option("--method", required=True, help="The method: vsync.v1.CidService/GetCid, or GetCid.")
@click.option("--ispb", help="The participant whose data is accessed.")
@click.option("--file", type=click.Path(path_type=Path), help="The file; default: AUTHZ_FILE.")
def check(*, principal: str, method: str, ispb: str | None, file: Path | None) -> int:
    """Explain whether a principal may call a method. Exits with 0 if it may, and with 1 if not."""
    path = str(file) if file else load_settings().authz_file
    if path is None:
        raise click.UsageError("Set AUTHZ_FILE, or give --file.")
    name = _method(method)
    permitted, reason = _decide(parse_policy(read_file(_SETTING, path)), principal, name, ispb)
    click.echo(f"{'permitted' if permitted else 'denied'}: {reason}")
    return DONE if permitted else FAILED


def _decide(policy: Policy, principal: str, method: str, ispb: str | None) -> tuple[bool, str]:
    role = required_role(method)
    if role is Role.PUBLIC:
        return True, f"{method} is public"
    entry = policy.entry_of(principal)
    if entry is None:
        return False, f"no entry matches {principal}"
    described = f"the entry {entry.pattern} {_describe(entry.grant)}"
    if role not in entry.grant.roles:
        return False, f"{method} needs the role {role}; {described}"
    if ispb is not None and entry.grant.ispbs is not None and ispb not in entry.grant.ispbs:
        return False, f"the participant {ispb} is not permitted; {described}"
    return True, f"{method} needs the role {role}; {described}"


def _describe(grant: Grant) -> str:
    participants = "all participants" if grant.ispbs is None else f"the participants {', '.join(sorted(grant.ispbs))}"
    return f"has the roles {', '.join(sorted(grant.roles))} for {participants}"


def _method(text: str) -> str:
    """Returns the full name of a method. Raises ConfigError for an unknown or ambiguous one."""
    wanted = text.strip("/")
    found = [name for name in _methods() if name == wanted or name.endswith((f".{wanted}", f"/{wanted}"))]
    if len(found) != 1:
        raise ConfigError(f"--method: {text} is {'ambiguous: ' + ', '.join(found) if found else 'unknown'}")
    return found[0]


def _methods() -> list[str]:
    from google.protobuf import descriptor_pool  # noqa: PLC0415 - slow to import, and `lint` does not need it
    from vsync.health.v1 import health_pb2  # noqa: F401, PLC0415 - registers the service
    from vsync.v1 import status_pb2  # noqa: F401, PLC0415 - as above

    services = [name for domain in DOMAINS.values() for name in domain.load().services]
    pool = descriptor_pool.Default()
    return [
        f"{service}/{method.name}"
        for service in [*services, "vsync.health.v1.Health", "vsync.v1.StatusService"]
        for method in pool.FindServiceByName(service).methods
    ]
