"""Helpers for tables with a revision, soft delete or a tenant, as `vsyncd migrate create --table` writes them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from vsyncd.core.errors import Aborted
from vsyncd.core.tenants import Tenant
from vsyncd.postgres.queries import Query, Session

# Fragments for `queries(package, schema, **FRAGMENTS)`: /*active*/ and /*of_tenant*/ in a WHERE clause.
FRAGMENTS: Final = {"active": "deleted_at IS NULL", "of_tenant": "tenant = %(tenant)s"}

_SET_TENANT: Final = Query("postgres.set_tenant", b"SELECT set_config('vsync.tenant', encode(%(tenant)s, 'hex'), true)")


class RecordTable(NamedTuple):
    """The table of a record class.

    `computed` are the fields of the class that are not columns. `max_chars` has the longest text that validation
    accepts for each column whose length a CHECK limits. The module `records` of a domain lists its tables as TABLES. A
    test compares names, types, nullability and lengths with the database.
    """

    record: type
    table: str
    computed: frozenset[str] = frozenset()
    max_chars: Mapping[str, int] = MappingProxyType({})


def check_revision(expected: int | None, actual: int) -> None:
    """Raises Aborted (REVISION_MISMATCH) if a caller expects another revision than the actual one."""
    if expected not in {None, actual}:
        raise Aborted("REVISION_MISMATCH", "The record has another revision.", metadata={"revision": str(actual)})


def soft_delete(table: str, schema: str, *, has_tenant: bool = False) -> Query:
    """Returns the query that marks the row `id` as deleted by `actor`. It returns no row if there is no such row."""
    change = "deleted_at = now(), deleted_by = %(actor)s"
    return Query(f"{table}.soft_delete", _mark(table, schema, change, "IS NULL", has_tenant=has_tenant))


def restore(table: str, schema: str, *, has_tenant: bool = False) -> Query:
    """Returns the query that restores the deleted row `id`. It returns no row if there is no such row."""
    change = "deleted_at = NULL, deleted_by = NULL"
    return Query(f"{table}.restore", _mark(table, schema, change, "IS NOT NULL", has_tenant=has_tenant))


async def set_tenant(session: Session, tenant: Tenant) -> None:
    """Sets the tenant for row-level security until the transaction ends. In autocommit it has no effect."""
    await session.run(_SET_TENANT, {"tenant": tenant})


def _mark(table: str, schema: str, change: str, deleted: str, *, has_tenant: bool) -> bytes:
    of_tenant = f" AND {FRAGMENTS['of_tenant']}" if has_tenant else ""
    where = f"id = %(id)s AND deleted_at {deleted}{of_tenant}"
    return f'UPDATE "{schema}".{table} SET {change} WHERE {where} RETURNING id'.encode()  # noqa: S608  names of ours
