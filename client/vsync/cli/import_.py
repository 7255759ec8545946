"""`vsync import`"""

import os
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from vsync.atomic_files import STANDARD
from vsync.cli.console import (
    Stopwatch,
    error_fields,
    print_error,
    print_json,
    print_mark,
    progress_bar,
    show_reconnect,
    stderr,
    stdout,
)
from vsync.cli.options import (
    DONE,
    FILE,
    ServerOptions,
    format_option,
    json_option,
    open_input,
    reconnect_option,
    rerun_command,
    server_options,
)
from vsync.cli.rejects import RejectsFile
from vsync.cli.standard_streams import FAILED
from vsync.client import SyncClient
from vsync.errors import CallError, FieldViolation, VsyncError
from vsync.importing import MAX_MESSAGE_BYTES, ImportOptions, ImportStream, fits
from vsync.reconnect import is_transient
from vsync.record_files import InvalidLine
from vsync.record_formats import Reader, open_records
from vsync.streams import run
from vsync.v1 import cid_pb2

ON_CONFLICT = {
    "skip": cid_pb2.ON_CONFLICT_SKIP,
    "fail": cid_pb2.ON_CONFLICT_FAIL,
    "replace": cid_pb2.ON_CONFLICT_REPLACE,
}
INITIAL_STATUS = {"pending": cid_pb2.SYNC_STATUS_PENDING, "synced": cid_pb2.SYNC_STATUS_SYNCED}
_TOO_LARGE = FieldViolation("", f"must fit into a message of {MAX_MESSAGE_BYTES / 1024**2:.0f} MiB")


@click.command("import")
@click.argument("file", type=FILE)
@format_option("csv", "ndjson", "parquet", default="that of its name.")
@click.option(
    "--on-conflict",
    type=click.Choice(list(ON_CONFLICT)),
    default="skip",
    show_default=True,
    help="What to do if the CID, or the key of the same participant, exists.",
)
@click.option(
    "--initial-status",
    type=click.Choice(list(INITIAL_STATUS)),
    default="pending",
    show_default=True,
    help="The sync status of new records; synced if the directory has them already.",
)
@click.option(
    "--resume",
    "--import-id",
    "import_id",
    type=click.UUID,
    metavar="IMPORT_ID",
    help="Resume an earlier import of the same file with the same options. Default: a new import.",
)
@click.option(
    "--rejected",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file for rejected lines, which replaces that of an earlier import. Default: FILE.rejected.ndjson",
)
@reconnect_option
@server_options
@json_option
def command(
    *,
    server: ServerOptions,
    file: str,
    kind: str | None,
    on_conflict: str,
    initial_status: str,
    import_id: uuid.UUID | None,
    rejected: Path | None,
    reconnect_timeout: float,
    as_json: bool,
) -> int:
    """Import the records of a file.

    FILE is .ndjson, .jsonl or .csv, and may be gzipped, or .parquet (extra: arrow); - is NDJSON from standard input.
    With --format it may have any name. NDJSON has the field names of
    the proto, or those of protobuf's JSON (keyType). CSV has a header with the same names in any case, and comma,
    semicolon or tab as the delimiter; empty rows are ignored.

    After a lost connection the import continues with the first chunk that is not committed. After an interruption,
    --resume continues it: committed chunks take no effect twice. The exit code is 1 also if a line was rejected.
    """
    options = ImportOptions(
        import_id=str(import_id or uuid.uuid4()),
        on_conflict=ON_CONFLICT[on_conflict],
        initial_sync_status=INITIAL_STATUS[initial_status],
        reconnect_timeout=reconnect_timeout,
    )
    rejects_path = rejected or Path("import.rejected.ndjson" if file == STANDARD else f"{file}.rejected.ndjson")
    if _is_input(rejects_path, file):
        raise click.BadParameter("must not be FILE itself, which would be overwritten.", param_hint="--rejected")
    with open_input(partial(open_records, kind=kind), file) as reader, server.client() as client:
        return _Import(reader, RejectsFile(rejects_path), options, file=file, as_json=as_json).execute(client)


def _is_input(path: Path, file: str) -> bool:
    """Returns whether a path is the input file, which may also be redirected to standard input."""
    try:
        status = os.fstat(sys.stdin.fileno()) if file == STANDARD else Path(file).stat()
        return path.is_file() and os.path.samestat(path.stat(), status)
    except OSError:
        # FILE does not exist, which the reader reports, or standard input is not a file.
        return False


