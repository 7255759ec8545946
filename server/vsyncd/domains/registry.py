"""The registry of domains: one line each.

This module is cheap to import: `vsyncd migrate` and `vsyncd check-config` need the names and migration sets only. The
packages of the domains, which load gRPC, are imported when they are served.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from vsyncd.config import ConfigError

if TYPE_CHECKING:  # see above
    from vsyncd.domains.domain import Domain


class RegisteredDomain(NamedTuple):
    """A domain that this server can serve: the package vsyncd.domains.<name>, and the migration set of its tables.

    A required domain is served whatever DOMAINS says.
    """

    name: str
    migration_set: str
    is_required: bool = False

    def load(self) -> Domain:
        """Imports the package and returns its DOMAIN."""
        domain: Domain = import_module(f"vsyncd.domains.{self.name}.domain").DOMAIN
        return domain


_REGISTRY: Final = (
    RegisteredDomain("cids", "vsync"),
    RegisteredDomain("sync_batches", "vsync"),
    RegisteredDomain("audit", "core", is_required=True),
    RegisteredDomain("reconciliation", "vsync"),
    RegisteredDomain("server_info", "core", is_required=True),
    RegisteredDomain("shadow", "shadow"),
)

DOMAINS: Final = {domain.name: domain for domain in _REGISTRY}


def select_domains(names: str) -> tuple[RegisteredDomain, ...]:
    """Returns the domains that a value of DOMAINS selects, and the required ones. Raises ConfigError."""
    wanted = {name.strip() for name in names.split(",")} - {""}
    if not wanted <= DOMAINS.keys() | {"all"}:
        raise ConfigError(f"DOMAINS: takes names of domains, comma separated, or all; known: {', '.join(DOMAINS)}")
    return tuple(domain for domain in _REGISTRY if domain.is_required or domain.name in wanted or "all" in wanted)


def unselected_sets(names: str) -> frozenset[str]:
    """Returns the migration sets that only unselected domains use. Raises ConfigError."""
    selected = {domain.migration_set for domain in select_domains(names)}
    return frozenset(domain.migration_set for domain in _REGISTRY) - selected
