"""`vsync diff`"""

import datetime as dt
from functools import partial
from pathlib import Path
from typing import IO

import click

from vsync.atomic_files import STANDARD, whole_files
from vsync.cid_codec import CID_BYTES
from vsync.cidfile import CidFile
from vsync.cli.console import Stopwatch, print_json, progress_bar, stderr, stdout, waiting_for_the_server
from vsync.cli.options import Server, machine_option, patience_option, server_options
from vsync.cli.times import instant
from vsync.client import SyncClient
from vsync.diffing import DiffOptions, run_diff
from vsync.records import KEY_TYPES
from vsync.v1 import reconciliation_pb2 as pb

EQUAL, DIFFERENT, ERROR = 0, 1, 2


@click.command("diff", short_help="Compares the directory's CID set file with ours.")
@click.argument("file")
@click.option("--ispb", required=True, metavar="ISPB", help="The participant.")
@click.option(
    "--key-type",
    required=True,
    type=click.Choice(KEY_TYPES.choices, case_sensitive=False),
    help="The key type that the file is of.",
)
@click.option(
    "--made-at",
    callback=instant,
    metavar="TIME",
    help="When the directory made the file. ISO 8601, UTC. Default: when FILE was last changed.",
)
@click.option(
    "--consistency",
    type=click.Choice(["strong", "eventual"]),
    help="Compare with the primary, or with a replica. Default: a replica where there is one, or else the primary.",
)
@click.option("--out", metavar="PREFIX", help="What the names of the two files begin with. Default: FILE")
@click.option("--allow-empty", is_flag=True, help="Accept a FILE without CIDs as the empty set, instead of an error.")
@patience_option
@server_options
@partial(machine_option, failed=ERROR)
def diff_command(
    *,
    server: Server,
    file: str,
    ispb: str,
    key_type: str,
    made_at: dt.datetime | None,
    consistency: str | None,
    out: str | None,
    allow_empty: bool,
    patience: float,
    as_json: bool,
) -> int:
    """Compares FILE, one CID a line, with the CIDs that the server holds.

    FILE is text with LF, CRLF or CR line ends, or gzip data; - is standard input. Writes PREFIX.missing-here (in FILE
    only) and PREFIX.missing-there (on the server only), one CID a line. A CID that was added or removed here since
    FILE was made is counted, and is in neither.

    Exit codes: 0 equal, apart from what changed here since FILE was made; 1 different, or a line of FILE is no CID;
    2 error: nothing was written, for example because no line of FILE is a CID.
    """
    with _opened(file, allow_empty=allow_empty) as cids, server.client() as client:
        options = DiffOptions(
            ispb=ispb,
            key_type=KEY_TYPES.numbers[key_type],
            file_created_at=made_at or _changed_at(file),
            consistency=consistency or "",
            patience=patience,
        )
        run = _DiffRun(cids, out or ("cids" if file == STANDARD else file), as_json=as_json)
        run.execute(client, options)
    run.summarise(file)
    return EQUAL if run.equal else DIFFERENT


def _opened(file: str, *, allow_empty: bool) -> CidFile:
    try:
        return CidFile(file, allow_empty=allow_empty)
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}.", param_hint="FILE") from error


def _changed_at(file: str) -> dt.datetime:
    if file == STANDARD or not Path(file).is_file():
        raise click.UsageError("For standard input or a pipe, give --made-at: when the directory made the file.")
    return dt.datetime.fromtimestamp(Path(file).stat().st_mtime, dt.UTC)