class _Import:
    def __init__(
        self, reader: Reader, rejects: RejectsFile, options: ImportOptions, *, file: str, as_json: bool
    ) -> None:
        self._reader = reader
        self._rejects = rejects
        self._import_id = options.import_id
        self._file = file
        self._as_json = as_json
        self._stream = ImportStream(self._records(), options)
        self._watch = Stopwatch()
        self._rejected_unsent = 0
        # Evaluated here, because click's context is available.
        self._resume_command = rerun_command(resume=options.import_id)

    @property
    def _lines(self) -> int:
        """The number of lines that the server has answered, or that were rejected before they were sent."""
        return self._stream.progress.records + self._rejected_unsent

    @property
    def _new_lines(self) -> int:
        """The lines that count for the rate: those that no earlier run of a resumed import has committed."""
        return self._lines - self._stream.progress.records_before

    def execute(self, client: SyncClient) -> int:
        """Imports the records and prints the result. Returns the exit code."""
        if not self._as_json:
            # Never wrapped, so that it can be copied.
            stderr().print(f"[dim]import[/] {self._import_id}", soft_wrap=True)
        finished = False
        try:
            self._send(client)
            finished = True
        except (VsyncError, OSError) as error:
            self._print_failure(error)
            return FAILED
        except (KeyboardInterrupt, SystemExit):
            self._print_resume_command()
            raise
        finally:
            rejects_error = self._close_rejects(finished=finished)
        self._summarise(rejects_error)
        return FAILED if self._rejects.count or rejects_error else DONE

    def _close_rejects(self, *, finished: bool) -> OSError | None:
        """Returns the error of the rejects file instead of raising it, since the imported records are committed."""
        try:
            self._rejects.close(finished=finished)
        except OSError as error:
            if not (finished or self._as_json):
                print_error(error, as_json=False)
            return error
        return None

    def _records(self) -> Iterator[tuple[int, cid_pb2.CidRecord]]:
        for entry in self._reader:
            if isinstance(entry, InvalidLine):
                self._rejected_unsent += 1
                self._rejects.add(entry.line, "INVALID_LINE", entry.violations, text=entry.text)
            elif not fits(entry.record):
                self._rejected_unsent += 1
                self._rejects.add(entry.line, "INVALID_LINE", [_TOO_LARGE], record=entry.record)
            else:
                yield entry.line, entry.record

    def _send(self, client: SyncClient) -> None:
        with progress_bar(hidden=self._as_json) as bar:
            task = bar.add_task("importing", total=self._reader.size, records=0)
            for progress in run(self._stream, client.cids.ImportCids, show_reconnect(bar, task)):
                for rejection in progress.rejections:
                    self._rejects.add(
                        rejection.position, rejection.reason, rejection.violations, record=rejection.record
                    )
                # The position includes chunks that are read, but not yet answered.
                bar.update(
                    task,
                    description="importing",
                    completed=self._reader.position,
                    records=self._lines,
                    new=self._new_lines,
                )

    def _print_failure(self, error: VsyncError | OSError) -> None:
        line = self._stream.position_of(error) if isinstance(error, CallError) else None
        if self._as_json:
            print_json({**self._result(), "error": error_fields(error) | ({"line": line} if line else {})})
            return
        if line:
            stderr().print(f"[bold red]line {line:,}[/] ", end="")
        print_error(error, as_json=False)
        if is_transient(error) if isinstance(error, CallError) else self._lines:
            self._print_resume_command()

    def _print_resume_command(self) -> None:
        console = stderr()
        console.out(f"{self._lines:,} records are done. To resume the import, run:")
        console.out(f"  {self._resume_command}")

    def _summarise(self, rejects_error: OSError | None) -> None:
        if self._as_json:
            failure = {"rejected_file": None, "error": error_fields(rejects_error)} if rejects_error else {}
            print_json(self._result() | failure)
            return
        progress = self._stream.progress
        console = stdout()
        print_mark(console, good=not self._rejects.count)
        console.out(f"{self._lines:,} records of {self._file} {self._watch.sentence(self._new_lines)}")
        for name in ("inserted", "skipped", "replaced"):
            console.out(f"  {name:<9}{getattr(progress, name):>12,}")
        console.out(f"  {'rejected':<9}{self._rejects.count:>12,}")
        if progress.committed_before:
            console.out(f"  resumed an import with {progress.committed_before:,} committed chunks")
        if progress.streams > 1:
            times = "once" if progress.streams == 2 else f"{progress.streams - 1} times"
            console.out(f"  lost its connection {times}, and resumed")
        self._print_rejects(rejects_error)

    def _print_rejects(self, rejects_error: OSError | None) -> None:
        console = stderr()
        for sentence in self._rejects.examples:
            console.out(f"  {sentence}")
        more = self._rejects.count - len(self._rejects.examples)
        if rejects_error:
            print_error(rejects_error, as_json=False)
        elif self._rejects.count:
            console.out(f"  {f'and {more:,} more: ' if more else ''}see {self._rejects.path}")

    def _result(self) -> dict[str, object]:
        progress = self._stream.progress
        return {
            "import_id": self._import_id,
            "records": self._lines,
            "inserted": progress.inserted,
            "skipped": progress.skipped,
            "replaced": progress.replaced,
            "rejected": self._rejects.count,
            "rejected_file": str(self._rejects.path) if self._rejects.count else None,
            "committed_before": progress.committed_before,
            "streams": progress.streams,
            "seconds": round(self._watch.seconds, 3),
            "records_per_second": self._watch.rate(self._new_lines),
        }
