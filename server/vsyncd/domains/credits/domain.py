"""The definition of the domain `credits`."""

from functools import partial
from typing import Final

from vsync.credits.v1.credit_pb2_grpc import add_CreditServiceServicer_to_server

from vsyncd.domains.credits.accounts import AccountRepository
from vsyncd.domains.credits.expiry import Expiry
from vsyncd.domains.credits.ledger import Ledger
from vsyncd.domains.credits.service import CreditService
from vsyncd.domains.credits.settings import CreditSettings
from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.jobs.runner import Job

_EXPIRY_INTERVAL_S: Final = 5.0


def _build(dependencies: Dependencies) -> BuiltDomain:
    database, mutations = dependencies.database, dependencies.mutations
    service = CreditService(
        AccountRepository(database, mutations),
        Ledger(database, mutations),
        dependencies.tenancy,
        max_days=dependencies.settings_as(CreditSettings).credit_reservation_max_days,
    )
    expiry = Expiry(database, mutations)
    return BuiltDomain(
        registrations=(partial(add_CreditServiceServicer_to_server, service),),
        jobs=(Job(name="expire credits", interval=_EXPIRY_INTERVAL_S, work=expiry.run, exclusive=True),),
    )


DOMAIN: Final = Domain(services=("vsync.credits.v1.CreditService",), build=_build)
