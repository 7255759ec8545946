"""The harness keeps what it promises to the other tests."""

import asyncio
import socket

import psycopg
import pytest
import uvloop

from tests.harness.clusters import Database
from tests.harness.loops import Loop


@pytest.mark.both_versions
def test_a_migrated_database_is_there_on_each_version(database: Database, postgres_version: int) -> None:
    with psycopg.connect(database.service) as connection:
        assert connection.info.server_version // 10_000 == postgres_version
        assert connection.execute('SELECT count(*) FROM "vsync".cids').fetchone() == (0,)


def test_an_empty_database_has_no_schema_of_ours(empty_database: Database) -> None:
    with psycopg.connect(empty_database.owner) as connection:
        assert connection.execute("SELECT to_regnamespace('vsync')").fetchone() == (None,)


def test_commits_wait_for_the_log_as_in_production(database: Database) -> None:
    with psycopg.connect(database.service_url) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_neither_role_is_a_superuser(database: Database) -> None:
    for conninfo in (database.owner, database.service):
        with psycopg.connect(conninfo) as connection:
            assert connection.execute("SHOW is_superuser").fetchone() == ("off",)


async def test_async_tests_run_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


def test_what_a_test_leaves_open_fails_it_and_holds_up_no_other() -> None:
    loop = Loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop.run_until_complete(loop.create_connection(asyncio.Protocol, *listener.getsockname()))
        with pytest.raises(ResourceWarning):
            loop.close()
    assert loop.is_closed()
