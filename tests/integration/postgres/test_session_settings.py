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
from vsyncd.backup.inspection import connected
from vsyncd.backup.pg_tools import DBNAME, credentials
from vsyncd.migrate import connections
from vsyncd.postgres.connection import Connector
from vsyncd.session_settings import connect, for_programs

from tests.harness.backups import wheel
from tests.harness.cids import ISPB, a_record, create, some_records
from tests.harness.clusters import Database, Databases
from tests.harness.processes import SCRIPTS, ServerProcess
from tests.harness.reconciliation import VSYNC, diff, diff_requests, timestamp
from tests.harness.serving import settings_for
from tests.harness.wrong_sessions import (
    add_decoys,
    clean_environment,
    set_wrong_defaults,
    wrong_environment,
    wrong_settings,
)
from tests.integration.domains.cids.imports import imported
from tests.integration.domains.sync_batches.batches import Batches

# Values that differ between runs: ids, times, names of databases.
_VARIES = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?|test_[0-9a-f]{12}|\d{8}T\d{6}\w*|_replaced_\d+"
)
# Fields that differ between runs, such as tokens, durations, and rows that jobs fold.
_VARYING = {
    "claimToken",
    "nextPageToken",
    "token",
    "duration_ms",
    "duration_seconds",
    "size",
    "path",
    "name",
    "created_at",
    "tables",
}


def without_varying(value: Any) -> Any:
    """Returns a result without the values that differ between runs."""
    if isinstance(value, Message):
        return without_varying(MessageToDict(value))
    if isinstance(value, Mapping):
        return {key: without_varying(each) for key, each in value.items() if key not in _VARYING}
    if isinstance(value, list | tuple):
        return [without_varying(each) for each in value]
    return _VARIES.sub("...", value) if isinstance(value, str) else value


class Service:
    """vsyncd processes over one database, with their own environment."""

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
        """Executes a command and returns its JSON."""
        command = [str(SCRIPTS / "vsyncd"), *arguments, "--json"]
        environment = clean_environment() | self.settings
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return without_varying(json.loads(done.stdout))

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """The address of a server that runs until the end of the block."""
        server = ServerProcess(self.database, self.log, **self.settings)
        server.start()
        try:
            yield server.target
        finally:
            server.stop()


async def cids_results(channel: grpc.aio.Channel) -> list[Any]:
    """Results of CidService: creating, reading, importing, exporting."""
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
    """Results of AuditService."""
    audit = audit_pb2_grpc.AuditServiceStub(channel)
    payload = Struct()
    payload.update({"text": "ação", "amount": "1 €", "ratio": 0.1, "path": "a\\b'c"})
    log = audit_pb2.AuditLog(actor="José", action="liquidação", correlation_id="c-1", payload=payload)
    appended = (await audit.AppendAuditLog(audit_pb2.AppendAuditLogRequest(log=log))).log
    assert appended.payload == payload
    return [appended, *(await audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(correlation_id="c-1"))).logs]


async def batch_results(channel: grpc.aio.Channel) -> list[Any]:
    """Results of SyncBatchService."""
    batches = Batches(channel)
    batch = await batches.running()
    results: list[Any] = [batch]
    while (claim := await batches.claim(batch, 4)).records:
        results.append(claim)
        given = [record.cid for record in claim.records]
        results.append(await batches.report(claim.claim_token, given[1:], given[:1]))
    return [*results, await batches.complete(batch)]


# Ten creations and a deletion.
_EVENTS = 11


async def reconciliation_results(channel: grpc.aio.Channel) -> list[Any]:
    """Results of ReconciliationService."""
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
    request = pb.ListCidEventsRequest(ispb=ISPB, key_type=cpf, created_after=since)
    async with asyncio.timeout(60):
        # Any open transaction on the server delays events, for example autovacuum's.
        while len((events := await stub.ListCidEvents(request)).events) < _EVENTS:  # noqa: ASYNC110  the list has no event to wait for
            await asyncio.sleep(0.05)
    return [
        *listed.verifications,
        *(await stub.ListVsyncs(pb.ListVsyncsRequest(ispb=ISPB))).vsyncs,
        await stub.RecomputeVsync(pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cpf)),
        [[each.hex() for each in kind] for kind in found.values()],
        summary.missing_here,
        # Concurrent creations have no order.
        sorted((event.cid, event.change) for event in events.events),
    ]


