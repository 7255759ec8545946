"""What a domain is given, and what it gives: its service, and the work it wants done in the background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vsyncd.cache.read_through import ReadThrough
from vsyncd.config import Settings
from vsyncd.jobs.runner import Job
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutations
from vsyncd.transport.server import Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What every domain stands on."""

    settings: Settings
    database: Database
    mutations: Mutations
    cache: ReadThrough | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain, put together."""

    register: Registration
    jobs: Sequence[Job] = ()


DomainBuilder = Callable[[Dependencies], Domain]
