"""Roles, a database and an environment with wrong session defaults."""

import os
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from tests.harness.clusters import OWNER, SERVICE, Database

# Half of them are set for the roles, half for the database (see `set_wrong_defaults`).
WRONG: Mapping[str, str] = {
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "America/Sao_Paulo",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "search_path": "decoy, pg_catalog",
    "array_nulls": "off",
    "backslash_quote": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "check_function_bodies": "off",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "client_min_messages": "error",
    "synchronous_commit": "off",
    "standard_conforming_strings": "off",
    "lc_monetary": "POSIX",
    "lc_numeric": "POSIX",
    "lc_time": "POSIX",
    "statement_timeout": "1s",
    "lock_timeout": "1ms",
    "idle_session_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "plpgsql.extra_errors": "all",
}
_OF_18: Mapping[str, str] = {"transaction_timeout": "1s", "restrict_nonsystem_relation_kind": "view"}
# Objects that a search_path with `decoy` would find first.
_DECOYS = """
CREATE SCHEMA decoy;
GRANT USAGE ON SCHEMA decoy TO PUBLIC;
CREATE FUNCTION decoy.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2001-01-01 00:00:00Z' $$;
CREATE FUNCTION decoy.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT 'decoy'::text $$;
CREATE FUNCTION decoy.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'decoy'::text $$;
CREATE FUNCTION decoy.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT NULL::text $$;
CREATE TABLE decoy.cids ()"""


def wrong_settings(version: int) -> dict[str, str]:
    """Returns the wrong settings for a server of this version."""
    return {**WRONG, **(_OF_18 if version >= 18 else {})}


def add_decoys(database: Database) -> None:
    """Creates a schema whose objects hide PostgreSQL's own if search_path begins with it."""
    with psycopg.connect(database.admin, autocommit=True) as connection:
        connection.execute(_DECOYS)


def set_wrong_defaults(database: Database) -> None:
    """Sets wrong session defaults for this database, and for the roles in it."""
    with psycopg.connect(database.admin, dbname="postgres", autocommit=True) as connection:
        for number, (name, value) in enumerate(wrong_settings(database.version).items()):
            setting = sql.SQL("SET {} TO {}").format(
                sql.Identifier(*name.split(".")),
                sql.SQL(", ").join(sql.Literal(each) for each in value.split(", "))
                if name == "search_path"
                else sql.Literal(value),
            )
            owners = [sql.SQL("DATABASE {}").format(sql.Identifier(database.name))]
            if number % 2:
                owners = [
                    sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(database.name))
                    for role in (OWNER, SERVICE, "vsync")
                ]
            for each in owners:
                connection.execute(sql.SQL("ALTER {} {}").format(each, setting))


def wrong_environment(folder: Path) -> dict[str, str]:
    """Returns wrong values of libpq's environment variables. `folder` is for a service file."""
    service = folder / "wrong_service.conf"
    service.write_text("[wrong]\nclient_encoding=LATIN1\ntarget_session_attrs=standby\n")
    options = {
        name: value.replace(" ", "\\ ")
        for name, value in WRONG.items()
        if name not in {"client_encoding", "statement_timeout", "plpgsql.extra_errors"}
    }
    return {
        "PGCLIENTENCODING": "LATIN1",
        "PGDATESTYLE": "German",
        "PGTZ": "Asia/Tokyo",
        "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in options.items()),
        "PGTARGETSESSIONATTRS": "standby",
        "PGHOSTADDR": "192.0.2.1",
        "PGSERVICE": "wrong",
        "PGSERVICEFILE": str(service),
    }


def clean_environment() -> dict[str, str]:
    """Returns this process's environment without libpq's variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