async def results_of(service: Service) -> dict[str, Any]:
    """Executes calls and commands of every domain, and returns their results."""
    results: dict[str, Any] = {}

    async def execute(*arguments: str) -> None:
        results[" ".join(arguments)] = await asyncio.to_thread(service.run, *arguments)

    for command in (["migrate", "up"], ["migrate", "status"], ["migrate", "validate"]):
        await execute(*command)
    with service.serving() as target:
        async with grpc.aio.insecure_channel(target) as channel:
            for kind in (cids_results, audit_results, batch_results, reconciliation_results):
                results[kind.__name__] = [without_varying(each) for each in await kind(channel)]
    for command in (["maintain"], ["backup", "create"], ["backup", "verify", "latest"]):
        await execute(*command)
    await execute("backup", "restore", "latest", "--force")
    await execute("vsync", "verify")
    return results


@pytest.mark.soak
@pytest.mark.timeout(600)  # two services, each with a dozen processes
async def test_results_are_the_same_with_every_session_default_wrong(
    databases: Callable[[int], Databases], folder: Path
) -> None:
    found = []
    for kind in ("clean", "wrong"):
        with databases(18).fresh(migrated=False) as database:
            subfolder = folder / kind
            subfolder.mkdir()
            await asyncio.to_thread(add_decoys, database)
            if kind == "wrong":
                await asyncio.to_thread(set_wrong_defaults, database)
            environment = wrong_environment(subfolder) if kind == "wrong" else {}
            found.append(await results_of(Service(database, subfolder, environment)))
    clean, wrong = found
    for name, result in clean.items():
        assert wrong[name] == result, name


# plpgsql.extra_errors exists only after PL/pgSQL is loaded.
_CURRENT_SETTINGS = "SELECT name, coalesce(current_setting(name, true), 'none') FROM unnest(%s::text[]) AS name"


