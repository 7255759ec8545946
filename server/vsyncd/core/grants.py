"""What a caller may do."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """The roles of vsync.access.v1.Role. Each rpc declares the one that it needs."""

    PUBLIC = "public"
    READER = "reader"
    WRITER = "writer"
    SYNC = "sync"
    AUDITOR = "auditor"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a principal may do.

    `ispbs` are the participants whose data it may access; None: all. `tenant` is its tenant in tenanted domains.
    """

    roles: frozenset[Role]
    ispbs: frozenset[str] | None
    tenant: str = ""


NO_GRANT: Final = Grant(frozenset(), frozenset())
# For background jobs, which belong to no tenant.
FULL_GRANT: Final = Grant(frozenset(Role) - {Role.PUBLIC}, None)
# For every caller if the settings require no authentication.
DEFAULT_TENANT: Final = "default"
UNAUTHENTICATED_GRANT: Final = replace(FULL_GRANT, tenant=DEFAULT_TENANT)
