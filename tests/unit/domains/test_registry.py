"""The registry matches the packages of the domains, and DOMAINS selects from it."""

from pathlib import Path

import pytest
from vsyncd import domains
from vsyncd.config import ConfigError, Settings
from vsyncd.domains.domain import Dependencies
from vsyncd.domains.registry import DOMAINS, select_domains, unselected_sets
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.tenancy import Tenancy

from tests.harness.serving import settings_for

ALWAYS_SERVED = {"audit", "server_info"}


def names(value: str) -> set[str]:
    return {domain.name for domain in select_domains(value)}


def test_every_package_is_registered() -> None:
    folder = Path(domains.__file__).parent
    packages = {path.parent.name for path in folder.glob("*/domain.py")}
    assert packages == DOMAINS.keys()


class Server:
    """Records the names of the services that are registered."""

    def __init__(self) -> None:
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code calls this too."""

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:  # noqa: ARG002  generated call
        self.services.append(service)


@pytest.mark.parametrize("name", DOMAINS)
async def test_a_domain_registers_the_services_that_it_declares(name: str) -> None:
    settings = settings_for("postgresql:///unused")
    database = Database(settings)
    dependencies = Dependencies(
        settings=settings,
        database=database,
        mutations=Mutations(database),
        tenancy=Tenancy(settings, database),
        schema_versions=SchemaVersions(settings),
    )
    domain = DOMAINS[name].load()
    server = Server()
    for register in domain.build(dependencies).registrations:
        register(server)
    assert server.services == list(domain.services)


def test_the_default_is_all_but_what_has_to_be_enabled() -> None:
    assert names(Settings.model_fields["domains"].default) == {"cids", "sync_batches", "reconciliation"} | ALWAYS_SERVED


def test_all_selects_every_domain() -> None:
    assert names("all") == DOMAINS.keys()
    assert unselected_sets("all") == set()


def test_audit_and_server_info_are_always_served() -> None:
    assert names("audit") == names("server_info") == ALWAYS_SERVED
    assert names(" cids , audit") == {"cids"} | ALWAYS_SERVED


def test_the_sets_of_unselected_domains_are_not_migrated() -> None:
    sets = {domain.migration_set for domain in DOMAINS.values()}
    assert unselected_sets("audit") == sets - {"core"}
    assert unselected_sets("sync_batches") == sets - {"core", "vsync"}


@pytest.mark.parametrize("value", ["cids,nothing", "nothing", "all,nothing"])
def test_an_unknown_name_is_answered_with_the_known_ones(value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        select_domains(value)
    (line,) = raised.value.lines
    assert line.startswith("DOMAINS: ")
    assert all(name in line for name in DOMAINS)
