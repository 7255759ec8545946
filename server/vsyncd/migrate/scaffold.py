"""The SQL of a new table with the columns that many tables have. See docs/migrations.md, Table scaffold."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Final

AUDIT_FIELDS: Final = "audit-fields"
SOFT_DELETE: Final = "soft-delete"
TENANT: Final = "tenant"
REVISION: Final = "revision"
FEATURES: Final = (AUDIT_FIELDS, SOFT_DELETE, TENANT, REVISION)


@dataclass(frozen=True, kw_only=True)
class TableScaffold:
    """A new table: its name, and which of FEATURES it has."""

    table: str
    features: Collection[str] = ()

    def up(self, *, set_name: str, version: int, description: str, today: date) -> str:
        """Returns the text of the up file."""
        parts = [
            _header(version, description, today),
            self._table(),
            self._comments(),
            self._indexes(),
            self._trigger(),
            self._row_security(),
            self._grants(set_name),
        ]
        return "\n".join(part for part in parts if part)

    def down(self, *, set_name: str) -> str:
        """Returns the text of the down file."""
        functions = [f'"vsync".grant_{set_name}_{self.table}_to_service(name)']
        if self._has_trigger:
            functions.append(f'"vsync".{self.table}_updated()')
        return (
            "-- Drops the table and its data.\n"
            f'DROP TABLE "vsync".{self.table};\n'
            f"DROP FUNCTION {', '.join(functions)};\n"
        )

    def _has(self, feature: str) -> bool:
        return feature in self.features

    @property
    def _has_trigger(self) -> bool:
        return self._has(AUDIT_FIELDS) or self._has(REVISION)

    @property
    def _key(self) -> str:
        return "tenant, id" if self._has(TENANT) else "id"

    def _table(self) -> str:
        columns = [("id", "uuid", 'NOT NULL DEFAULT "vsync".uuid_v7(now())')]
        checks = [f"{self.table}_pkey PRIMARY KEY ({self._key})"]
        if self._has(TENANT):
            columns.insert(0, ("tenant", "bytea", "NOT NULL"))
            checks.append(f"{self.table}_tenant CHECK (octet_length(tenant) = 32)")
        if self._has(REVISION):
            columns.append(("revision", "bigint", "NOT NULL DEFAULT 1"))
            checks.append(f"{self.table}_revision CHECK (revision >= 1)")
        if self._has(AUDIT_FIELDS):
            for verb in ("created", "updated"):
                columns.append((f"{verb}_at", "timestamptz", "NOT NULL DEFAULT date_trunc('milliseconds', now())"))
                columns.append((f"{verb}_by", "text", 'COLLATE "C" NOT NULL'))
                checks.append(f"{self.table}_{verb}_by CHECK (char_length({verb}_by) BETWEEN 1 AND 200)")
            checks.append(f"{self.table}_updated_at CHECK (updated_at >= created_at)")
        if self._has(SOFT_DELETE):
            columns.append(("deleted_at", "timestamptz", ""))
            columns.append(("deleted_by", "text", 'COLLATE "C"'))
            checks.append(f"{self.table}_deleted_by CHECK (char_length(deleted_by) BETWEEN 1 AND 200)")
            checks.append(f"{self.table}_deleted CHECK ((deleted_at IS NULL) = (deleted_by IS NULL))")
        lines = [f"    {name:<10} {kind:<11} {rest}".rstrip() for name, kind, rest in columns]
        lines += [f"    CONSTRAINT {check}" for check in checks]
        return f'CREATE TABLE "vsync".{self.table} (\n' + ",\n".join(lines) + "\n);\n"

    def _comments(self) -> str:
        comments = []
        if self._has(TENANT):
            comments.append(("tenant", "The HMAC of the tenant name."))
        if self._has(REVISION):
            comments.append(("revision", "Incremented by each update. An update names the revision that it has read."))
        if self._has(SOFT_DELETE):
            comments.append(("deleted_at", "NULL: the row is not deleted."))
        return "".join(f"COMMENT ON COLUMN \"vsync\".{self.table}.{name} IS '{text}';\n" for name, text in comments)

    def _indexes(self) -> str:
        if not self._has(SOFT_DELETE):
            return ""
        return (
            "-- Lists of rows that are not deleted, in creation order.\n"
            f'CREATE INDEX {self.table}_active_idx ON "vsync".{self.table} ({self._key}) WHERE deleted_at IS NULL;\n'
        )

    def _trigger(self) -> str:
        if not self._has_trigger:
            return ""
        changes = []
        if self._has(REVISION):
            changes.append("    NEW.revision := OLD.revision + 1;\n")
        if self._has(AUDIT_FIELDS):
            changes.append("    NEW.created_at := OLD.created_at;\n")
            changes.append("    NEW.updated_at := greatest(date_trunc('milliseconds', now()), OLD.updated_at);\n")
        return (
            f'CREATE FUNCTION "vsync".{self.table}_updated() RETURNS trigger\n'
            "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$\n"
            f"BEGIN\n{''.join(changes)}    RETURN NEW;\nEND\n$$;\n\n"
            f'CREATE TRIGGER {self.table}_updated BEFORE UPDATE ON "vsync".{self.table}\n'
            f'    FOR EACH ROW EXECUTE FUNCTION "vsync".{self.table}_updated();\n'
        )

    def _row_security(self) -> str:
        if not self._has(TENANT):
            return ""
        return (
            "-- A second barrier besides the tenant predicate of the queries. It does not restrict the owner.\n"
            f'ALTER TABLE "vsync".{self.table} ENABLE ROW LEVEL SECURITY;\n'
            f'CREATE POLICY {self.table}_tenant ON "vsync".{self.table}\n'
            "    USING (tenant = decode(current_setting('vsync.tenant', true), 'hex'));\n"
        )

    def _grants(self, set_name: str) -> str:
        privileges = "SELECT, INSERT, UPDATE" + ("" if self._has(SOFT_DELETE) else ", DELETE")
        return (
            f'CREATE FUNCTION "vsync".grant_{set_name}_{self.table}_to_service(service name) RETURNS void\n'
            "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$\n"
            f"BEGIN\n    EXECUTE format('GRANT {privileges} ON \"vsync\".{self.table} TO %I', service);\nEND\n$$;\n\n"
            'REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;\n'
        )


def _header(version: int, description: str, today: date) -> str:
    return f"-- Version: {version}\n-- Description: {description}\n-- Date: {today.isoformat()}\n"
