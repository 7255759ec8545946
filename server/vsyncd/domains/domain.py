"""What a domain is given, and what it gives: its service, and the work it wants done in the background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vsyncd.cache.read_through import ReadThrough
from vsyncd.config import Settings
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.jobs.runner import Job
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutations

# Registers a servicer on a server: the generated add_..._to_server with its servicer bound.
Registration = Callable[[Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What every domain stands on."""

    settings: Settings
    database: Database
    mutations: Mutations
    schema_versions: SchemaVersions
    cache: ReadThrough | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain, put together."""

    register: Registration
    jobs: Sequence[Job] = ()


DomainBuilder = Callable[[Dependencies], Domain]
