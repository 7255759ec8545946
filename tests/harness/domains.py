"""The services and methods of every registered domain, from their descriptors."""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from vsyncd.domains.registry import DOMAINS


def domain_services() -> list[ServiceDescriptor]:
    """Returns the services of every registered domain."""
    names = [name for registered in DOMAINS.values() for name in registered.load().services]
    return [descriptor_pool.Default().FindServiceByName(name) for name in names]


def domain_methods() -> list[MethodDescriptor]:
    """Returns the methods of every registered domain."""
    return [method for service in domain_services() for method in service.methods]
