"""GetServerInfo with and without a database."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from vsync.v1 import server_pb2 as pb
from vsync.v1 import server_pb2_grpc
from vsync.version import __version__
from vsyncd.config import Settings, load_settings
from vsyncd.domains.server_info.service import ServerService, features_of
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.migrate import MigrationTarget, latest_versions, run_migrations

from tests.harness.clusters import SERVICE, Database
from tests.harness.serving import opened, serving, settings_for


async def info(settings: Settings, *, started_at: datetime | None = None) -> pb.ServerInfo:
    async with opened(settings) as database:
        service = ServerService(database, settings, SchemaVersions(settings), started_at=started_at)
        register = partial(server_pb2_grpc.add_ServerServiceServicer_to_server, service)
        async with serving(settings, [register]) as channel:
            return (await server_pb2_grpc.ServerServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())).info


async def test_the_info_has_version_limits_features_and_domains(empty_database: Database) -> None:
    run_migrations(MigrationTarget(conninfo=empty_database.owner, service_user=SERVICE))
    started_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    settings = settings_for(empty_database.service_url, grpc_max_request_bytes=1_000_000)
    answer = await info(settings, started_at=started_at)
    assert answer.version == __version__
    assert {version.set: version.version for version in answer.schema_versions} == latest_versions()
    assert answer.start_time.ToDatetime(UTC) == started_at
    assert answer.limits == pb.Limits(
        default_page_size=100,
        max_page_size=1000,
        max_batch_size=1000,
        max_request_bytes=1_000_000,
        max_response_bytes=4 * 1024**2,
    )
    assert list(answer.features) == ["reflection"]


async def test_a_database_without_a_schema_has_no_versions(empty_database: Database) -> None:
    assert not (await info(settings_for(empty_database.service_url))).schema_versions


async def test_without_a_database_the_other_fields_are_returned_soon() -> None:
    async with asyncio.timeout(60):
        answer = await info(settings_for("postgresql://nobody@127.0.0.1:1/nothing", grpc_reflection=False))
    assert answer.version == __version__
    assert not answer.schema_versions
    assert not answer.features
    assert answer.start_time.seconds > 0


def test_features_follow_the_settings(tmp_path: Path) -> None:
    certificate = {"tls_cert_file": __file__, "tls_key_file": __file__}  # any file that can be read
    assert features_of(load_settings(**certificate)) == ["reflection", "tls"]
    assert features_of(load_settings(**certificate, tls_client_ca_file=__file__)) == ["reflection", "tls", "mutual_tls"]
    more = {"redis_url": "redis://localhost", "db_replica_hosts": "replica"}
    backups = {"backup_dir": str(tmp_path), "backup_schedule": "1d"}
    assert features_of(load_settings(**more, **backups)) == ["reflection", "cache", "replicas", "backups"]
