"""Results do not depend on the session defaults of a role, a database, or libpq's environment."""

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from psycopg import sql
from psycopg.conninfo import make_conninfo
from vsync.v1 import audit_pb2, audit_pb2_grpc, cid_pb2, cid_pb2_grpc, reconciliation_pb2, reconciliation_pb2_grpc
from vsyncd import migrate
from vsyncd.backup.connection import connected
from vsyncd.backup.subprocesses import DBNAME, credentials
from vsyncd.migrate import connections
from vsyncd.postgres.connection import Connector
from vsyncd.session_settings import connect, for_programs

from tests.harness.backups import wheel
from tests.harness.cids import ISPB, a_record, create, some_records
from tests.harness.clusters import Database, Databases
from tests.harness.processes import SCRIPTS, ServerProcess
from tests.harness.reconciliation import VSYNC, diff, diff_requests, timestamp
from tests.harness.serving import settings_for
from tests.harness.wrong_sessions import add_decoys, clean_environment, spoil, wrong_environment, wrong_settings
from tests.integration.domains.cids.imports import imported
from tests.integration.domains.sync_batches.batches import Batches

# They differ from run to run: ids and times, tokens, durations, the databases' names, rows that jobs sum up.
_VARIES = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?|test_[0-9a-f]{12}|\d{8}T\d{6}\w*|_replaced_\d+"
)
_VARYING = {
    "claimToken",
    "nextPageToken",
    "token",
    "duration_ms",
    "seconds",
    "size",
    "path",
    "name",
    "created_at",
    "tables",
}


def steady(value: Any) -> Any:
    """A result without what differs from run to run."""
    if isinstance(value, Message):
        return steady(MessageToDict(value))
    if isinstance(value, Mapping):
        return {key: steady(each) for key, each in value.items() if key not in _VARYING}
    if isinstance(value, list | tuple):
        return [steady(each) for each in value]
    return _VARIES.sub("...", value) if isinstance(value, str) else value


