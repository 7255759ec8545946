"""NoteService of notes.proto: validates messages, calls the repository, returns messages."""

from vsync.notes.v1 import notes_pb2 as pb
from vsync.notes.v1.notes_pb2_grpc import NoteServiceServicer

from vsyncd.core.context import Context
from vsyncd.core.paging import decode_id_token, encode_id_token
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import NO_ID, Validator
from vsyncd.domains.notes.records import MAX_TEXT_CHARS, MAX_TITLE_CHARS, NewNote, Note
from vsyncd.domains.notes.repository import NoteRepository
from vsyncd.postgres.mutations import mutation_of


class NoteService(NoteServiceServicer):
    """Writes and reads notes."""

    def __init__(self, repository: NoteRepository) -> None:
        self._repository = repository

    async def CreateNote(self, request: pb.CreateNoteRequest, context: Context) -> pb.CreateNoteResponse:
        """See notes.proto."""
        validator = Validator()
        new = NewNote(
            title=validator.text("note.title", request.note.title, max_chars=MAX_TITLE_CHARS),
            text=validator.text("note.text", request.note.text, min_chars=0, max_chars=MAX_TEXT_CHARS),
        )
        mutation = mutation_of(request, validator, *new)
        return pb.CreateNoteResponse(note=_message(await self._repository.create(mutation, new)))

    async def GetNote(self, request: pb.GetNoteRequest, context: Context) -> pb.GetNoteResponse:
        """See notes.proto."""
        with Validator() as validator:
            note_id = validator.uuid("id", request.id)
        return pb.GetNoteResponse(note=_message(await self._repository.get(note_id)))

    async def ListNotes(self, request: pb.ListNotesRequest, context: Context) -> pb.ListNotesResponse:
        """See notes.proto."""
        with Validator() as validator:
            size = validator.page_size(request.page_size)
        after = decode_id_token(request.page_token, "ListNotes") or NO_ID
        page = await self._repository.page(after=after, size=size)
        return pb.ListNotesResponse(
            notes=map(_message, page.notes), next_page_token=encode_id_token(page.next_after, "ListNotes")
        )


def _message(note: Note) -> pb.Note:
    return pb.Note(id=str(note.id), title=note.title, text=note.text, created_at=timestamp(note.created_at))
