"""Tenants of the domains that separate the data of several organisations."""

from typing import NewType

from vsyncd.core.errors import FailedPrecondition, PermissionDenied

# The HMAC of a tenant's name, as it is stored (32 bytes).
Tenant = NewType("Tenant", bytes)


class TenantRequired(PermissionDenied):
    """The caller's grant has no tenant."""

    def __init__(self) -> None:
        super().__init__("TENANT_REQUIRED", "The caller belongs to no tenant.")


class TenantKeyDiffers(FailedPrecondition):
    """The database was written with another tenant key. Its tenants cannot be found with this one."""

    def __init__(self) -> None:
        super().__init__("TENANT_KEY_DIFFERS", "The database was written with another tenant key.")