class _DiffRun:
    """One run of the command."""

    def __init__(self, cids: CidFile, prefix: str, *, as_json: bool) -> None:
        self._cids = cids
        self._as_json = as_json
        self._names = {
            pb.DIFF_KIND_MISSING_HERE: f"{prefix}.missing-here",
            pb.DIFF_KIND_MISSING_THERE: f"{prefix}.missing-there",
        }
        self._summary = pb.DiffSummary()
        self._watch = Stopwatch()

    def execute(self, client: SyncClient, options: DiffOptions) -> None:
        """Compares. Raises CallError, DifferencesIncomplete, FileError, OSError; then neither file is written."""
        with whole_files(list(self._names.values())) as streams, progress_bar(hidden=self._as_json) as bar:
            files: dict[int, IO[bytes]] = dict(zip(self._names, streams, strict=True))
            task = bar.add_task("sending", total=self._cids.size, records=0)
            waiting = waiting_for_the_server(bar, task)
            for answer in run_diff(client.reconciliation, self._cids, options, on_wait=waiting):
                if answer.HasField("part") and answer.part.kind in files:
                    lines = answer.part.cids.hex("\n", CID_BYTES)
                    files[answer.part.kind].write(lines.encode() + b"\n")
                elif answer.HasField("summary"):
                    self._summary = answer.summary
                done = "sending" if answer.HasField("progress") else "comparing"
                bar.update(task, description=done, completed=self._cids.position, records=self._cids.cids)

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what changed here since the file was made."""
        return not (self._summary.missing_here or self._summary.missing_there or self._cids.bad)

    @property
    def _in_both(self) -> int:
        summary = self._summary
        return summary.their_vsync.count - summary.missing_here - summary.removed_since

    def summarise(self, file: str) -> None:
        """Prints the result."""
        if self._as_json:
            print_json(self._result(file))
            return
        summary, console = self._summary, stdout()
        ours, theirs = summary.our_vsync, summary.their_vsync
        console.print("[green]✓[/] " if self.equal else "[yellow]![/] ", end="")
        console.out(f"{self._cids.cids:,} CIDs of {file} {self._watch.sentence(self._cids.cids)}")
        console.out(f"  {'theirs':<15}{theirs.count:>14,}  {theirs.vsync}")
        console.out(f"  {'ours':<15}{ours.count:>14,}  {ours.vsync}")
        for name, count, where in (
            ("missing here", summary.missing_here, self._names[pb.DIFF_KIND_MISSING_HERE]),
            ("missing there", summary.missing_there, self._names[pb.DIFF_KIND_MISSING_THERE]),
            ("removed since", summary.removed_since, "in the file, and removed here since it was made"),
            ("added since", summary.added_since, "not in the file, and added here since it was made"),
            ("duplicates", summary.duplicates, ""),
        ):
            console.out(f"  {name:<15}{count:>14,}  {where}".rstrip())
        if not summary.kept_agrees:
            stderr().out("  what is kept is not what is there: vsyncd vsync rebuild")
        if ours.count and theirs.count and not self._in_both:
            stderr().out("  no CID is on both sides: is the file of another participant or key type?")
        self._name_bad_lines()

    def _name_bad_lines(self) -> None:
        bad = self._cids.bad
        if not bad:
            return
        named = ", ".join(f"{line:,}" for line in self._cids.bad_lines)
        more = bad - len(self._cids.bad_lines)
        what = "1 line is no CID" if bad == 1 else f"{bad:,} lines are no CIDs"
        stderr().out(f"  {what}: {named}{f' and {more:,} more' if more else ''}")

    def _result(self, file: str) -> dict[str, object]:
        summary = self._summary
        return {
            "file": file,
            "cids": self._cids.cids,
            "bad": self._cids.bad,
            "bad_lines": self._cids.bad_lines,
            "blank": self._cids.blank,
            "duplicates": summary.duplicates,
            "equal": self.equal,
            "in_both": self._in_both,
            "ours": {"vsync": summary.our_vsync.vsync, "count": summary.our_vsync.count},
            "theirs": {"vsync": summary.their_vsync.vsync, "count": summary.their_vsync.count},
            "missing_here": summary.missing_here,
            "missing_there": summary.missing_there,
            "removed_since": summary.removed_since,
            "added_since": summary.added_since,
            "files": list(self._names.values()),
            "snapshot": summary.snapshot_time.ToJsonString(),
            "kept_agrees": summary.kept_agrees,
            "seconds": round(self._watch.seconds, 3),
        }
