"""The services and methods of every registered domain, from their descriptors."""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from vsyncd.domains.registry import DOMAINS


def domain_services() -> list[ServiceDescriptor]:
    """Returns the services of every registered domain."""
    names = [name for registered in DOMAINS.values() for name in registered.load().services]
    return [descriptor_pool.Default().FindServiceByName(name) for name in names]


def domain_methods() -> list[MethodDescriptor]:
    """Returns the methods of every registered domain."""
    return [method for service in domain_services() for method in service.methods]


def has_participants(service: ServiceDescriptor) -> bool:
    """Returns whether a message of the service has a field `ispb`: its data belongs to participants."""
    seen: set[str] = set()

    def names_one(message: Descriptor) -> bool:
        if message.full_name in seen:
            return False
        seen.add(message.full_name)
        return any(
            field.name == "ispb" or (field.message_type is not None and names_one(field.message_type))
            for field in message.fields
        )

    return any(names_one(message) for method in service.methods for message in (method.input_type, method.output_type))
