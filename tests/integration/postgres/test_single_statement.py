"""Simple mutations in one statement, and the errors of constraints, on a table of the tests."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import AlreadyExists, FailedPrecondition, InvalidFields, NotFound, ServiceError
from vsyncd.core.ids import new_id
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.error_mapping import CommitUnknown, Contention
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Query, Session
from vsyncd.postgres.single_statement import Change, SingleStatement

from tests.harness.cids import execute, rows
from tests.harness.clusters import Database
from tests.harness.cutting_proxy import cutting_proxy
from tests.harness.serving import opened, settings_for

TABLE = """
    CREATE TABLE vsync.authors (id integer CONSTRAINT authors_pkey PRIMARY KEY);
    INSERT INTO vsync.authors VALUES (1);
    CREATE TABLE vsync.notes (
        id uuid CONSTRAINT notes_pkey PRIMARY KEY,
        title text CONSTRAINT notes_title_key UNIQUE CONSTRAINT notes_title CHECK (title <> ''),
        author integer CONSTRAINT notes_author_fkey REFERENCES vsync.authors DEFERRABLE INITIALLY DEFERRED,
        at timestamptz, revision integer DEFAULT 1);
    GRANT SELECT, INSERT, UPDATE ON vsync.notes TO vsyncd_service;
"""
INSERT = Query(
    "notes.insert",
    b'INSERT INTO "vsync".notes (id, title, author, at) SELECT id, title, author, created_at FROM fresh'
    b" ON CONFLICT DO NOTHING RETURNING id AS key",
)
UPDATE = Query(
    "notes.update",
    b'UPDATE "vsync".notes AS n SET title = fresh.title, revision = n.revision + 1 FROM fresh'
    b" WHERE n.id = fresh.id AND n.revision = fresh.revision RETURNING n.id AS key",
)
PLAIN_INSERT = Query(
    "notes.plain_insert", b"INSERT INTO vsync.notes (id, title, author) VALUES (%(id)s, %(title)s, %(author)s)"
)
COLUMNS = "id uuid, title text, author integer"
ERRORS = {
    "notes_pkey": lambda: AlreadyExists("NOTE_EXISTS", "The note exists."),
    "notes_title_key": lambda: AlreadyExists("TITLE_TAKEN", "Another note has this title."),
    "notes_title": lambda: FailedPrecondition("TITLE_EMPTY", "A note needs a title."),
    "notes_author_fkey": lambda: NotFound("AUTHOR_NOT_FOUND", "There is no such author."),
}


class Note(NamedTuple):
    """A row to insert."""

    id: UUID
    title: str
    author: int | None = None


class Notes:
    """A repository with both ways to insert."""

    def __init__(self, pool: Pool, *, coalesce: str | None, columns: str = COLUMNS) -> None:
        self._mutations = Mutations(pool).with_constraints(ERRORS)
        self._single = SingleStatement(pool, INSERT, columns=columns, coalesce=coalesce)
        self.fallbacks = 0

    async def insert(self, mutation: Mutation, note: Note) -> str:
        """Returns the note's title."""
        change = Change(mutation, note._asdict(), note.title.encode(), {"title": len(note.title)})
        return await self._single.execute(change, note.title, lambda: self.insert_in_transaction(mutation, note))

    async def insert_in_transaction(self, mutation: Mutation, note: Note) -> str:
        """Returns the note's title."""
        self.fallbacks += 1

        async def work(session: Session) -> Outcome[str]:
            await session.run(PLAIN_INSERT, note._asdict())
            return Outcome(note.title, note.title.encode(), {"title": len(note.title)})

        async def replay(_session: Session, answer: bytes) -> str:
            return answer.decode()

        return await self._mutations.execute(mutation, work, replay)


def mutation(request_id: UUID | None = None, *, content: bytes = bytes(16), validate_only: bool = False) -> Mutation:
    call = RequestContext(method="vsync.notes.v1.NoteService/CreateNote", correlation_id="notes")
    return Mutation(
        request_id=request_id,
        fingerprint=content,
        validate_only=validate_only,
        resource="notes/1",
        ispb="12345678",
        call=call,
    )


def stored(database: Database) -> tuple[int, int, int]:
    """Returns the numbers of notes, audit entries and request ids."""
    [counts] = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.notes) AS a, (SELECT count(*) FROM vsync.audit_logs) AS b,"
        " (SELECT count(DISTINCT request_id) FROM vsync.request_ids) AS c",
    )
    return counts["a"], counts["b"], counts["c"]


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """The database as vsyncd uses it, with the tables of this module."""
    execute(database, TABLE)
    async with opened(settings_for(database.service_url)) as pool:
        yield pool


@pytest.fixture(params=["batch", None], ids=["coalesced", "alone"])
def notes(pool: Pool, request: pytest.FixtureRequest) -> Notes:
    """The repository, with and without coalescing."""
    return Notes(pool, coalesce=request.param)


@pytest.mark.both_versions
async def test_one_statement_makes_the_change_with_its_audit_entry_and_request_id(
    notes: Notes, database: Database
) -> None:
    wanted = mutation(uuid4())
    note = Note(new_id(), "first", 1)
    assert await notes.insert(wanted, note) == "first"
    assert notes.fallbacks == 0
    [entry] = rows(database, "SELECT * FROM vsync.audit_logs")
    assert (entry["id"], entry["action"], entry["recorded_by"]) == (wanted.audit_id, wanted.call.method, "anonymous")
    assert (entry["resource"], entry["ispb"], entry["payload"]) == ("notes/1", "12345678", {"title": 5})
    [row] = rows(database, "SELECT * FROM vsync.notes")
    assert (row["id"], row["at"]) == (note.id, entry["created_at"])
    assert stored(database) == (1, 1, 1)


