"""The definition of the domain `server_info`."""

from functools import partial
from typing import Final

from vsync.v1.server_pb2_grpc import add_ServerServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.server_info.service import ServerService


def _build(dependencies: Dependencies) -> BuiltDomain:
    service = ServerService(
        dependencies.database, dependencies.settings, dependencies.schema_versions, domains=dependencies.domains
    )
    return BuiltDomain(registrations=(partial(add_ServerServiceServicer_to_server, service),))


DOMAIN: Final = Domain(services=("vsync.v1.ServerService",), build=_build)
