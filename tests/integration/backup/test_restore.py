"""A restore replaces the target completely and atomically, or leaves it unchanged."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from vsyncd.backup.errors import BackupError, DatabaseFailed, Interrupted, RestoreFailed
from vsyncd.backup.inspection import connected, is_empty
from vsyncd.backup.manager import Backups
from vsyncd.backup.restoring import analyze
from vsyncd.backup.tasks import Progress, Task

from tests.harness.backups import (
    InThread,
    backups_in,
    content,
    databases_of,
    drop,
    elsewhere,
    into,
    only,
    waiting,
)
from tests.harness.catalog import fill
from tests.harness.cids import execute, rows
from tests.harness.clusters import OWNER, SERVICE, Database, Databases
from tests.harness.cutting_proxy import cutting_proxy
from tests.harness.owners import until

Fresh = Callable[[int], Databases]


@pytest.fixture(scope="module")
def source(databases: Fresh) -> Iterator[Database]:
    """One database for the tests that do not change it."""
    with databases(18).fresh() as database:
        fill(database)
        yield database


@pytest.fixture(scope="module")
def kept(source: Database, tmp_path_factory: pytest.TempPathFactory) -> Backups:
    """A backup of `source`."""
    backups = backups_in(source.admin, tmp_path_factory.mktemp("kept"))
    backups.create()
    return backups


@contextlib.contextmanager
def a_role(target: Database) -> Iterator[str]:
    """The connection string of a role with CREATEDB that is a member of the owner's and the service's roles."""
    role = f"role_{uuid4().hex[:8]}"
    with psycopg.connect(target.admin, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN CREATEDB IN ROLE {OWNER}, {SERVICE}".encode())
        try:
            yield make_conninfo(target.admin, user=role)
        finally:
            admin.execute(f"REASSIGN OWNED BY {role} TO {OWNER}; DROP OWNED BY {role}; DROP ROLE {role}".encode())


_WITHOUT_STATISTICS = """
    SELECT c.oid::regclass::text AS name
    FROM pg_class AS c
    WHERE c.relnamespace = 'vsync'::regnamespace AND c.relkind IN ('r', 'p')
      AND (c.reltuples < 0 OR (c.reltuples > 0 AND NOT EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid)))"""


@pytest.mark.both_versions
def test_a_restored_database_is_identical_and_works(
    backups: Backups, filled: Database, empty_database: Database
) -> None:
    before = content(filled.admin)
    backups.create()
    done = elsewhere(backups, empty_database.admin).restore(backups.list()[0].name)
    assert (done.database, done.replaced) == (empty_database.name, None)
    assert content(empty_database.admin) == before
    assert rows(
        empty_database, "SELECT pg_get_userbyid(datdba) AS o FROM pg_database WHERE datname = current_database()"
    )[0] == {"o": OWNER}

    assert not rows(empty_database, _WITHOUT_STATISTICS)

    # Triggers write events and totals, partitions accept rows, and the service's privileges are restored.
    execute(empty_database, "DELETE FROM vsync.cids WHERE ispb = '11111111'")
    assert rows(empty_database, "SELECT count(*) AS n FROM vsync.cid_events WHERE change = 2")[0]["n"] > 0
    (count,) = rows(empty_database, "SELECT sum(records)::int AS n FROM vsync.cid_totals")
    assert rows(empty_database, "SELECT count(*)::int AS n FROM vsync.cids") == [count]
    with psycopg.connect(empty_database.service) as service, pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute("DELETE FROM vsync.audit_logs")


def test_a_database_that_is_not_empty_is_replaced_only_on_request(kept: Backups, database: Database) -> None:
    execute(database, "CREATE TABLE vsync.mine ()")
    before = databases_of(database.admin)
    with pytest.raises(BackupError, match="is not empty; nothing was changed"):
        into(kept, database).restore(only(kept))
    until(lambda: databases_of(database.admin) <= before)  # concurrent tests have temporary databases too
    assert "mine" in content(database.admin)

    done = into(kept, database).restore(only(kept), replace_target=True)
    assert "mine" not in content(database.admin)
    assert done.replaced is not None
    assert "mine" in content(make_conninfo(database.admin, dbname=done.replaced))
    drop(database.admin, done.replaced)


@pytest.mark.both_versions
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT lo_from_bytea(0, 'a contract')",
        "CREATE PUBLICATION mine",
        "CREATE FOREIGN DATA WRAPPER mine",
        "CREATE CAST (uuid AS int) WITH INOUT",
        "CREATE TRUSTED LANGUAGE mine HANDLER plpgsql_call_handler",
        "CREATE SUBSCRIPTION mine CONNECTION 'host=/nonexistent' PUBLICATION theirs WITH (connect = false)",
        "CREATE SCHEMA mine",
    ],
)
def test_objects_outside_schemas_make_a_database_non_empty(empty_database: Database, statement: str) -> None:
    with connected(empty_database.admin) as admin:
        assert is_empty(admin)
        admin.execute(statement.encode())
        try:
            assert not is_empty(admin)
        finally:
            if "SUBSCRIPTION" in statement:  # a database that has one cannot be dropped
                admin.execute("ALTER SUBSCRIPTION mine SET (slot_name = NONE)")
                admin.execute("DROP SUBSCRIPTION mine")


def test_large_objects_alone_make_a_database_non_empty(kept: Backups, empty_database: Database) -> None:
    with psycopg.connect(empty_database.admin) as admin:
        admin.execute("SELECT lo_from_bytea(4711, 'a contract')")
    with pytest.raises(BackupError, match="is not empty; nothing was changed"):
        into(kept, empty_database).restore(only(kept))


def test_a_replaced_database_keeps_its_large_objects(kept: Backups, empty_database: Database) -> None:
    with psycopg.connect(empty_database.admin) as admin:
        admin.execute("SELECT lo_from_bytea(4711, 'a contract')")
    done = into(kept, empty_database).restore(only(kept), replace_target=True)
    assert done.replaced is not None
    with psycopg.connect(make_conninfo(empty_database.admin, dbname=done.replaced)) as admin:
        assert admin.execute("SELECT lo_get(4711)").fetchone() == (b"a contract",)
    drop(empty_database.admin, done.replaced)


def test_a_database_that_replaced_the_empty_target_meanwhile_is_kept(kept: Backups, empty_database: Database) -> None:
    """The empty target is dropped and created again during the restore."""
    name = sql.Identifier(empty_database.name)
    others: list[object] = []

    def exchange(progress: Progress) -> None:
        if progress.step == "compare":
            drop(empty_database.admin, empty_database.name)
            with psycopg.connect(empty_database.admin, dbname="postgres", autocommit=True) as admin:
                admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
                others.append(
                    admin.execute("SELECT oid FROM pg_database WHERE datname = %s", [empty_database.name]).fetchone()
                )

    done = into(kept, empty_database).restore(only(kept), Task(exchange))
    assert done.replaced is not None
    with psycopg.connect(empty_database.admin) as admin:
        assert others == [admin.execute("SELECT oid FROM pg_database WHERE datname = %s", [done.replaced]).fetchone()]
    drop(empty_database.admin, done.replaced)


def properties(database: Database) -> list[tuple[object, ...]]:
    """The owner, privileges and settings of a database."""
    query = (
        "SELECT pg_get_userbyid(datdba), datconnlimit,"
        " (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) AS a),"
        " (SELECT array_agg(setrole::regrole::text || setconfig::text ORDER BY setrole) FROM pg_db_role_setting"
        "  WHERE setdatabase = d.oid) FROM pg_database AS d WHERE datname = current_database()"
    )
    with psycopg.connect(database.admin) as connection:
        return connection.execute(query.encode()).fetchall()


def test_privileges_and_settings_of_the_database_are_kept(kept: Backups, database: Database) -> None:
    changes = f"""
        ALTER DATABASE {{0}} CONNECTION LIMIT 77;
        REVOKE ALL ON DATABASE {{0}} FROM PUBLIC;
        GRANT CONNECT, TEMPORARY ON DATABASE {{0}} TO {SERVICE} WITH GRANT OPTION;
        ALTER DATABASE {{0}} SET search_path = "$user", "a ""b"", c", public;
        ALTER DATABASE {{0}} SET application_name = 'it''s "so", \';
        ALTER ROLE {SERVICE} IN DATABASE {{0}} SET statement_timeout = '31s'"""
    with psycopg.connect(database.admin, autocommit=True) as admin:
        admin.execute(sql.SQL(changes).format(sql.Identifier(database.name)))
    before = properties(database)
    as_superuser = into(kept, database).restore(only(kept), replace_target=True)
    assert properties(database) == before
    assert as_superuser.refused == ()
    with a_role(database) as conninfo:
        as_another = elsewhere(kept, conninfo).restore(only(kept), replace_target=True)
        assert as_another.refused == (
            f'ALTER ROLE "{SERVICE}" IN DATABASE "{database.name}" SET "statement_timeout" TO \'31s\'',
        )
        with psycopg.connect(database.admin, autocommit=True) as admin:
            admin.execute(as_another.refused[0].encode())
        assert properties(database) == before
        assert as_superuser.replaced is not None
        assert as_another.replaced is not None
        drop(database.admin, as_superuser.replaced, as_another.replaced)


@pytest.mark.parametrize("template", ["template0", "template1"])
def test_a_template_database_cannot_be_the_target(kept: Backups, template: str) -> None:
    with pytest.raises(BackupError, match=f"^{template} is a template for new databases; nothing was changed"):
        kept.restore("latest", target=template, replace_target=True)


def test_a_backup_is_restored_under_another_name(kept: Backups, source: Database) -> None:
    name = f'a "name" {uuid4()}'
    try:
        done = kept.restore("latest", target=name)
        assert content(make_conninfo(source.admin, dbname=name)) == content(source.admin)
        assert done.replaced is None
    finally:
        drop(source.admin, name)


def test_no_acknowledged_write_is_lost_while_a_database_is_replaced(kept: Backups, database: Database) -> None:
    """Each write is either in the old database, which is kept, or in the new one."""
    acknowledged: list[str] = []
    done = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            # The swap ends the connections, and the name leads to the new database afterwards.
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(database.service) as connection:
                while not done.is_set():
                    key = str(uuid4())
                    connection.execute(
                        "INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)"
                        " VALUES (sha256(%s), 5, %s, '44444444', '1', 1, '00000000009')",
                        [f"{key} {number}".encode(), key],
                    )
                    connection.commit()
                    acknowledged.append(key)

    writing = InThread(write)
    until(lambda: len(acknowledged) > 10)
    restored = into(kept, database).restore(only(kept), replace_target=True)
    assert restored.replaced is not None
    switched = len(acknowledged)
    until(lambda: len(acknowledged) > switched + 10)
    done.set()
    writing.result()

    query = "SELECT key_value FROM vsync.cids WHERE ispb = '44444444'"
    new = {row["key_value"] for row in rows(database, query)}
    with psycopg.connect(make_conninfo(database.admin, dbname=restored.replaced)) as connection:
        old = {row[0] for row in connection.execute(query)}
    drop(database.admin, restored.replaced)
    assert not old & new
    assert set(acknowledged) <= old | new
    assert rows(database, "SELECT count(*) AS n FROM vsync.cids WHERE ispb <> '44444444'")[0]["n"] == 400


def test_a_backup_is_restored_into_a_newer_server_and_refused_by_an_older_one(databases: Fresh, tmp_path: Path) -> None:
    with databases(16).fresh() as older, databases(18).fresh(migrated=False) as newer:
        fill(older)
        backups = backups_in(older.admin, tmp_path)
        made = backups.create()
        elsewhere(backups, newer.admin).restore(made.name)
        assert content(newer.admin) == content(older.admin)

        again = backups_in(newer.admin, tmp_path)
        newest = again.create()
        with pytest.raises(BackupError, match="the backup is of PostgreSQL 18, and this server is 16"):
            elsewhere(again, older.admin).restore(newest.name)


def test_a_missing_role_is_reported_and_a_restore_without_roles_succeeds(
    database: Database, empty_database: Database, tmp_path: Path
) -> None:
    role = f"role_{uuid4().hex[:8]}"
    with psycopg.connect(database.admin) as admin:
        admin.execute(f"CREATE ROLE {role}; GRANT SELECT ON vsync.imports TO {role}".encode())
    backups = backups_in(database.admin, tmp_path)
    made = backups.create()
    with psycopg.connect(database.admin) as admin:
        admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    other = elsewhere(backups, empty_database.admin)
    with pytest.raises(BackupError, match=rf"a role that this server does not have \({role}\)"):
        other.restore(made.name)
    other.restore(made.name, with_roles=False)
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) AS o FROM pg_class WHERE relnamespace = 'vsync'::regnamespace"
    assert rows(empty_database, owners) == [{"o": "vsync"}]


def test_a_role_with_createdb_restores_without_being_superuser(kept: Backups, empty_database: Database) -> None:
    with pytest.raises(DatabaseFailed, match="permission denied to create database"):
        elsewhere(kept, empty_database.owner).restore(only(kept))
    with a_role(empty_database) as conninfo:
        elsewhere(kept, conninfo).restore(only(kept))
        with psycopg.connect(empty_database.service) as service:
            assert service.execute("SELECT count(*) FROM vsync.cids").fetchone() == (400,)


@pytest.mark.parametrize("in_string", [True, False])
def test_pg_restore_uses_the_options_of_the_connection(
    kept: Backups, empty_database: Database, *, in_string: bool
) -> None:
    """The options set the role that may create databases."""
    with a_role(empty_database) as conninfo:
        role = conninfo_to_dict(conninfo)["user"]
        heir = f"role_{uuid4().hex[:8]}"
        with psycopg.connect(empty_database.admin, dbname="postgres", autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {heir} LOGIN NOINHERIT; GRANT {role} TO {heir} WITH INHERIT FALSE".encode())
            options = {"options": f"-c role={role}"} if in_string else {}
            with_role = elsewhere(kept, make_conninfo(conninfo, user=heir, **options))
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("PGOPTIONS", f"-c role={'nobody' if in_string else role}")
                    with_role.restore(only(kept))
            finally:
                admin.execute(f"DROP ROLE {heir}".encode())
    with psycopg.connect(empty_database.service) as service:
        assert service.execute("SELECT count(*) FROM vsync.cids").fetchone() == (400,)


@pytest.mark.parametrize("fails", [True, False])
def test_a_stop_request_or_a_failure_ends_the_analysis_of_all_tables(empty_database: Database, *, fails: bool) -> None:
    """Both ANALYZE wait for a lock."""
    task = Task()
    with psycopg.connect(empty_database.admin, autocommit=True) as admin:
        admin.execute("CREATE TABLE public.one AS SELECT 1 AS x; CREATE TABLE public.two AS SELECT 1 AS x")
    with psycopg.connect(empty_database.admin) as holder:
        holder.execute("LOCK TABLE public.one, public.two IN SHARE UPDATE EXCLUSIVE MODE")
        working = InThread(lambda: analyze(empty_database.admin, jobs=2, task=task))
        until(lambda: len(waiting(empty_database.admin, "ANALYZE%")) == 2)
        if fails:
            ended = waiting(empty_database.admin, "ANALYZE%")[0]
            rows(empty_database, "SELECT pg_terminate_backend(%s)", ended)
        else:
            task.stop()
        with pytest.raises(DatabaseFailed if fails else Interrupted):
            working.result()
        until(lambda: waiting(empty_database.admin, "ANALYZE%") == [])


def test_a_swap_whose_commit_response_is_lost_is_reported_as_done(kept: Backups, database: Database) -> None:
    execute(database, "CREATE TABLE vsync.mine ()")
    with cutting_proxy(database) as proxy:
        conninfo = make_conninfo(proxy.url, user=conninfo_to_dict(database.admin)["user"])
        proxy.cut_after(b"COMMIT", after=b"RENAME TO")
        done = elsewhere(kept, conninfo).restore(only(kept), replace_target=True)
        assert proxy.cuts == 1
    assert done.replaced is not None
    assert "mine" not in content(database.admin)
    assert "mine" in content(make_conninfo(database.admin, dbname=done.replaced))
    drop(database.admin, done.replaced)


def test_a_swap_that_failed_is_reported_as_not_done(kept: Backups, database: Database) -> None:
    execute(database, "CREATE TABLE vsync.mine ()")
    with cutting_proxy(database) as proxy:
        conninfo = make_conninfo(proxy.url, user=conninfo_to_dict(database.admin)["user"])
        proxy.cut_after(b"RENAME TO")
        with pytest.raises(RestoreFailed, match=f"^{database.name} was not changed: "):
            elsewhere(kept, conninfo).restore(only(kept), replace_target=True)
        assert proxy.cuts == 1
    assert "mine" in content(database.admin)


@pytest.mark.soak  # PostgreSQL waits five seconds for the session
def test_a_session_that_cannot_be_ended_leaves_the_target_unchanged(kept: Backups, empty_database: Database) -> None:
    with (
        psycopg.connect(empty_database.admin),  # a superuser's session, which another role may not end
        a_role(empty_database) as conninfo,
        pytest.raises(
            RestoreFailed, match=rf"^{empty_database.name} was not changed: .* being accessed by other users"
        ),
    ):
        elsewhere(kept, conninfo).restore(only(kept))
    assert rows(empty_database, "SELECT to_regclass('vsync.cids') AS t") == [{"t": None}]
