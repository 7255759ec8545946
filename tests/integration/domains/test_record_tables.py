"""Compares the record classes of every domain with their tables: names, types, nullability and lengths."""

import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from importlib import import_module
from uuid import UUID

import pytest
import vsyncd.domains
from vsyncd.postgres.tables import RecordTable

from tests.harness.cids import rows
from tests.harness.clusters import Database

COLUMN_TYPES: dict[object, set[str]] = {
    UUID: {"uuid"},
    bytes: {"bytea"},
    str: {"text"},
    bool: {"boolean"},
    int: {"smallint", "integer", "bigint"},
    Decimal: {"numeric", "numeric(18,2)"},
    date: {"date"},
    datetime: {"timestamp with time zone"},
    Mapping: {"jsonb"},
    list: {"text[]"},
}

COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull, EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = attrelid AND contype = 'c' AND attnum = ANY (conkey)) AS checked
    FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"""
CHECKS = "SELECT pg_get_constraintdef(oid) AS ddl FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'"
MAX_LENGTH = re.compile(r"(?:char|octet)_length\((\w+)\) <= (\d+)")


def record_tables() -> Iterator[tuple[str, RecordTable]]:
    """The TABLES of every domain that has a module `records`."""
    for package in pkgutil.iter_modules(vsyncd.domains.__path__, "vsyncd.domains."):
        if package.ispkg and any(module.name == "records" for module in pkgutil.iter_modules([_path(package.name)])):
            for table in import_module(f"{package.name}.records").TABLES:
                yield package.name, table


def _path(package: str) -> str:
    return next(iter(import_module(package).__path__))


def fields_of(table: RecordTable) -> dict[str, tuple[object, bool]]:
    """The type and whether it may be None, of each field that is a column."""
    found = {}
    for name, hint in typing.get_type_hints(table.record).items():
        if name not in table.computed:
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            (kind,) = [option for option in options if option is not types.NoneType]
            found[name] = (typing.get_origin(kind) or kind, types.NoneType in options)
    return found


def max_lengths(database: Database, table: str) -> dict[str, int]:
    """The greatest length of each column whose CHECKs contain one. A CHECK may have more for some of the rows."""
    limits: dict[str, int] = {}
    for check in rows(database, CHECKS, f"vsync.{table}"):
        for column, limit in MAX_LENGTH.findall(check["ddl"]):
            limits[column] = max(int(limit), limits.get(column, 0))
    return limits


def test_every_record_class_agrees_with_its_table(database: Database, subtests: pytest.Subtests) -> None:
    tables = list(record_tables())
    assert tables
    for domain, table in tables:
        columns = {row["attname"]: row for row in rows(database, COLUMNS, f"vsync.{table.table}")}
        for name, (kind, may_be_none) in fields_of(table).items():
            with subtests.test(f"{domain} {table.record.__name__}.{name}"):
                column = columns[name]
                assert column["type"] in COLUMN_TYPES[kind]
                assert may_be_none is not column["attnotnull"]
                assert column["checked"] or column["type"] not in {"text", "bytea"}, "a length without a limit"
        with subtests.test(f"{domain} {table.record.__name__}: lengths"):
            assert max_lengths(database, table.table) == table.max_chars
