"""What audit entries have about IOCs.

The audit trail is not divided by tenants, so its entries contain neither values nor sources nor tags.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vsyncd.core.tenants import Tenant, audit_tenant
from vsyncd.domains.iocs.records import IocKey, IocType, NewIoc, PutAnswer, audit_key


def audit_resource(tenant: Tenant, key: IocKey) -> str:
    """Returns the resource of the entries about one IOC."""
    return f"iocs/{audit_key(tenant, key)}"


def put_details(tenant: Tenant, new: NewIoc, answer: PutAnswer) -> dict[str, Any]:
    """Returns the payload of PutIoc."""
    (outcome,) = answer.outcomes
    return {
        **audit_tenant(tenant),
        "type": IocType(new.type).name,
        "revision": outcome.revision,
        "confidence": new.confidence,
        "expires_at": outcome.expires_at.isoformat(),
    }


def batch_details(tenant: Tenant, new: Sequence[NewIoc], answer: PutAnswer) -> dict[str, Any]:
    """Returns the payload of BatchPutIocs: numbers, and which IOCs have which revision now."""
    types: Mapping[int, int] = Counter(each.type for each in new)
    return {
        **audit_tenant(tenant),
        "types": {IocType(kind).name: count for kind, count in types.items()},
        "created": sum(outcome.is_new for outcome in answer.outcomes),
        "revisions": {
            audit_key(tenant, IocKey(each.type, each.value)): outcome.revision
            for each, outcome in zip(new, answer.outcomes, strict=True)
        },
    }
