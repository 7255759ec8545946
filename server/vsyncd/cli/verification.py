"""`vsyncd <domain> verify`, for each domain with a module `verification`."""

import json
from importlib import import_module

import click
import psycopg

from vsyncd.cli.options import for_running_server, json_option
from vsyncd.config import Settings
from vsyncd.config.connections import owner_conninfo
from vsyncd.postgres.error_mapping import service_error
from vsyncd.session_settings import NO_TIMEOUTS, connect

# What is printed of each problem.
_MAX_EXAMPLES = 20


def command_of(domain: str) -> click.Group:
    """Returns the group of commands of a domain."""

    @click.group(domain, help=f"Verify the stored {domain}.")
    def group() -> None: ...

    @group.command(help=f"Verify the stored {domain}. Exits with 1 if there is a difference.")
    @json_option
    @for_running_server
    def verify(settings: Settings, *, as_json: bool) -> int:
        """Reads one snapshot as the owner role (DB_MIGRATE_URL, or else DATABASE_URL). Does not block writers."""
        found = _find(settings, domain)
        if as_json:
            click.echo(json.dumps({"agrees": not found, "problems": found}))
            return bool(found)
        for problem, rows in found.items():
            click.echo(f"{problem}: {len(rows):,}")
            for row in rows[:_MAX_EXAMPLES]:
                click.echo("  " + " ".join(f"{name}={value}" for name, value in row.items()))
        if not found:
            click.echo(f"the stored {domain} agree")
        return bool(found)

    return group


def _find(settings: Settings, domain: str) -> dict[str, list[dict[str, object]]]:
    """Returns the rows that each query of the domain finds. Raises ServiceError."""
    problems: dict[str, str] = import_module(f"vsyncd.domains.{domain}.verification").PROBLEMS
    found = {}
    try:
        with connect(owner_conninfo(settings), settings=NO_TIMEOUTS) as connection:
            # A role that row-level security restricts would find nothing. With this setting it gets an error.
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute("SET LOCAL row_security = off")
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            for name, query in problems.items():
                rows = cursor.execute(query.replace('"vsync"', f'"{settings.db_schema}"').encode()).fetchall()
                if rows:
                    found[name] = rows
            connection.execute("COMMIT")
    except psycopg.errors.InsufficientPrivilege as error:
        raise click.ClickException(f"the role may not read all {domain}: set DB_MIGRATE_URL") from error
    except psycopg.Error as error:
        raise service_error(error) from error
    return found
