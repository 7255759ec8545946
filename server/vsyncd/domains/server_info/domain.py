"""Builds the domain."""

from functools import partial

from vsync.v1.server_pb2_grpc import add_ServerServiceServicer_to_server

from vsyncd.domains.domain import Dependencies, Domain
from vsyncd.domains.server_info.service import ServerService


def domain(parts: Dependencies) -> Domain:
    """ServerService."""
    return Domain(
        register=partial(
            add_ServerServiceServicer_to_server, ServerService(parts.database, parts.settings, parts.schema_versions)
        )
    )
