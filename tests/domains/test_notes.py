"""A domain is a proto package, a migration set, a package below domains/, its tests, and one line in the registry.

`notes` is such a domain. Everything is tested with a real server that runs from a source tree with `notes`.
"""

import asyncio
import difflib
import json
import uuid
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from zipfile import ZipFile

import grpc
import psycopg
import pytest
import vsync
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from vsync.v1 import audit_pb2, cid_pb2, server_pb2
from vsync.v1.audit_pb2 import AuditLog

from tests.domains.conftest import Serve, Stubs
from tests.harness.backups import environment
from tests.harness.clusters import Database
from tests.harness.domain_tree import REGISTRY, REGISTRY_LINE, DomainTree

SERVICE = "vsync.notes.v1.NoteService"
NEW_FOLDERS = ("client/vsync/notes/", "migrations/notes/", "protos/vsync/notes/", "server/vsyncd/domains/notes/")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_new_domain_changes_one_line_of_one_existing_file(tmp_path: Path) -> None:
    tree = DomainTree(tmp_path)
    before = tree.files()
    tree.add_example()
    after = tree.files()
    added = after.keys() - before.keys()
    assert added
    assert {name for name in added if not name.startswith(NEW_FOLDERS)} == set()
    assert {name for name in before if before[name] != after.get(name)} == {REGISTRY}
    lines = difflib.ndiff(before[REGISTRY].decode().splitlines(True), after[REGISTRY].decode().splitlines(True))
    assert [line for line in lines if not line.startswith("  ")] == [f"+ {REGISTRY_LINE}"]


def test_the_tree_keeps_to_the_import_table_and_the_linters(tree: DomainTree) -> None:
    tree.run("lint-imports")
    tree.run("ruff", "check", "server/vsyncd/domains/notes")
    tree.run("buf", "lint")
    tree.run("buf", "breaking", "--against", "protos/baseline.binpb")


@pytest.mark.soak
def test_the_wheel_of_the_tree_has_the_domain(tree: DomainTree, tmp_path: Path) -> None:
    tree.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= {
        "vsync/notes/v1/notes_pb2.py",
        "vsync/notes/v1/notes_pb2_grpc.pyi",
        "vsyncd/domains/notes/queries.sql",
        "vsyncd/migrations/notes/000001_notes.up.sql",
    }


@pytest.mark.soak
def test_the_domain_passes_the_type_checker(tree: DomainTree) -> None:
    tree.run("mypy", "server/vsyncd/domains/notes")


async def test_a_note_is_stored_once_audited_and_listed(
    serve: Serve, stubs: Stubs, tree: DomainTree, empty_database: Database, tmp_path: Path
) -> None:
    pb = stubs.pb
    server = serve(DOMAINS="cids, notes")
    async with vsync.connect(server.target) as client:
        notes: Any = client.stub(stubs.rpc.NoteServiceStub)
        request = pb.CreateNoteRequest(note=pb.Note(title="first", text="text"), request_id=str(uuid.uuid4()))
        created = (await notes.CreateNote(request)).note
        assert (created.title, created.text) == ("first", "text")
        assert (await notes.CreateNote(request)).note == created
        assert (await notes.GetNote(pb.GetNoteRequest(id=created.id))).note == created
        request.note.text = "other"
        with pytest.raises(vsync.InvalidArgumentError) as reused:
            await notes.CreateNote(request)
        assert reused.value.reason == "REQUEST_ID_REUSED"
        with pytest.raises(vsync.AlreadyExistsError) as taken:
            await notes.CreateNote(pb.CreateNoteRequest(note=pb.Note(title="first")))
        assert taken.value.reason == "NOTE_EXISTS"
        with pytest.raises(vsync.InvalidArgumentError):
            await notes.CreateNote(pb.CreateNoteRequest(note=pb.Note(text="x" * 1001)))

        await notes.CreateNote(pb.CreateNoteRequest(note=pb.Note(title="checked"), validate_only=True))
        for number in range(4):
            await notes.CreateNote(pb.CreateNoteRequest(note=pb.Note(title=f"note {number}")))
        titles = []
        page = await notes.ListNotes(pb.ListNotesRequest(page_size=2))
        while page.next_page_token:
            titles += [note.title for note in page.notes]
            page = await notes.ListNotes(pb.ListNotesRequest(page_size=2, page_token=page.next_page_token))
        titles += [note.title for note in page.notes]
        assert titles == ["first", *(f"note {number}" for number in range(4))]

        resource = f"notes/{created.id}"
        (entry,) = (await client.audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(resource=resource))).logs
        assert (entry.action, entry.resource) == (f"{SERVICE}/CreateNote", resource)
        for action in (f"{SERVICE}/CreateNote", f" {SERVICE}/CreateNote", f"{SERVICE.upper()}/CreateNote"):
            with pytest.raises(vsync.InvalidArgumentError):
                await client.audit.AppendAuditLog(audit_pb2.AppendAuditLogRequest(log=AuditLog(action=action)))

    metrics = await asyncio.to_thread(_get, f"http://127.0.0.1:{server.http_port}/metrics")
    assert f'grpc_service="{SERVICE}"' in metrics
    with psycopg.connect(empty_database.service) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM vsync.notes")
    settings = environment(empty_database, tmp_path / "backups")
    tree.run("vsyncd", "backup", "create", settings=settings)
    (backup,) = json.loads(tree.run("vsyncd", "backup", "list", "--json", settings=settings))
    assert backup["content"]["tables"]["vsync.notes"] == 5