def current_settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Returns the value of each setting that `set_wrong_defaults` changes."""
    names = list(wrong_settings(connection.info.server_version // 10_000))
    return dict(connection.execute(_CURRENT_SETTINGS, [names]).fetchall())


def of_the_service(conninfo: str) -> dict[str, str]:
    """The settings of the service's connections."""

    async def fetch() -> dict[str, str]:
        settings = settings_for(conninfo)
        connection = await Connector(settings, settings.database_hosts).connect("test")
        names = list(wrong_settings(connection.info.server_version // 10_000))
        found: dict[str, str] = dict(await (await connection.execute(_CURRENT_SETTINGS, [names])).fetchall())
        await connection.close()
        return found

    return asyncio.run(fetch())


def of_migrations(conninfo: str) -> dict[str, str]:
    """The settings of the migration engine's connection, which a renewal does not change."""
    with connections.connected(conninfo) as connection:
        first = current_settings(connection)
        connections.reset_session(connection, conninfo)
        assert current_settings(connection) == first
    return first


def of_backups(conninfo: str) -> dict[str, str]:
    """The settings of a backup's connection."""
    with connected(conninfo) as connection:
        return current_settings(connection)


def of_commands(conninfo: str) -> dict[str, str]:
    """The settings of the connection of `vsyncd vsync`."""
    with connect(conninfo) as connection:
        return current_settings(connection)


def of_programs(conninfo: str) -> dict[str, str]:
    """The settings of psql, which is configured in the same way as pg_dump and pg_restore."""
    query = "SELECT json_object_agg(name, current_setting(name, true)) FROM unnest('{%s}'::text[]) AS name"
    with credentials(*for_programs(conninfo)) as access:
        command = [str(wheel() / "psql"), DBNAME, "-XAtc", query % ",".join(wrong_settings(16))]
        done = subprocess.run(
            command, env=access.environment, pass_fds=access.descriptors, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    # pg_dump and pg_restore set the timeouts themselves.
    settings: dict[str, str] = json.loads(done.stdout)
    return {name: value for name, value in settings.items() if "timeout" not in name and name != "plpgsql.extra_errors"}


@pytest.mark.both_versions
@pytest.mark.parametrize("of", [of_the_service, of_migrations, of_backups, of_commands, of_programs])
def test_every_connection_overrides_wrong_session_defaults(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, of: Callable[[str], dict[str, str]]
) -> None:
    conninfo = database.service_url if of is of_the_service else database.service
    clean = of(conninfo)
    add_decoys(database)
    set_wrong_defaults(database)
    for name, value in wrong_environment(folder).items():
        monkeypatch.setenv(name, value)
    wrong = of(conninfo)
    # `vsyncd vsync` and pg_restore set these in their own transactions or options.
    allowed = {"statement_timeout", "idle_in_transaction_session_timeout"} if of is of_commands else set()
    differing = {name for name, value in clean.items() if wrong[name] != value}
    assert differing <= allowed | ({"synchronous_commit"} if of is of_programs else set())


@pytest.fixture(params=["LATIN1", pytest.param("SQL_ASCII", marks=pytest.mark.soak)])
def non_utf8_database(request: pytest.FixtureRequest, empty_database: Database) -> Database:
    """`empty_database`, recreated with another encoding."""
    with psycopg.connect(empty_database.admin, dbname="postgres", autocommit=True) as admin:
        name = sql.Identifier(empty_database.name)
        admin.execute(sql.SQL("DROP DATABASE {}").format(name))
        admin.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE_PROVIDER libc LOCALE 'C' OWNER vsync_owner"
            ).format(name, request.param)
        )
    return empty_database


@pytest.mark.parametrize(
    ("command", "migrates"),
    [("serve", "true"), ("serve", "false"), ("migrate up", "true"), ("migrate status", "true")],
)
def test_a_database_with_another_encoding_than_utf8_is_refused(
    non_utf8_database: Database, command: str, migrates: str
) -> None:
    environment = clean_environment() | {
        "DATABASE_URL": non_utf8_database.owner_url,
        "DB_AUTO_MIGRATE": migrates,
        "GRPC_LISTEN": "127.0.0.1:0",
        "HTTP_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(
        [str(SCRIPTS / "vsyncd"), *command.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("vsyncd: ")]
    assert re.fullmatch(r"vsyncd: the encoding of the database is (LATIN1|SQL_ASCII), not UTF8", line)
    assert "Traceback" not in done.stderr + done.stdout


def test_migrations_keep_a_search_path_of_the_connection_string(empty_database: Database) -> None:
    conninfo = make_conninfo(empty_database.owner, options="-c jit=off --search-path=a,\\ b")
    with connections.connected(conninfo) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("a, b",)
        connections.reset_session(connection, conninfo)
        assert connection.execute("SHOW search_path").fetchone() == ("a, b",)


@pytest.mark.parametrize("value", ["on", "local", "remote_write", "remote_apply", "off"])
def test_synchronous_commit_off_is_overridden_and_other_values_are_kept(database: Database, value: str) -> None:
    with psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{database.name}" SET synchronous_commit = {value}')
    with connect(database.service) as connection:
        expected = "on" if value == "off" else value
        assert connection.execute("SHOW synchronous_commit").fetchone() == (expected,)


def test_a_role_without_triggers_is_refused_unless_it_may_set_them_itself(database: Database) -> None:
    with psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{database.name}" SET session_replication_role = replica')
    with pytest.raises(migrate.DatabaseRefused, match="session_replication_role is replica"):
        migrate.run_migrations(migrate.MigrationTarget(conninfo=database.owner))
    with connect(database.admin) as connection:
        assert connection.execute("SHOW session_replication_role").fetchone() == ("origin",)
