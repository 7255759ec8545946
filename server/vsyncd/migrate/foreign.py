"""Recognises the records of other migration tools by their columns. Without a database."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

# Flyway's table does not have the name of vsyncd's.
FLYWAY_TABLE = "flyway_schema_history"


class Tool(Enum):
    """Another migration tool."""

    GOLANG_MIGRATE = "golang-migrate"
    DBMATE = "dbmate or Rails"
    FLYWAY = "Flyway"
    UNKNOWN = "another tool"

    @property
    def advice(self) -> str:
        """What to do about its record."""
        if self is Tool.GOLANG_MIGRATE:
            return "`vsyncd migrate adopt` takes its version over without executing files"
        rename = "" if self is Tool.FLYWAY else "rename that table, then "
        return (
            f"vsyncd cannot adopt it. To go on from it, {rename}record the version that the database has with"
            " `vsyncd migrate force V`"
        )


def tool_of(columns: Collection[str]) -> Tool | None:
    """The tool whose schema_migrations has these columns. None: vsyncd's own, or there is no table."""
    if not columns or "set_name" in columns:
        return None
    if set(columns) == {"version", "dirty"}:
        return Tool.GOLANG_MIGRATE
    return Tool.DBMATE if set(columns) == {"version"} else Tool.UNKNOWN
