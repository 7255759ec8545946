"""The definition of the domain `notes`."""

from functools import partial
from typing import Final

from vsync.notes.v1.notes_pb2_grpc import add_NoteServiceServicer_to_server

from vsyncd.domains.domain import BuiltDomain, Dependencies, Domain
from vsyncd.domains.notes.repository import NoteRepository
from vsyncd.domains.notes.service import NoteService


def _build(dependencies: Dependencies) -> BuiltDomain:
    service = NoteService(NoteRepository(dependencies.database, dependencies.mutations))
    return BuiltDomain(registrations=(partial(add_NoteServiceServicer_to_server, service),))


DOMAIN: Final = Domain(services=("vsync.notes.v1.NoteService",), build=_build)
