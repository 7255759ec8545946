"""`vsync diff`"""

import datetime as dt
from functools import partial
from pathlib import Path
from typing import IO

import click

from vsync.atomic_files import STANDARD, atomic_files
from vsync.cid_codec import CID_BYTES
from vsync.cid_file import CidFile
from vsync.cli.console import Stopwatch, print_json, print_mark, progress_bar, show_reconnect, stderr, stdout
from vsync.cli.options import (
    FILE,
    KEY_TYPE,
    ServerOptions,
    format_option,
    json_option,
    open_input,
    parse_time,
    reconnect_option,
    server_options,
)
from vsync.client import SyncClient
from vsync.diffing import DiffOptions
from vsync.record_formats import CidsOfRecords, open_records
from vsync.records import KEY_TYPES
from vsync.v1 import reconciliation_pb2 as pb

EQUAL, DIFFERENT, ERROR = 0, 1, 2


@click.command("diff")
@click.argument("file", type=FILE)
@click.option("--ispb", required=True, metavar="ISPB", help="The participant.")
@click.option("--key-type", required=True, type=KEY_TYPE, help="The key type of the CIDs in FILE.")
@format_option("csv", "ndjson", "parquet", "cids", default="cids.")
@click.option(
    "--made-at",
    callback=parse_time,
    metavar="TIME",
    help="When the directory created FILE (ISO 8601, UTC). Default: the time of FILE's last modification.",
)
@click.option(
    "--consistency",
    type=click.Choice(["strong", "eventual"]),
    help="Compare with the primary (strong) or with a replica (eventual). Default: a replica, if there is one.",
)
@click.option("--out", metavar="PREFIX", help="The prefix of the names of the two output files. Default: FILE")
@click.option("--allow-empty", is_flag=True, help="Accept a FILE without CIDs as the empty set.")
@reconnect_option
@server_options
@partial(json_option, failed=ERROR)
def command(
    *,
    server: ServerOptions,
    file: str,
    ispb: str,
    key_type: str,
    kind: str | None,
    made_at: dt.datetime | None,
    consistency: str | None,
    out: str | None,
    allow_empty: bool,
    reconnect_timeout: float,
    as_json: bool,
) -> int:
    """Compare the directory's CID set file with the server.

    FILE has one CID per line. It is text with LF, CRLF or CR line ends, or gzip data; - is standard input. With another
    --format it has records, of which those of --ispb and --key-type are compared. Writes PREFIX.missing-here (CIDs only
    in FILE) and PREFIX.missing-there (CIDs only on the server), one CID per line. A CID that the server added or
    removed after FILE was created is counted, but written to neither file.

    Exit codes: 0 equal, except for CIDs added or removed after FILE was created; 1 different, or a line of FILE is not
    a CID; 2 error: nothing was written, for example because no line of FILE is a CID.
    """
    number = KEY_TYPES.numbers[key_type]

    def open_file(name: str) -> CidFile | CidsOfRecords:
        if kind in {None, "cids"}:
            return CidFile(name, allow_empty=allow_empty)
        return CidsOfRecords(open_records(name, kind), ispb=ispb, key_type=number, allow_empty=allow_empty)

    with open_input(open_file, file) as cids, server.client() as client:
        options = DiffOptions(
            ispb=ispb,
            key_type=number,
            file_created_at=made_at or _modified_at(file),
            consistency=consistency or "",
            reconnect_timeout=reconnect_timeout,
        )
        diff = _Diff(cids, out or ("cids" if file == STANDARD else file), as_json=as_json)
        diff.execute(client, options)
    diff.summarise(file)
    return EQUAL if diff.equal else DIFFERENT


def _modified_at(file: str) -> dt.datetime:
    if file == STANDARD or not Path(file).is_file():
        raise click.UsageError("Standard input and pipes need --made-at, the time when the directory created the file.")
    return dt.datetime.fromtimestamp(Path(file).stat().st_mtime, dt.UTC)


class _Diff:
    def __init__(self, cids: CidFile | CidsOfRecords, prefix: str, *, as_json: bool) -> None:
        self._cids = cids
        self._as_json = as_json
        self._names = {
            pb.DIFF_KIND_MISSING_HERE: f"{prefix}.missing-here",
            pb.DIFF_KIND_MISSING_THERE: f"{prefix}.missing-there",
        }
        self._summary = pb.DiffSummary()
        self._watch = Stopwatch()

    def execute(self, client: SyncClient, options: DiffOptions) -> None:
        """Compares, and writes both files or none. Raises CallError, DiffIncompleteError, FileError, OSError."""
        with atomic_files(list(self._names.values())) as streams, progress_bar(hidden=self._as_json) as bar:
            files: dict[int, IO[bytes]] = dict(zip(self._names, streams, strict=True))
            task = bar.add_task("uploading", total=self._cids.size, records=0)
            for answer in client.diff(self._cids, options, on_reconnect=show_reconnect(bar, task)):
                if answer.HasField("part") and answer.part.kind in files:
                    lines = answer.part.cids.hex("\n", CID_BYTES)
                    files[answer.part.kind].write(lines.encode() + b"\n")
                elif answer.HasField("summary"):
                    self._summary = answer.summary
                phase = "uploading" if answer.HasField("progress") else "comparing"
                bar.update(task, description=phase, completed=self._cids.position, records=self._cids.cids)

    @property
    def equal(self) -> bool:
        """Whether the sets were equal when the file was created, and every line is a CID."""
        return not (self._summary.missing_here or self._summary.missing_there or self._cids.invalid)

    @property
    def _in_both(self) -> int:
        summary = self._summary
        return summary.their_vsync.count - summary.missing_here - summary.removed_since

    def summarise(self, file: str) -> None:
        if self._as_json:
            print_json(self._result(file))
            return
        summary, console = self._summary, stdout()
        ours, theirs = summary.our_vsync, summary.their_vsync
        print_mark(console, good=self.equal)
        console.out(f"{self._cids.cids:,} CIDs of {file} {self._watch.sentence(self._cids.cids)}")
        for name, count, text in (
            ("file", theirs.count, theirs.vsync),
            ("server", ours.count, ours.vsync),
            ("missing here", summary.missing_here, self._names[pb.DIFF_KIND_MISSING_HERE]),
            ("missing there", summary.missing_there, self._names[pb.DIFF_KIND_MISSING_THERE]),
            ("removed since", summary.removed_since, "in the file, removed from the server after its creation"),
            ("added since", summary.added_since, "not in the file, added to the server after its creation"),
            ("duplicates", summary.duplicates, ""),
        ):
            console.out(f"  {name:<15}{count:>14,}  {text}".rstrip())
        if not summary.kept_agrees:
            stderr().out("  the stored VSync differs from the server's CIDs. Run: vsyncd vsync rebuild")
        if ours.count and theirs.count and not self._in_both:
            stderr().out("  no CID is in both sets: is the file of another participant or key type?")
        if self._cids.invalid:
            stderr().out(f"  {self._invalid_lines()}")

    def _invalid_lines(self) -> str:
        count = self._cids.invalid
        numbers = ", ".join(f"{line:,}" for line in self._cids.invalid_lines)
        more = count - len(self._cids.invalid_lines)
        text = "1 line is not a CID" if count == 1 else f"{count:,} lines are not CIDs"
        return f"{text}: {numbers}{f' and {more:,} more' if more else ''}"

    def _result(self, file: str) -> dict[str, object]:
        summary = self._summary
        return {
            "file": file,
            "cids": self._cids.cids,
            "bad": self._cids.invalid,
            "bad_lines": self._cids.invalid_lines,
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
