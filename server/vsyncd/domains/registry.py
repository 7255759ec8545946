"""The registry of domains: one line each.

This module is cheap to import: `vsyncd migrate` and `vsyncd check-config` need the names, settings and migration sets
only. The packages of the domains, which load gRPC, are imported when they are served.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple

from vsyncd import config
from vsyncd.config import ConfigError, Settings
from vsyncd.config.loading import combined_settings, variable_notes

if TYPE_CHECKING:  # see above
    from vsyncd.domains.domain import Domain


class RegisteredDomain(NamedTuple):
    """A domain that this server can serve: the package vsyncd.domains.<name>, and the migration set of its tables.

    A required domain is served whatever DOMAINS says. `has_tenants`: its rows belong to the tenants of its callers.
    """

    name: str
    migration_set: str
    is_required: bool = False
    has_tenants: bool = False

    def load(self) -> Domain:
        """Imports the package and returns its DOMAIN."""
        domain: Domain = import_module(f"vsyncd.domains.{self.name}.domain").DOMAIN
        return domain

    def settings(self) -> type[Settings] | None:
        """Returns the constant SETTINGS of the domain's module `settings`, or None if there is no such module."""
        name = f"vsyncd.domains.{self.name}.settings"
        if find_spec(name) is None:
            return None
        settings: type[Settings] = import_module(name).SETTINGS
        return settings


_REGISTRY: Final = (
    RegisteredDomain("cids", "vsync"),
    RegisteredDomain("sync_batches", "vsync"),
    RegisteredDomain("audit", "core", is_required=True),
    RegisteredDomain("reconciliation", "vsync"),
    RegisteredDomain("server_info", "core", is_required=True),
    RegisteredDomain("payments", "payments"),
    RegisteredDomain("shadow", "shadow"),
    RegisteredDomain("credits", "credits", has_tenants=True),
    RegisteredDomain("iocs", "iocs", has_tenants=True),
)

DOMAINS: Final = {domain.name: domain for domain in _REGISTRY}


def settings_class() -> type[Settings]:
    """Returns the class of the settings of the service and of every domain."""
    return combined_settings(*_domain_settings())


def load_settings(**overrides: object) -> Settings:
    """Returns the settings of the service and of every domain; see vsyncd.config.load_settings."""
    return config.load_settings(*_domain_settings(), **overrides)


def setting_notes() -> list[str]:
    """Returns a line for each variable that is an alias of a setting, or seems to be a misspelled one."""
    return variable_notes(*_domain_settings())


def _domain_settings() -> list[type[Settings]]:
    return [settings for domain in _REGISTRY if (settings := domain.settings()) is not None]


def select_domains(names: str) -> tuple[RegisteredDomain, ...]:
    """Returns the domains that a value of DOMAINS selects, and the required ones. Raises ConfigError."""
    wanted = {name.strip() for name in names.split(",")} - {""}
    if not wanted <= DOMAINS.keys() | {"all"}:
        raise ConfigError(f"DOMAINS: takes names of domains, comma separated, or all; known: {', '.join(DOMAINS)}")
    return tuple(domain for domain in _REGISTRY if domain.is_required or domain.name in wanted or "all" in wanted)


def check_tenants(settings: Settings) -> bool:
    """Returns whether a selected domain has tenants. Raises ConfigError if that requires TENANT_HMAC_KEY_FILE."""
    found = any(domain.has_tenants for domain in select_domains(settings.domains))
    if found and settings.authentication_methods and settings.tenant_hmac_key_file is None:
        raise ConfigError("TENANT_HMAC_KEY_FILE: required, because AUTHN_METHODS is set and a domain has tenants")
    return found


def unselected_sets(names: str) -> frozenset[str]:
    """Returns the migration sets that only unselected domains use. Raises ConfigError."""
    selected = {domain.migration_set for domain in select_domains(names)}
    return frozenset(domain.migration_set for domain in _REGISTRY) - selected
