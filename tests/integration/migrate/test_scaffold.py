"""`vsyncd migrate create --table`: the scaffolded table, and the helpers for such tables."""

import itertools
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from vsyncd.core.tenants import Tenant
from vsyncd.migrate import (
    FEATURES,
    Down,
    MigrationTarget,
    TableScaffold,
    create_migration,
    default_root,
    run_migrations,
)
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.queries import Session
from vsyncd.postgres.tables import restore, set_tenant, soft_delete

from tests.harness.cids import execute, rows
from tests.harness.clusters import SERVICE, Database
from tests.harness.schema_dump import schema_dump
from tests.harness.serving import opened, settings_for

TENANT, OTHER_TENANT = Tenant(b"\1" * 32), Tenant(b"\2" * 32)
COLUMNS = {
    "audit-fields": {"created_at", "created_by", "updated_at", "updated_by"},
    "soft-delete": {"deleted_at", "deleted_by"},
    "tenant": {"tenant"},
    "revision": {"revision"},
}


def scaffolded(database: Database, root: Path, features: tuple[str, ...]) -> MigrationTarget:
    """A target with the core set and a set of one scaffolded table."""
    shutil.copytree(default_root() / "core", root / "core")
    create_migration("bills", set_name="bills", root=root, scaffold=TableScaffold(table="bills", features=features))
    return MigrationTarget(conninfo=database.owner, root=root, service_user=SERVICE, lock_timeout=60)


def columns_of(database: Database) -> set[str]:
    found = rows(database, "SELECT attname FROM pg_attribute WHERE attrelid = 'vsync.bills'::regclass AND attnum > 0")
    return {row["attname"] for row in found}


@pytest.mark.parametrize("features", [f for n in range(5) for f in itertools.combinations(FEATURES, n)], ids="+".join)
def test_any_combination_of_features_is_applied_and_reverted(
    empty_database: Database, tmp_path: Path, features: tuple[str, ...]
) -> None:
    target = scaffolded(empty_database, tmp_path, features)
    run_migrations(target)
    after = schema_dump(empty_database.owner)
    assert columns_of(empty_database) == {"id"}.union(*(COLUMNS[feature] for feature in features))
    run_migrations(target, Down())
    assert rows(empty_database, "SELECT to_regclass('vsync.bills')::text AS bills") == [{"bills": None}]
    run_migrations(target)
    assert schema_dump(empty_database.owner) == after


@pytest.mark.both_versions
async def test_a_scaffolded_table_behaves_as_documented(empty_database: Database, tmp_path: Path) -> None:
    target = scaffolded(empty_database, tmp_path, FEATURES)
    run_migrations(target)
    insert = "INSERT INTO vsync.bills (tenant, created_by, updated_by) VALUES (decode('{}', 'hex'), 'a', 'a')"
    for tenant in (TENANT, OTHER_TENANT):
        execute(empty_database, insert.format(tenant.hex()))
    async with opened(settings_for(empty_database.service_url)) as pool:
        await _check_helpers(pool)
    first, second = rows(empty_database, "SELECT * FROM vsync.bills ORDER BY tenant")
    assert (first["revision"], second["revision"]) == (3, 1), "two updates of one tenant's row"
    assert first["updated_at"] >= first["created_at"] == second["created_at"] or first["created_at"]
    with pytest.raises(psycopg.errors.CheckViolation):
        execute(empty_database, "UPDATE vsync.bills SET deleted_at = now()")
    indexes = rows(empty_database, "SELECT indexdef FROM pg_indexes WHERE tablename = 'bills' AND schemaname = 'vsync'")
    assert all("(tenant, id)" in row["indexdef"] for row in indexes)
    assert sum("WHERE (deleted_at IS NULL)" in row["indexdef"] for row in indexes) == 1


async def _check_helpers(pool: Pool) -> None:
    find = sql.SQL("SELECT id FROM vsync.bills")

    async def work(session: Session) -> None:
        assert await _ids(session) == [], "without a tenant no row is visible"
        await set_tenant(session, TENANT)
        (identifier,) = await _ids(session)
        parameters = {"id": identifier, "actor": "b", "tenant": TENANT}
        for query, changed in ((soft_delete, 1), (soft_delete, 0), (restore, 1), (restore, 0)):
            done = await session.all(query("bills", "vsync", has_tenant=True), parameters)
            assert len(done) == changed, query.__name__
        await set_tenant(session, OTHER_TENANT)
        assert await session.all(soft_delete("bills", "vsync"), parameters) == [], "also without the predicate"

    async def _ids(session: Session) -> list[object]:
        cursor = await session.connection.execute(find)
        return [row[0] for row in await cursor.fetchall()]

    await pool.transaction(work)


def test_the_header_names_version_description_and_date(tmp_path: Path) -> None:
    up, _ = create_migration("add bills", set_name="bills", root=tmp_path, scaffold=TableScaffold(table="bills"))
    lines = up.read_text().splitlines()
    assert lines[:2] == ["-- Version: 1", "-- Description: add bills"]
    assert lines[2].startswith("-- Date: 20")
