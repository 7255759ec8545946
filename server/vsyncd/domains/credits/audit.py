"""What audit entries have about credits.

The audit trail is not divided by tenants, so its entries contain neither accounts nor references.
"""

from typing import Final

from vsyncd.postgres.mutations import Mutation

_TENANT_DIGITS: Final = 16


def audit_payload(mutation: Mutation) -> dict[str, str]:
    """Returns the beginning of the tenant's HMAC."""
    return {"tenant": mutation.tenant.hex()[:_TENANT_DIGITS]} if mutation.tenant else {}
