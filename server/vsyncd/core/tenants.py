"""Tenants of the domains that separate the data of several organisations."""

from typing import Final, NewType

from vsyncd.core.errors import FailedPrecondition, PermissionDenied

# The HMAC of a tenant's name, as it is stored (32 bytes).
Tenant = NewType("Tenant", bytes)


# The digits of a tenant's HMAC in an audit entry.
_AUDIT_DIGITS: Final = 16


def audit_tenant(tenant: Tenant | None) -> dict[str, str]:
    """Returns what an audit entry has about the tenant: the beginning of its HMAC.

    The audit trail is not divided by tenants, so its entries contain no names of a tenant's accounts or values.
    """
    return {"tenant": tenant.hex()[:_AUDIT_DIGITS]} if tenant else {}


class TenantRequired(PermissionDenied):
    """The caller's grant has no tenant."""

    def __init__(self) -> None:
        super().__init__("TENANT_REQUIRED", "The caller belongs to no tenant.")


class TenantKeyDiffers(FailedPrecondition):
    """The database was written with another tenant key. Its tenants cannot be found with this one."""

    def __init__(self) -> None:
        super().__init__("TENANT_KEY_DIFFERS", "The database was written with another tenant key.")