class Service:
    """vsyncd over one database, as processes with an environment of their own."""

    def __init__(self, database: Database, folder: Path, environment: Mapping[str, str]) -> None:
        self.database = database
        self.settings = {
            "DATABASE_URL": database.service_url,
            "DB_MIGRATE_URL": database.owner_url,
            "BACKUP_URL": database.admin,
            "BACKUP_DIR": str(folder / "backups"),
            "PARALLEL_JOBS": "2",
            **environment,
        }
        self.log = folder / "serve.log"

    def run(self, *arguments: str) -> Any:
        """The JSON that a command writes."""
        command = [str(SCRIPTS / "vsyncd"), *arguments, "--json"]
        environment = clean_environment() | self.settings
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return steady(json.loads(done.stdout))

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Where it listens, for as long as the block lasts."""
        server = ServerProcess(self.database, self.log, **self.settings)
        server.start()
        try:
            yield server.target
        finally:
            server.stop()


async def cids_results(channel: grpc.aio.Channel) -> list[Any]:
    """Of CidService: creating, reading, importing, exporting."""
    cids = cid_pb2_grpc.CidServiceStub(channel)
    results: list[Any] = [(await cids.CreateCid(cid_pb2.CreateCidRequest(record=a_record(1)))).record]
    results += await create(cids, range(2, 6))
    results += await imported(cids, [(1, some_records(5, first=10))])
    update = cid_pb2.UpdateSyncStatusRequest(
        cids=[a_record(10).cid], sync_status=cid_pb2.SYNC_STATUS_FAILED, error="ação não concluída: 1 €"
    )
    results += [await cids.UpdateSyncStatus(update)]
    await cids.DeleteCid(cid_pb2.DeleteCidRequest(cid=a_record(11).cid))
    results += (await cids.ListCids(cid_pb2.ListCidsRequest())).records
    results += [list(answer.records) async for answer in cids.ExportCids(cid_pb2.ExportCidsRequest())]
    results += [await cids.CountCids(cid_pb2.CountCidsRequest())]
    results += [await cids.GetCid(cid_pb2.GetCidRequest(cid=a_record(10).cid))]
    return results


async def audit_results(channel: grpc.aio.Channel) -> list[Any]:
    """Of AuditService."""
    audit = audit_pb2_grpc.AuditServiceStub(channel)
    payload = Struct()
    payload.update({"text": "ação", "amount": "1 €", "ratio": 0.1, "path": "a\\b'c"})
    log = audit_pb2.AuditLog(actor="José", action="liquidação", correlation_id="c-1", payload=payload)
    appended = (await audit.AppendAuditLog(audit_pb2.AppendAuditLogRequest(log=log))).log
    assert appended.payload == payload
    return [appended, *(await audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(correlation_id="c-1"))).logs]


async def batch_results(channel: grpc.aio.Channel) -> list[Any]:
    """Of SyncBatchService."""
    batches = Batches(channel)
    batch = await batches.running()
    results: list[Any] = [batch]
    while (claim := await batches.claim(batch, 4)).records:
        results.append(claim)
        given = [record.cid for record in claim.records]
        results.append(await batches.report(claim.claim_token, given[1:], given[:1]))
    return [*results, await batches.complete(batch)]


async def reconciliation_results(channel: grpc.aio.Channel) -> list[Any]:
    """Of ReconciliationService."""
    stub = reconciliation_pb2_grpc.ReconciliationServiceStub(channel)
    pb, cpf = reconciliation_pb2, cid_pb2.KEY_TYPE_CPF
    verification = pb.VsyncVerification(
        ispb=ISPB,
        key_type=cpf,
        submitted_vsync=VSYNC,
        directory_result=pb.DIRECTORY_RESULT_OK,
    )
    await stub.RecordVsyncVerification(pb.RecordVsyncVerificationRequest(verification=verification))
    listed = await stub.ListVsyncVerifications(pb.ListVsyncVerificationsRequest(ispb=ISPB, key_type=cpf))
    found, summary = await diff(stub, diff_requests([bytes.fromhex(a_record(n).cid) for n in (1, 99)]))
    since = timestamp(datetime.now(UTC) - timedelta(days=1))
    events = await stub.ListCidEvents(pb.ListCidEventsRequest(ispb=ISPB, key_type=cpf, created_after=since))
    return [
        *listed.verifications,
        *(await stub.ListVsyncs(pb.ListVsyncsRequest(ispb=ISPB))).vsyncs,
        await stub.RecomputeVsync(pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cpf)),
        [[each.hex() for each in kind] for kind in found.values()],
        summary.missing_here,
        [(event.cid, event.change) for event in events.events],
    ]


async def results_of(service: Service) -> dict[str, Any]:
    """Calls and commands of every domain, and what they answer."""
    results: dict[str, Any] = {}

    async def note(*arguments: str) -> None:
        results[" ".join(arguments)] = await asyncio.to_thread(service.run, *arguments)

    for command in (["migrate", "up"], ["migrate", "status"], ["migrate", "validate"]):
        await note(*command)
    with service.serving() as target:
        async with grpc.aio.insecure_channel(target) as channel:
            for kind in (cids_results, audit_results, batch_results, reconciliation_results):
                results[kind.__name__] = [steady(each) for each in await kind(channel)]
    for command in (["maintain"], ["backup", "create"], ["backup", "verify", "latest"]):
        await note(*command)
    await note("backup", "restore", "latest", "--force")
    await note("vsync", "verify")
    return results


@pytest.mark.timeout(600)  # two vsyncds, each with a dozen processes one after the other
async def test_results_are_the_same_with_every_session_default_wrong(
    databases: Callable[[int], Databases], folder: Path
) -> None:
    found = []
    for kind in ("clean", "wrong"):
        with databases(18).fresh(migrated=False) as database:
            place = folder / kind
            place.mkdir()
            await asyncio.to_thread(add_decoys, database)
            if kind == "wrong":
                await asyncio.to_thread(spoil, database)
            environment = wrong_environment(place) if kind == "wrong" else {}
            found.append(await results_of(Service(database, place, environment)))
    clean, wrong = found
    for name, result in clean.items():
        assert wrong[name] == result, name


# A server has the last one once PL/pgSQL is loaded.
_SEEN = "SELECT name, coalesce(current_setting(name, true), 'none') FROM unnest(%s::text[]) AS name"


def settings_seen(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The value of each setting that `spoil` makes wrong."""
    names = list(wrong_settings(connection.info.server_version // 10_000))
    return dict(connection.execute(_SEEN, [names]).fetchall())


def of_the_service(conninfo: str) -> dict[str, str]:
    """Over a connection of the pool's."""

    async def ask() -> dict[str, str]:
        settings = settings_for(conninfo)
        connection = await Connector.of(settings, settings.database_hosts).open("test")
        names = list(wrong_settings(connection.info.server_version // 10_000))
        found: dict[str, str] = dict(await (await connection.execute(_SEEN, [names])).fetchall())
        await connection.close()
        return found

    return asyncio.run(ask())


def of_migrations(conninfo: str) -> dict[str, str]:
    """Over the engine's connection, also after it was renewed."""
    with connections.connected(conninfo) as connection:
        first = settings_seen(connection)
        connections.reset_session(connection, conninfo)
        assert settings_seen(connection) == first
    return first


def of_backups(conninfo: str) -> dict[str, str]:
    """Over a connection of backups."""
    with connected(conninfo) as connection:
        return settings_seen(connection)


def of_commands(conninfo: str) -> dict[str, str]:
    """Over a connection of `vsyncd vsync`."""
    with connect(conninfo) as connection:
        return settings_seen(connection)


def of_programs(conninfo: str) -> dict[str, str]:
    """In a session of PostgreSQL's own programs: psql's, told in the same way as pg_dump and pg_restore."""
    query = "SELECT json_object_agg(name, current_setting(name, true)) FROM unnest('{%s}'::text[]) AS name"
    with credentials(*for_programs(conninfo)) as access:
        command = [str(wheel() / "psql"), DBNAME, "-XAtc", query % ",".join(wrong_settings(16))]
        done = subprocess.run(
            command, env=access.environment, pass_fds=access.descriptors, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    # pg_dump and pg_restore set the timeouts themselves.
    seen: dict[str, str] = json.loads(done.stdout)
    return {name: value for name, value in seen.items() if "timeout" not in name and name != "plpgsql.extra_errors"}


@pytest.mark.both_versions
@pytest.mark.parametrize("of", [of_the_service, of_migrations, of_backups, of_commands, of_programs])
def test_every_connection_sets_what_it_depends_on(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, of: Callable[[str], dict[str, str]]
) -> None:
    conninfo = database.service_url if of is of_the_service else database.service
    clean = of(conninfo)
    add_decoys(database)
    spoil(database)
    for name, value in wrong_environment(folder).items():
        monkeypatch.setenv(name, value)
    wrong = of(conninfo)
    # `vsyncd vsync` and pg_restore set these in their own transactions or options.
    allowed = {"statement_timeout", "idle_in_transaction_session_timeout"} if of is of_commands else set()
    differing = {name for name, value in clean.items() if wrong[name] != value}
    assert differing <= allowed | ({"synchronous_commit"} if of is of_programs else set())


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def foreign(request: pytest.FixtureRequest, empty_database: Database) -> Database:
    """An empty database of an encoding that is not UTF8, in place of `empty_database`."""
    with psycopg.connect(empty_database.admin, dbname="postgres", autocommit=True) as admin:
        name = sql.Identifier(empty_database.name)
        admin.execute(sql.SQL("DROP DATABASE {}").format(name))
        admin.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE_PROVIDER libc LOCALE 'C' OWNER vsync_owner"
            ).format(name, request.param)
        )
    return empty_database


@pytest.mark.parametrize("migrates", ["true", "false"])
@pytest.mark.parametrize("command", [["serve"], ["migrate", "up"], ["migrate", "status"]], ids=" ".join)
def test_a_database_that_is_not_utf8_is_refused(foreign: Database, command: list[str], migrates: str) -> None:
    environment = clean_environment() | {
        "DATABASE_URL": foreign.owner_url,
        "DB_AUTO_MIGRATE": migrates,
        "GRPC_LISTEN": "127.0.0.1:0",
        "HTTP_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(
        [str(SCRIPTS / "vsyncd"), *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("vsyncd: ")]
    assert re.fullmatch(r"vsyncd: the database has the encoding (LATIN1|SQL_ASCII) instead of UTF8", line)
    assert "Traceback" not in done.stderr + done.stdout


def test_migrations_keep_a_search_path_of_the_connection_string(empty_database: Database) -> None:
    conninfo = make_conninfo(empty_database.owner, options="-c jit=off --search-path=a,\\ b")
    with connections.connected(conninfo) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("a, b",)
        connections.reset_session(connection, conninfo)
        assert connection.execute("SHOW search_path").fetchone() == ("a, b",)


@pytest.mark.parametrize("value", ["on", "local", "remote_write", "remote_apply", "off"])
def test_commits_are_durable_and_other_choices_of_the_operator_are_kept(database: Database, value: str) -> None:
    with psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{database.name}" SET synchronous_commit = {value}')
    with connect(database.service) as connection:
        expected = "on" if value == "off" else value
        assert connection.execute("SHOW synchronous_commit").fetchone() == (expected,)


def test_a_role_without_triggers_is_refused_unless_it_may_set_them_itself(database: Database) -> None:
    with psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{database.name}" SET session_replication_role = replica')
    with pytest.raises(migrate.DatabaseRefused, match="session_replication_role is replica"):
        migrate.migrate_up(migrate.MigrationTarget(conninfo=database.owner))
    with connect(database.admin) as connection:
        assert connection.execute("SHOW session_replication_role").fetchone() == ("origin",)
