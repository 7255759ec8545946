"""Stores and reads notes."""

from uuid import UUID

from vsyncd.core.errors import AlreadyExists, NotFound
from vsyncd.core.ids import time_of
from vsyncd.domains.notes.records import NewNote, Note, Page
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Session, queries


class NoteRepository:
    """The rows of notes."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.notes", database.schema)

    async def create(self, mutation: Mutation, new: NewNote) -> Note:
        """Stores a note, or returns the one that the same request stored before. Raises AlreadyExists (NOTE_EXISTS)."""

        async def work(session: Session) -> Outcome[Note]:
            parameters = {**new._asdict(), "id": mutation.audit_id, "created_at": time_of(mutation.audit_id)}
            row = await session.one(self._queries["create_note"], parameters)
            if row is None:
                raise AlreadyExists("NOTE_EXISTS", "There is a note with this title.")
            note = Note._make(row)
            return Outcome(note, note.id.bytes, resource=f"notes/{note.id}")

        async def replay(session: Session, answer: bytes) -> Note:
            return await self._get(session, UUID(bytes=answer))

        return await self._mutations.execute(mutation, work, replay)

    async def get(self, note_id: UUID) -> Note:
        """Returns a note. Raises NotFound (NOTE_NOT_FOUND)."""
        return await self._database.read(lambda session: self._get(session, note_id), ReadMode.PRIMARY_PREFERRED)

    async def page(self, *, after: UUID, size: int) -> Page:
        """Returns up to `size` notes whose ids are above `after`."""
        parameters = {"after": after, "limit": size + 1}
        query = self._queries["list_notes"]
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        notes = [Note._make(row) for row in rows[:size]]
        return Page(notes, notes[-1].id if len(rows) > size else None)

    async def _get(self, session: Session, note_id: UUID) -> Note:
        row = await session.one(self._queries["get_note"], {"id": note_id})
        if row is None:
            raise NotFound("NOTE_NOT_FOUND", "There is no note with this id.")
        return Note._make(row)