@pytest.mark.soak
async def test_a_missing_migration_set_stops_its_own_services_only(
    serve: Serve, stubs: Stubs, tree: DomainTree, empty_database: Database
) -> None:
    pb = stubs.pb
    migrates = {
        "DATABASE_URL": empty_database.service_url,
        "DB_MIGRATE_URL": empty_database.owner_url,
        "DOMAINS": "all",
    }
    tree.run("vsyncd", "migrate", "up", settings=migrates)
    tree.run("vsyncd", "migrate", "down", "--set", "notes", settings=migrates)
    server = serve(DOMAINS="all", DB_AUTO_MIGRATE="false")
    async with vsync.connect(server.target) as client:
        health: Any = health_pb2_grpc.HealthStub(client.channel)

        async def turns(service: str, status: int) -> None:
            watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
            while (await watch.read()).status != status:
                pass
            watch.cancel()

        async def status(service: str) -> int:
            return int((await health.Check(health_pb2.HealthCheckRequest(service=service))).status)

        await turns("vsync.v1.CidService", SERVING)
        names = ("", "readiness", SERVICE, "vsync.v1.AuditService", "vsync.health.v1.Health")
        assert [await status(name) for name in names] == [NOT_SERVING] * 3 + [SERVING] * 2
        notes: Any = client.stub(stubs.rpc.NoteServiceStub)
        with pytest.raises(vsync.SchemaOutOfDateError):
            await notes.ListNotes(pb.ListNotesRequest())
        assert (await client.cids.CountCids(cid_pb2.CountCidsRequest())).total == 0
        tree.run("vsyncd", "migrate", "up", "--set", "notes", settings=migrates)
        for name in ("", SERVICE):
            await turns(name, SERVING)


@pytest.mark.soak
async def test_a_domain_that_is_not_selected_is_neither_migrated_nor_served(
    serve: Serve, stubs: Stubs, tree: DomainTree, empty_database: Database
) -> None:
    server = serve()
    async with vsync.connect(server.target) as client:
        info = (await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())).info
        assert info.domains == ["audit", "cids", "reconciliation", "server_info", "sync_batches"]
        assert {each.set for each in info.schema_versions} == {"core", "vsync"}
        notes: Any = client.stub(stubs.rpc.NoteServiceStub)
        with pytest.raises(vsync.CallError) as raised:
            await notes.ListNotes(stubs.pb.ListNotesRequest())
        assert raised.value.code is grpc.StatusCode.UNIMPLEMENTED
        assert SERVICE not in await _reflected(client.channel)
    with psycopg.connect(empty_database.owner) as connection:
        assert connection.execute("SELECT to_regclass('vsync.notes')").fetchone() == (None,)
    server = serve(DOMAINS="notes")
    async with vsync.connect(server.target) as client:
        info = (await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())).info
        assert info.domains == ["audit", "notes", "server_info"]
        assert await _reflected(client.channel) == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "vsync.health.v1.Health",
            "vsync.v1.AuditService",
            "vsync.v1.ServerService",
            "vsync.v1.StatusService",
        }
    complaint = tree.run("vsyncd", "serve", code=1, settings={"DOMAINS": "notes,other"})
    assert complaint.count("\n") == 1
    assert complaint.startswith("DOMAINS: ")
    assert complaint == tree.run("vsyncd", "check-config", code=1, settings={"DOMAINS": "notes,other"})


def _get(url: str) -> str:
    with urlopen(url) as response:  # noqa: S310  http of this test's server
        text: str = response.read().decode()
        return text


async def _reflected(channel: Any) -> set[str]:
    """Returns the full names of the services that reflection lists."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    return {service.name for service in (await call.read()).list_services_response.service}
