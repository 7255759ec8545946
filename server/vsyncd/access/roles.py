"""The role that each rpc needs, from its option `(vsync.access.v1.role)`."""

from google.protobuf import descriptor_pool
from vsync.access.v1 import access_pb2

from vsyncd.core.grants import Role


def required_role(method: str) -> Role:
    """Returns the role that a method (vsync.v1.CidService/GetCid) needs. Raises LookupError if it declares none."""
    try:
        descriptor = descriptor_pool.Default().FindMethodByName(method.replace("/", "."))
        number = descriptor.GetOptions().Extensions[access_pb2.role]
        return Role(access_pb2.Role.Name(number).removeprefix("ROLE_").lower())
    except (KeyError, ValueError):
        raise LookupError(f"{method} does not declare the role that it needs") from None
