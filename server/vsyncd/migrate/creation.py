"""Creates new migration files, numbered or with a timestamp, optionally with the SQL of a new table.

docs/migrations.md, Table scaffold, describes the columns of such a table.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from vsyncd.migrate.errors import MigrateError
from vsyncd.migrate.files import DEFAULT_SET, MAX_VERSION, default_root, is_set_name, read_set

AUDIT_FIELDS: Final = "audit-fields"
SOFT_DELETE: Final = "soft-delete"
TENANT: Final = "tenant"
REVISION: Final = "revision"
FEATURES: Final = (AUDIT_FIELDS, SOFT_DELETE, TENANT, REVISION)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_UP = """\
-- Describe the purpose here. Qualify every name with "vsync", which is replaced by the schema.
-- docs/migrations.md describes how to change a table in use.
"""
_DOWN = "-- Revert exactly what the up file does.\n"


@dataclass(frozen=True, kw_only=True)
class TableScaffold:
    """A new table: its name, and which of FEATURES it has."""

    table: str
    features: Collection[str] = ()

    def up(self, *, set_name: str, version: int, description: str, today: date) -> str:
        parts = [
            f"-- Version: {version}\n-- Description: {description}\n-- Date: {today.isoformat()}\n",
            self._table(),
            self._comments(),
            self._indexes(),
            self._trigger(),
            self._row_security(),
            self._grants(set_name),
        ]
        return "\n".join(part for part in parts if part)

    def down(self, *, set_name: str) -> str:
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
            f"SELECT \"vsync\".restrict_to_tenant('{self.table}');\n"
        )

    def _grants(self, set_name: str) -> str:
        privileges = "SELECT, INSERT, UPDATE" + ("" if self._has(SOFT_DELETE) else ", DELETE")
        return (
            f'CREATE FUNCTION "vsync".grant_{set_name}_{self.table}_to_service(service name) RETURNS void\n'
            "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$\n"
            f"BEGIN\n    EXECUTE format('GRANT {privileges} ON \"vsync\".{self.table} TO %I', service);\nEND\n$$;\n\n"
            'REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "vsync" FROM PUBLIC;\n'
        )


def create_migration(
    name: str,
    *,
    set_name: str = DEFAULT_SET,
    root: Path | None = None,
    timestamp: bool = False,
    scaffold: TableScaffold | None = None,
) -> tuple[Path, Path]:
    """Write an up and a down file for `name` (spaces and dashes become `_`). Returns their paths.

    The version is the next number of the set, padded to six digits; with `timestamp`, the current second in UTC unless
    the set's versions are higher. The folder of a new set is created. Without `root` the files are created in the
    source tree, which an installed package does not have. `scaffold` is a table that the files create and drop. Raises
    MigrateError.
    """
    stem = re.sub(r"[\s-]+", "_", name.strip().lower())
    if _NAME.fullmatch(stem) is None:
        raise MigrateError("a name consists of a letter and up to 60 letters, digits and _")
    if not is_set_name(set_name):
        raise MigrateError("a set's name consists of a lower case letter and lower case letters, digits and _")
    root = root or default_root()
    if root == Path(__file__).resolve().parents[1] / "migrations":
        raise MigrateError("migrations cannot be added to an installed vsyncd: set DB_MIGRATE_PATH to a folder")
    folder = root / set_name
    existing = read_set(folder).migrations if folder.is_dir() else ()
    version = max((migration.version for migration in existing), default=0) + 1
    if timestamp:
        version = max(version, int(f"{datetime.now(UTC):%Y%m%d%H%M%S}"))
    if version > MAX_VERSION:
        raise MigrateError(f"the set {set_name} has no free version above {version - 1}")
    texts = (_UP, _DOWN)
    if scaffold is not None:
        if _NAME.fullmatch(scaffold.table) is None:
            raise MigrateError("a table's name takes letters, digits and _, the first a letter, at most 61")
        up_text = scaffold.up(set_name=set_name, version=version, description=name, today=datetime.now(UTC).date())
        texts = (up_text, scaffold.down(set_name=set_name))
    up, down = (folder / f"{version:06d}_{stem}.{direction}.sql" for direction in ("up", "down"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip((up, down), texts, strict=True):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise MigrateError(f"{folder} cannot be written to: {error.strerror}") from error
    return up, down
