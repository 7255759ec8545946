"""The HTTP probes of a whole vsyncd."""

import asyncio
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from vsyncd.app import Application
from vsyncd.config import Settings, StartError
from vsyncd.domains.registry import load_settings

from tests.harness.clusters import PASSWORD, SERVICE, Database
from tests.harness.http import HttpAnswer, get

LIVE_FIELDS = {"status", "message", "checks", "checked_at"}
HEALTH_FIELDS = {"status", "message", "liveness", "dependencies", "checked_at", "check_duration_ms"}


async def becomes(port: int, path: str, status: int) -> HttpAnswer:
    """Ask until the answer has this status."""
    async with asyncio.timeout(60):
        while (answer := await get(port, path)).status != status:  # noqa: ASYNC110  what is awaited is the server's
            await asyncio.sleep(0.05)
    return answer


@pytest.fixture
async def without_database(folder: Path) -> Settings:
    """Settings of a database that is not there."""
    return load_settings(
        database_url=make_conninfo(host=str(folder), user="nobody", dbname="nothing"),
        db_min_connections=0,
        db_health_check_interval=0.05,
        health_check_timeout=10,
        grpc_listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        shutdown_grace=1,
    )


async def test_liveness_tells_of_the_process(application: Application) -> None:
    answer = await get(application.http.port, "/live")
    assert answer.status == 200
    assert answer.json.keys() == LIVE_FIELDS
    assert answer.json["status"] == "HEALTHY"
    assert [(check["name"], check["ready"]) for check in answer.json["checks"]] == [
        ("config", True),
        ("grpc_server", True),
        ("database_pool", True),
        ("cache", True),
    ]


async def test_readiness_follows_what_can_be_served(application: Application) -> None:
    answer = await becomes(application.http.port, "/ready", 200)
    assert answer.json.keys() == LIVE_FIELDS
    assert answer.json["status"] == "HEALTHY"
    assert answer.json["checks"] == [{"name": "postgresql-primary", "ready": True, "message": "it answers"}]


async def test_health_is_the_contract_as_json(application: Application) -> None:
    answer = await get(application.http.port, "/health")
    assert answer.status == 200
    report = answer.json
    assert report.keys() == HEALTH_FIELDS
    assert (report["status"], report["liveness"]["is_alive"]) == ("HEALTHY", True)
    assert isinstance(report["check_duration_ms"], int)
    (primary,) = report["dependencies"]
    assert "config" not in primary
    assert (primary["name"], primary["type"], primary["status"]) == ("postgresql-primary", "DATABASE", "HEALTHY")
    assert (primary["is_critical"], primary["error"]) == (True, "")  # defaults stand there, too
    assert isinstance(primary["response_time_ms"], int)


async def test_the_detailed_report_says_where_and_never_who(application: Application, database: Database) -> None:
    answer = await get(application.http.port, "/health/detailed")
    (primary,) = answer.json["dependencies"]
    config = primary["config"]
    assert (config["database_name"], config["port"], config["topic_name"]) == (database.name, 5432, "")
    assert config["pool_info"]["max_connections"] == 25
    assert config["pool_info"]["wait_duration_ms"] >= 0
    assert config["metadata"]["server_role"] == "primary"
    assert PASSWORD not in answer.body.decode()
    assert SERVICE not in answer.body.decode()


@pytest.mark.settings(health_grpc_dependencies="directory=127.0.0.1:1!")
async def test_the_database_probe_covers_only_the_databases(application: Application) -> None:
    database = await get(application.http.port, "/health/database")
    assert database.status == 200
    assert [seen["name"] for seen in database.json["dependencies"]] == ["postgresql-primary"]
    everything = await get(application.http.port, "/health")
    assert everything.status == 503  # the other one is critical
    directory = everything.json["dependencies"][1]
    assert (directory["name"], directory["type"], directory["status"]) == ("directory", "GRPC_SERVICE", "UNHEALTHY")


@pytest.mark.settings(health_grpc_dependencies="directory=127.0.0.1:1")
async def test_a_degraded_service_is_ready(application: Application) -> None:
    answer = await get(application.http.port, "/health")
    assert (answer.status, answer.json["status"]) == (200, "DEGRADED")
    ready = await becomes(application.http.port, "/ready", 200)
    assert ready.json["status"] == "DEGRADED"


async def test_without_its_database_the_process_is_alive_but_not_ready(without_database: Settings) -> None:
    async with Application(without_database) as application:
        port = application.http.port
        assert (await get(port, "/live")).status == 200
        assert (await get(port, "/metrics")).status == 200
        ready = await get(port, "/ready")
        assert (ready.status, ready.json["status"]) == (503, "UNHEALTHY")
        for path in ("/health", "/health/detailed", "/health/database"):
            answer = await get(port, path)
            assert (answer.status, answer.json["status"]) == (503, "UNHEALTHY")
            assert answer.json["dependencies"][0]["error"] == "connection refused"


async def test_a_hundred_probes_at_once_are_answered(application: Application) -> None:
    await becomes(application.http.port, "/ready", 200)
    paths = ["/live", "/ready", "/health", "/metrics", "/nowhere"] * 20
    answers = await asyncio.gather(*(get(application.http.port, path) for path in paths))
    assert [answer.status for answer in answers if answer.status not in {200, 404}] == []


async def test_an_address_that_is_taken_stops_the_start(application: Application, settings: Settings) -> None:
    taken = settings.model_copy(update={"http_listen": f"127.0.0.1:{application.http.port}"})
    with pytest.raises(StartError, match=r"^HTTP_LISTEN: cannot listen on 127\.0\.0\.1:\d+: it is in use"):
        await Application(taken).start()
