"""The definition of a domain: what its package exports, what it receives, and what it returns."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from vsync.v1 import status_pb2

from vsyncd.cache.wiring import CacheServices
from vsyncd.config import Settings
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.jobs.runner import Job
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutations
from vsyncd.postgres.queries import Session
from vsyncd.postgres.tenancy import Tenancy

S = TypeVar("S", bound=Settings)

# Registers a servicer on a server: the generated add_..._to_server function, with its servicer bound.
Registration = Callable[[Any], None]
# Reads a section of the answer of GetStatus. It is called again if the database fails, so it adds to the message last.
StatusReader = Callable[[Session, status_pb2.ServerStatus], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What a domain is built from.

    `database` and `mutations` are the domain's own view of the database. `tenancy` has the tenant of a call. `cache` is
    None without REDIS_URL. `domains` are the names of the served domains, `services` the full names of the served gRPC
    services.
    """

    settings: Settings
    database: Database
    mutations: Mutations
    tenancy: Tenancy
    schema_versions: SchemaVersions
    cache: CacheServices | None = None
    domains: Sequence[str] = ()
    services: Sequence[str] = ()

    def settings_as(self, kind: type[S]) -> S:
        """Returns the settings as the class that the domain declares in its module `settings`."""
        if not isinstance(self.settings, kind):
            raise TypeError(f"the settings were loaded without {kind.__name__}")
        return self.settings


class BackgroundService(Protocol):
    """Work that runs while the service does, such as a subscription. Periodic work is a Job."""

    def start(self) -> None:
        """Starts to work. The database and the cache may be unreachable."""

    async def stop(self) -> None:
        """Stops, and ends the streams that wait for this work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltDomain:
    """A domain that can be served: its servicers, its periodic jobs, and its other work in the background.

    `status` are its sections of GetStatus by name.
    """

    registrations: Sequence[Registration]
    jobs: Sequence[Job] = ()
    background: Sequence[BackgroundService] = ()
    status: Mapping[str, StatusReader] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The constant DOMAIN of a domain's module `domain`.

    `services` are the full names of the gRPC services that `build` registers. `changes_cached_records`: writes of this
    domain may change the CID records in the cache, so that the reads which follow must bypass the cache.
    """

    services: Sequence[str]
    build: Callable[[Dependencies], BuiltDomain]
    changes_cached_records: bool = False
