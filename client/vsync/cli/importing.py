"""`vsync import`"""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import click

from vsync.atomic_files import STANDARD
from vsync.cli.console import (
    Stopwatch,
    error_fields,
    print_error,
    print_json,
    progress_bar,
    stderr,
    stdout,
    waiting_for_the_server,
)
from vsync.cli.options import DONE, FAILED, Server, command_again, machine_option, patience_option, server_options
from vsync.cli.rejects import Rejects
from vsync.errors import CallError, FileError, VsyncError
from vsync.files import Bad, RecordReader
from vsync.importing import MAX_MESSAGE_BYTES, ImportOptions, ImportProgress, ImportWindow, fits, run_import
from vsync.reconnect import is_transient
from vsync.rpc_status import Violation
from vsync.v1 import cid_pb2
from vsync.v1.cid_pb2_grpc import CidServiceStub

ON_CONFLICT = {
    "skip": cid_pb2.ON_CONFLICT_SKIP,
    "fail": cid_pb2.ON_CONFLICT_FAIL,
    "replace": cid_pb2.ON_CONFLICT_REPLACE,
}
INITIAL_STATUS = {"pending": cid_pb2.SYNC_STATUS_PENDING, "synced": cid_pb2.SYNC_STATUS_SYNCED}
_TOO_LARGE = Violation("", f"must fit into a message of {MAX_MESSAGE_BYTES / 1024**2:.0f} MiB")


@click.command("import", short_help="Loads the records of a file.")
@click.argument("file")
@click.option(
    "--on-conflict",
    type=click.Choice(list(ON_CONFLICT)),
    default="skip",
    show_default=True,
    help="What to do with a record whose cid, or whose key at that ispb, is there already.",
)
@click.option(
    "--initial-status",
    type=click.Choice(list(INITIAL_STATUS)),
    default="pending",
    show_default=True,
    help="The records' status; synced when the directory is known to hold them.",
)
@click.option(
    "--resume",
    "--import-id",
    "import_id",
    type=click.UUID,
    metavar="IMPORT_ID",
    help="Go on with an earlier import of the same file with the same options. Default: a new import.",
)
@click.option(
    "--rejected",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where rejected lines go, in place of those of an earlier import. Default: FILE.rejected.ndjson",
)
@patience_option
@server_options
@machine_option
def import_command(
    *,
    server: Server,
    file: str,
    on_conflict: str,
    initial_status: str,
    import_id: uuid.UUID | None,
    rejected: Path | None,
    patience: float,
    as_json: bool,
) -> int:
    """Imports the records of FILE: .ndjson, .jsonl or .csv, which may be gzipped, or - for NDJSON.

    NDJSON has the proto's field names or those of protobuf's JSON (keyType). CSV has comma, semicolon or tab between
    its columns, and a header with those names in any case; empty rows are ignored.

    A lost connection is made again, and the import goes on behind the last committed chunk. An import that was
    interrupted altogether goes on with --resume: chunks that are committed take no effect twice. Exit code 1 when a
    line was rejected, too.
    """
    options = ImportOptions(
        import_id=str(import_id or uuid.uuid4()),
        on_conflict=ON_CONFLICT[on_conflict],
        initial_sync_status=INITIAL_STATUS[initial_status],
        patience=patience,
    )
    rejects_path = rejected or Path("import.rejected.ndjson" if file == STANDARD else f"{file}.rejected.ndjson")
    if _is_read(rejects_path, file):
        raise click.BadParameter("is FILE itself, which would be lost.", param_hint="--rejected")
    with _reader(file) as reader, server.client() as client:
        run = _ImportRun(reader, Rejects(rejects_path), options, file=file, as_json=as_json)
        return run.execute(client.cids)


def _is_read(path: Path, file: str) -> bool:
    """Whether a path leads to the very file that is read, also where that is stdin."""
    try:
        read = os.fstat(sys.stdin.fileno()) if file == STANDARD else Path(file).stat()
        return path.is_file() and os.path.samestat(path.stat(), read)
    except OSError:
        # FILE is not there, which its reader says; or stdin is no file.
        return False


def _reader(file: str) -> RecordReader:
    try:
        return RecordReader(file)
    except FileError as error:
        raise click.BadParameter(f"{error}.", param_hint="FILE") from error
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}.", param_hint="FILE") from error