@pytest.mark.both_versions
async def test_a_repeated_request_is_answered_again_and_not_executed_again(notes: Notes, database: Database) -> None:
    request_id, note = uuid4(), Note(new_id(), "first")
    assert await notes.insert(mutation(request_id), note) == "first"
    execute(database, "UPDATE vsync.notes SET title = 'changed'")
    assert await notes.insert(mutation(request_id), note) == "first"
    assert stored(database) == (1, 1, 1)


async def test_a_request_id_with_other_content_is_refused(notes: Notes, database: Database) -> None:
    request_id = uuid4()
    await notes.insert(mutation(request_id), Note(new_id(), "first"))
    with pytest.raises(InvalidFields) as refused:
        await notes.insert(mutation(request_id, content=bytes([1] * 16)), Note(new_id(), "second"))
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert stored(database) == (1, 1, 1)


@pytest.mark.both_versions
async def test_concurrent_executions_of_one_request_take_effect_once(notes: Notes, database: Database) -> None:
    request_id, note = uuid4(), Note(new_id(), "first")
    answers = await asyncio.gather(*(notes.insert(mutation(request_id), note) for _ in range(20)))
    assert answers == ["first"] * 20
    assert stored(database) == (1, 1, 1)


async def test_validate_only_stores_nothing(notes: Notes, database: Database) -> None:
    assert await notes.insert(mutation(uuid4(), validate_only=True), Note(new_id(), "first")) == "first"
    assert stored(database) == (0, 0, 0)


@pytest.mark.both_versions
async def test_only_the_members_at_fault_fail(notes: Notes, database: Database) -> None:
    taken = Note(new_id(), "taken")
    await notes.insert(mutation(), taken)
    good = [Note(new_id(), f"note {number}", 1) for number in range(20)]
    bad = [Note(taken.id, "x"), Note(new_id(), "taken"), Note(new_id(), ""), Note(new_id(), "y", author=2)]
    results = await asyncio.gather(*(notes.insert(mutation(), note) for note in good + bad), return_exceptions=True)
    assert results[:20] == [note.title for note in good]
    reasons = [getattr(result, "reason", None) for result in results[20:]]
    assert reasons == ["NOTE_EXISTS", "TITLE_TAKEN", "TITLE_EMPTY", "AUTHOR_NOT_FOUND"]
    assert stored(database) == (21, 21, 0)


@pytest.mark.both_versions
async def test_an_update_is_made_only_at_its_revision(pool: Pool, database: Database) -> None:
    note = Note(new_id(), "first")
    await Notes(pool, coalesce=None).insert(mutation(), note)
    single = SingleStatement(pool, UPDATE, columns="id uuid, title text, revision integer")

    async def update(title: str, revision: int) -> bool:
        async def otherwise() -> bool:
            return False

        change = Change(mutation(), {"id": note.id, "title": title, "revision": revision}, b"")
        return await single.execute(change, True, otherwise)

    assert await update("second", 1)
    assert not await update("third", 1)
    assert [(row["title"], row["revision"]) for row in rows(database, "SELECT * FROM vsync.notes")] == [("second", 2)]
    assert stored(database)[1] == 2


@pytest.mark.parametrize("with_request_id", [True, False])
async def test_a_lost_answer_is_resolved_by_the_request_id(database: Database, *, with_request_id: bool) -> None:
    execute(database, TABLE)
    with cutting_proxy(database) as proxy:
        async with opened(settings_for(proxy.url)) as pool:
            notes = Notes(pool, coalesce=None)
            proxy.cut_after(b"json_to_recordset", after=b"json_to_recordset")
            inserting = notes.insert(mutation(uuid4() if with_request_id else None), Note(new_id(), "first"))
            if with_request_id:
                assert await inserting == "first"
            else:
                with pytest.raises(CommitUnknown):
                    await inserting
            assert proxy.cuts == 1
    assert stored(database)[:2] == (1, 1)


@pytest.mark.both_versions
@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (Note(UUID(int=1), "other"), "NOTE_EXISTS"),
        (Note(UUID(int=2), "taken"), "TITLE_TAKEN"),
        (Note(UUID(int=3), ""), "TITLE_EMPTY"),
        # A deferred constraint is checked by COMMIT.
        (Note(UUID(int=4), "other", author=2), "AUTHOR_NOT_FOUND"),
    ],
)
async def test_a_violated_constraint_raises_the_repositorys_error(
    pool: Pool, database: Database, note: Note, reason: str
) -> None:
    notes = Notes(pool, coalesce=None)
    await notes.insert_in_transaction(mutation(), Note(UUID(int=1), "taken"))
    with pytest.raises(ServiceError) as failure:
        await notes.insert_in_transaction(mutation(), note)
    assert failure.value.reason == reason
    assert stored(database) == (1, 1, 0)


async def test_a_unique_constraint_without_an_error_is_contention(pool: Pool) -> None:
    note = Note(new_id(), "taken")
    mutations = Mutations(pool)

    async def work(session: Session) -> Outcome[None]:
        await session.run(PLAIN_INSERT, note._asdict())
        return Outcome(None, b"")

    async def replay(_session: Session, _answer: bytes) -> None:
        raise AssertionError

    await mutations.execute(mutation(), work, replay)
    with pytest.raises(Contention):
        await mutations.execute(mutation(), work, replay)


async def test_a_defect_of_the_statement_is_not_hidden_by_the_transaction(pool: Pool) -> None:
    defective = Notes(pool, coalesce=None, columns=f"{COLUMNS}, actor text")  # the audit entry's column
    with pytest.raises(ServiceError) as failed:
        await defective.insert(mutation(), Note(new_id(), "first"))
    assert failed.value.reason == "INTERNAL"
    assert defective.fallbacks == 0
