"""The definition of the domain `iocs`."""

from functools import partial
from typing import Final

from vsync.iocs.v1.ioc_pb2_grpc import add_IocServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.iocs.cleanup import Cleanup
from vsyncd.domains.iocs.repository import IocRepository
from vsyncd.domains.iocs.service import IocService
from vsyncd.jobs.runner import Job

_CLEANUP_INTERVAL_S: Final = 60.0


def _build(dependencies: Dependencies) -> BuiltDomain:
    database, mutations = dependencies.database, dependencies.mutations
    service = IocService(
        IocRepository(database, mutations),
        dependencies.tenancy,
        max_response_bytes=dependencies.settings.grpc_max_response_bytes,
    )
    cleanup = Cleanup(database, mutations)
    return BuiltDomain(
        registrations=(partial(add_IocServiceServicer_to_server, service),),
        jobs=(Job(name="clean expired iocs", interval=_CLEANUP_INTERVAL_S, work=cleanup.run, exclusive=True),),
    )


DOMAIN: Final = Domain(services=("vsync.iocs.v1.IocService",), build=_build)
