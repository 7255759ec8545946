"""The definition of the domain `payments`."""

from functools import partial
from typing import Final

from vsync.payments.v1.payment_pb2_grpc import add_PaymentServiceServicer_to_server
from vsync.payments.v1.processor_health_pb2_grpc import add_ProcessorHealthServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.payments.health_repository import HealthRepository
from vsyncd.domains.payments.health_service import ProcessorHealthService
from vsyncd.domains.payments.health_watcher import HealthWatcher
from vsyncd.domains.payments.repository import PaymentRepository
from vsyncd.domains.payments.service import PaymentService
from vsyncd.domains.payments.settings import PaymentSettings
from vsyncd.jobs.runner import Job

_FOLD_INTERVAL_S: Final = 1.0
_DROP_KEYS_INTERVAL_S: Final = 60.0


def _build(dependencies: Dependencies) -> BuiltDomain:
    processors = dependencies.settings_as(PaymentSettings).processors
    database, mutations, cache = dependencies.database, dependencies.mutations, dependencies.cache
    payments, reports = PaymentRepository(database, mutations), HealthRepository(database, mutations, cache)
    watcher = HealthWatcher(reports, processors, cache)
    payment_service = PaymentService(payments, processors=processors)
    health_service = ProcessorHealthService(reports, watcher, processors=processors)
    return BuiltDomain(
        registrations=(
            partial(add_PaymentServiceServicer_to_server, payment_service),
            partial(add_ProcessorHealthServiceServicer_to_server, health_service),
        ),
        jobs=(
            Job(name="fold payment totals", interval=_FOLD_INTERVAL_S, work=payments.fold_totals),
            Job(name="drop payment keys", interval=_DROP_KEYS_INTERVAL_S, work=payments.drop_keys, exclusive=True),
        ),
        background=(watcher,),
    )


DOMAIN: Final = Domain(
    services=("vsync.payments.v1.PaymentService", "vsync.payments.v1.ProcessorHealthService"), build=_build
)
