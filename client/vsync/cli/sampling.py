"""`vsync sample`"""

from collections.abc import Iterator
from itertools import islice

import click

from vsync.atomic_files import STANDARD, whole_file
from vsync.cli.console import Stopwatch, print_json, progress_bar, stdout
from vsync.cli.options import DONE, machine_option
from vsync.errors import FileError
from vsync.files import RecordWriter, form_of
from vsync.records import INPUT_FIELDS
from vsync.sample import entries
from vsync.v1 import cid_pb2

_BLOCK = 1000


@click.command("sample", short_help="Makes sample records.")
@click.option("--count", type=click.IntRange(min=0), default=1000, show_default=True, help="How many records.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same records.")
@click.option(
    "--out", default=STANDARD, metavar="FILE", help="A .ndjson, .jsonl or .csv file, with .gz behind it to compress."
)
@machine_option
def sample_command(*, count: int, seed: int, out: str, as_json: bool) -> int:
    """Makes sample records of all five key types, ready to be imported. They go to stdout without --out."""
    if out == STANDARD and as_json:
        raise click.UsageError("--json would mix with the records on stdout.")
    try:
        form = form_of(out)
    except FileError as error:
        raise click.BadParameter(f"{error}.", param_hint="--out") from error
    watch = Stopwatch()
    with whole_file(out, gzipped=form.gzipped) as stream, progress_bar(hidden=as_json or out == STANDARD) as bar:
        task = bar.add_task("sampling", total=count, records=0)
        writer = RecordWriter(stream, form, INPUT_FIELDS)
        written = 0
        for block in _blocks(entries(count, seed)):
            writer.write(block)
            written += len(block)
            bar.update(task, completed=written, records=written)
    if as_json:
        print_json({"file": out, "records": written, "seed": seed, "seconds": round(watch.seconds, 3)})
    elif out != STANDARD:
        console = stdout()
        console.print("[green]✓[/] ", end="")
        console.out(f"{written:,} sample records to {out} {watch.sentence(written)}")
    return DONE


def _blocks(records: Iterator[cid_pb2.CidRecord]) -> Iterator[list[cid_pb2.CidRecord]]:
    while block := list(islice(records, _BLOCK)):
        yield block
