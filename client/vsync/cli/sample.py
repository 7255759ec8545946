"""`vsync sample`"""

from itertools import islice

import click

from vsync.atomic_files import STANDARD, atomic_files
from vsync.cli.console import Stopwatch, print_json, print_mark, progress_bar, stdout
from vsync.cli.options import DONE, json_option, parse_format
from vsync.record_formats import record_writer
from vsync.records import INPUT_FIELDS
from vsync.sample import entries

_BLOCK_RECORDS = 1000


@click.command("sample")
@click.option("--count", type=click.IntRange(min=0), default=1000, show_default=True, help="The number of records.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed yields the same records.")
@click.option(
    "--out",
    default=STANDARD,
    metavar="FILE",
    help="The output file: .ndjson, .jsonl, .csv (each also with .gz) or .parquet. Default: standard output.",
)
@json_option
def command(*, count: int, seed: int, out: str, as_json: bool) -> int:
    """Create sample records.

    They have all five key types and can be imported.
    """
    if out == STANDARD and as_json:
        raise click.UsageError("--json needs --out, because the records go to standard output.")
    form = parse_format(out, option="--out")
    watch = Stopwatch()
    with (
        atomic_files([out], gzipped=form.gzipped) as (stream,),
        record_writer(stream, form, INPUT_FIELDS) as writer,
        progress_bar(hidden=as_json or out == STANDARD) as bar,
    ):
        task = bar.add_task("sampling", total=count, records=0)
        records, written = entries(count, seed), 0
        while block := list(islice(records, _BLOCK_RECORDS)):
            writer.write(block)
            written += len(block)
            bar.update(task, completed=written, records=written)
    if as_json:
        print_json({"file": out, "records": written, "seed": seed, "seconds": round(watch.seconds, 3)})
    elif out != STANDARD:
        console = stdout()
        print_mark(console, good=True)
        console.out(f"{written:,} sample records to {out} {watch.sentence(written)}")
    return DONE
