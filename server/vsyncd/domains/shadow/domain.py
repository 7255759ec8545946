"""The definition of the domain `shadow`."""

from functools import partial
from typing import Final

from vsync.shadow.v1.shadow_pb2_grpc import add_ShadowServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.shadow.repository import EvaluationRepository
from vsyncd.domains.shadow.search import EvaluationSearch
from vsyncd.domains.shadow.service import ShadowService
from vsyncd.domains.shadow.settings import ShadowSettings
from vsyncd.jobs.runner import Job

# Each statement that records evaluations adds delta rows to the rollups. This job folds them.
_FOLD_INTERVAL_S: Final = 5.0


def _build(dependencies: Dependencies) -> BuiltDomain:
    settings = dependencies.settings_as(ShadowSettings)
    repository = EvaluationRepository(dependencies.database, dependencies.mutations)
    service = ShadowService(
        repository,
        EvaluationSearch(dependencies.database),
        tolerance=settings.shadow_numeric_tolerance,
        max_response_bytes=settings.grpc_max_response_bytes,
    )
    return BuiltDomain(
        registrations=(partial(add_ShadowServiceServicer_to_server, service),),
        jobs=(Job(name="fold rollups", interval=_FOLD_INTERVAL_S, work=repository.fold_rollups),),
    )


DOMAIN: Final = Domain(services=("vsync.shadow.v1.ShadowService",), build=_build)
