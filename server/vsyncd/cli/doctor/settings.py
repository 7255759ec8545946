"""Checks variables and access control. Connects to nothing but AUTHN_JWKS_URL."""

from collections.abc import Callable, Iterator

from vsyncd.access.requirements import check_requirements, is_insecure
from vsyncd.cli.doctor.findings import Finding, error, ok, warning
from vsyncd.config import ConfigError, Settings
from vsyncd.domains.registry import check_tenants, setting_notes


def check_variables() -> Iterator[Finding]:
    """Reports aliases and misspelled names."""
    notes = setting_notes()
    for note in notes:
        yield warning("variables", note)
    if not notes:
        yield ok("variables", "no unknown name and no alias")


def check_access(settings: Settings) -> Iterator[Finding]:
    """Reports settings that contradict each other, unusable files, and certificates that expire."""
    checks: tuple[Callable[[Settings], object], ...] = (check_tenants, check_requirements)
    for check in checks:
        try:
            check(settings)
        except ConfigError as problem:
            yield from (error("access", line) for line in problem.lines)
            return
    if is_insecure(settings):
        yield warning("access", "GRPC_LISTEN: other machines reach it without TLS or credentials (ALLOW_INSECURE)")
    if not (settings.tls_cert_file or settings.authn_methods or settings.authz_file):
        yield ok("access", "no TLS and no authentication: every caller on this machine may do everything")
        return
    # Imported here because it is slow, and only these settings need it.
    from vsyncd.access.control import AccessControl  # noqa: PLC0415

    try:
        control = AccessControl(settings)
    except ConfigError as problem:
        yield from (error("access", line) for line in problem.lines)
        return
    warnings = control.warnings()
    yield from (warning("access", text) for text in warnings)
    if not warnings:
        yield ok("access", control.summary())
