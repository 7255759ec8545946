"""`vsyncd maintain`."""

import asyncio
import dataclasses
import json

import click

from vsyncd.cli.options import for_running_server, json_option
from vsyncd.config import Settings
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.maintenance.maintainer import Maintainer
from vsyncd.jobs.runner import JobRunner
from vsyncd.postgres.database import Database


@click.command()
@click.option("--dry-run", is_flag=True, help="Print the partitions that would be dropped, and change nothing.")
@json_option
@for_running_server
def maintain(settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Create future partitions and drop expired data.

    Expired data are partitions and the stored answers of old imports. vsyncd serve does the same every six hours.
    Dropping partitions needs the owner of the tables: the role of DB_MIGRATE_URL, or else of DATABASE_URL.
    """
    # One connection is enough.
    settings = settings.model_copy(update={"db_min_connections": 0})
    return asyncio.run(_maintain(settings, dry_run=dry_run, as_json=as_json))


async def _maintain(settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    database = Database(settings)
    maintainer = Maintainer(settings, database)
    await database.open()
    try:
        if dry_run:
            _report_dry([partition.name for partition in await maintainer.expired()], as_json=as_json)
        elif not await JobRunner([], JobLedger(database)).run_now(maintainer.job):
            click.echo("vsyncd: another process is running the maintenance", err=True)
            return 1
        else:
            _report(maintainer, as_json=as_json)
    finally:
        await database.close()
    return 0


def _report_dry(names: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"would_drop": names}))
        return
    for name in names:
        click.echo(f"would drop {name}")
    if not names:
        click.echo("nothing to drop")


def _report(maintainer: Maintainer, *, as_json: bool) -> None:
    done, until = maintainer.done, maintainer.watch.until_text
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done) | {"partitions_until": until}))
        return
    click.echo(f"{done.partitions_made} partitions created; every table has partitions until {until}")
    for name in done.partitions_dropped:
        click.echo(f"dropped {name}")
    click.echo(f"{done.chunks_pruned} answers of old imports deleted")