class _ImportRun:
    """One run of the command: from the file, over the window, into progress, rejects and a summary."""

    def __init__(
        self, reader: RecordReader, rejects: Rejects, options: ImportOptions, *, file: str, as_json: bool
    ) -> None:
        self._reader = reader
        self._rejects = rejects
        self._options = options
        self._file = file
        self._as_json = as_json
        self._window = ImportWindow(self._good_lines(), options)
        self._watch = Stopwatch()
        self._unsent = 0
        # Taken here, where click's context is certain to be ours.
        self._again = command_again(resume=options.import_id)

    @property
    def _lines(self) -> int:
        """Lines that are done: answered for by the server, or rejected before it saw them."""
        return self._window.progress.records + self._unsent

    def execute(self, stub: CidServiceStub) -> int:
        """Imports, and says what became of it. Gives the exit code."""
        if not self._as_json:
            # It is never folded: it will be copied.
            stderr().print(f"[dim]import[/] {self._options.import_id}", soft_wrap=True)
        finished = False
        try:
            self._follow(stub)
            finished = True
        except (VsyncError, OSError) as error:
            self._explain(error)
            return FAILED
        except (KeyboardInterrupt, SystemExit):
            self._hint()
            raise
        finally:
            unkept = self._close_rejects(finished=finished)
        self._summarise(unkept)
        return FAILED if self._rejects.count or unkept else DONE

    def _close_rejects(self, *, finished: bool) -> OSError | None:
        """What was imported is committed: an error of the file of rejected lines does not hide that."""
        try:
            self._rejects.close(finished=finished)
        except OSError as error:
            if not (finished or self._as_json):
                print_error(error, as_json=False)
            return error
        return None

    def _good_lines(self) -> Iterator[tuple[int, cid_pb2.CidRecord]]:
        for entry in self._reader:
            if isinstance(entry, Bad):
                self._unsent += 1
                self._rejects.add(entry.line, "INVALID_LINE", entry.violations, text=entry.text)
            elif not fits(entry.record):
                self._unsent += 1
                self._rejects.add(entry.line, "INVALID_LINE", [_TOO_LARGE], record=entry.record)
            else:
                yield entry.line, entry.record

    def _follow(self, stub: CidServiceStub) -> None:
        with progress_bar(hidden=self._as_json) as bar:
            task = bar.add_task("importing", total=self._reader.size, records=0)
            waiting = waiting_for_the_server(bar, task)
            for progress in run_import(stub, self._window, self._options, on_wait=waiting):
                for rejection in progress.rejections:
                    self._rejects.add(
                        rejection.position, rejection.reason, rejection.violations, record=rejection.record
                    )
                # The bytes of a bar that is full belong to chunks that are still under way.
                bar.update(
                    task,
                    description="importing",
                    completed=self._reader.position,
                    records=self._lines,
                )

    def _explain(self, error: VsyncError | OSError) -> None:
        line = self._window.position_of(error) if isinstance(error, CallError) else None
        if self._as_json:
            print_json({**self._result(), "error": error_fields(error) | ({"line": line} if line else {})})
            return
        if line:
            stderr().print(f"[bold red]line {line:,}[/] ", end="")
        print_error(error, as_json=False)
        if is_transient(error) if isinstance(error, CallError) else self._lines:
            self._hint()

    def _hint(self) -> None:
        console = stderr()
        console.out(f"{self._lines:,} records are done. Go on with:")
        console.out(f"  {self._again}")

    def _summarise(self, unkept: OSError | None) -> None:
        """Reports the result. `unkept`: the file of rejected lines could not be written."""
        if self._as_json:
            failure = {"rejected_file": None, "error": error_fields(unkept)} if unkept else {}
            print_json(self._result() | failure)
            return
        progress = self._window.progress
        console = stdout()
        console.print("[green]✓[/] " if not self._rejects.count else "[yellow]![/] ", end="")
        console.out(f"{self._lines:,} records of {self._file} {self._watch.sentence(self._lines)}")
        for name in ("inserted", "skipped", "replaced"):
            console.out(f"  {name:<9}{getattr(progress, name):>12,}")
        console.out(f"  {'rejected':<9}{self._rejects.count:>12,}")
        if progress.committed_before:
            console.out(f"  went on with an import whose first {progress.committed_before:,} chunks were committed")
        if progress.streams > 1:
            times = "once" if progress.streams == 2 else f"{progress.streams - 1} times"
            console.out(f"  lost its connection {times}, and went on")
        self._show_rejects(unkept)

    def _show_rejects(self, unkept: OSError | None) -> None:
        console = stderr()
        for sentence in self._rejects.shown:
            console.out(f"  {sentence}")
        more = self._rejects.count - len(self._rejects.shown)
        if unkept:
            print_error(unkept, as_json=False)
        elif self._rejects.count:
            console.out(f"  {f'and {more:,} more: ' if more else ''}see {self._rejects.path}")

    def _result(self) -> dict[str, object]:
        progress: ImportProgress = self._window.progress
        return {
            "import_id": self._options.import_id,
            "records": self._lines,
            "inserted": progress.inserted,
            "skipped": progress.skipped,
            "replaced": progress.replaced,
            "rejected": self._rejects.count,
            "rejected_file": str(self._rejects.path) if self._rejects.count else None,
            "committed_before": progress.committed_before,
            "streams": progress.streams,
            "seconds": round(self._watch.seconds, 3),
            "records_per_second": self._watch.rate(self._lines),
        }
