"""Options that name a record, filter records, or define the fields of one; and how a record is printed."""

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from vsync.cli.console import print_json, stdout
from vsync.cli.options import KEY_TYPE, parse_time
from vsync.cli.tables import print_fields
from vsync.keys import normalize_key
from vsync.records import ACCOUNT_TYPES, KEY_TYPES, SYNC_STATUSES, fields_of
from vsync.v1 import cid_pb2

Command = Callable[..., int]

ACCOUNT_TYPE = click.Choice(ACCOUNT_TYPES.choices, case_sensitive=False)

dry_run_option = click.option("--dry-run", is_flag=True, help="Only validate: change nothing.")
revision_option = click.option(
    "--revision", type=click.IntRange(min=1), help="Fail unless the record has this revision."
)

_RECORD = (
    click.option("--cid", metavar="HEX", help="The record's content identifier."),
    click.option("--id", "record_id", metavar="UUID", help="The record's id."),
    click.option("--key", metavar="KEY", help="The Pix key, together with --ispb. Punctuation and case are ignored."),
    click.option("--ispb", metavar="ISPB", help="The participant that holds --key."),
)
_FILTER = (
    click.option("--ispb", default="", metavar="ISPB", help="Only records of this participant."),
    click.option("--key-type", type=KEY_TYPE, help="Only keys of this type."),
    click.option(
        "--status", type=click.Choice(SYNC_STATUSES.choices, case_sensitive=False), help="Only this sync status."
    ),
    click.option("--tax-id", default="", metavar="TAX_ID", help="Only records of this owner."),
)
_TIMES = (
    click.option(
        "--created-after",
        callback=parse_time,
        metavar="TIME",
        help="Only those created at or after TIME (ISO 8601, UTC).",
    ),
    click.option("--created-before", callback=parse_time, metavar="TIME", help="Only those created before TIME."),
)


def time_options(command: Command) -> Command:
    """Adds --created-after and --created-before."""
    return _with(_TIMES, command)


def record_options(command: Command) -> Command:
    """Adds the options that name one record. The command receives them as `by`, a GetCidRequest."""

    @functools.wraps(command)
    def with_record(
        *,
        cid: str | None,
        record_id: str | None,
        key: str | None,
        ispb: str | None,
        **arguments: Any,  # noqa: ANN401
    ) -> int:
        if sum(value is not None for value in (cid, record_id, key)) != 1 or (key is None) != (ispb is None):
            raise click.UsageError("Give either --cid, or --id, or --key and --ispb.")
        by = cid_pb2.GetCidRequest()
        if cid is not None:
            by.cid = cid
        elif record_id is not None:
            by.id = record_id
        else:
            by.key.MergeFrom(cid_pb2.CidKey(key_value=canonical_key(key or ""), ispb=ispb or ""))
        return command(by=by, **arguments)

    return _with(_RECORD, with_record)


def filter_options(command: Command) -> Command:
    """Adds the options that filter records. The command receives them as `wanted`, a CidFilter."""

    @functools.wraps(command)
    def with_filter(
        *,
        ispb: str,
        key_type: str | None,
        status: str | None,
        tax_id: str,
        created_after: dt.datetime | None,
        created_before: dt.datetime | None,
        **arguments: Any,  # noqa: ANN401 - the options' values are of many types
    ) -> int:
        wanted = cid_pb2.CidFilter(
            ispb=ispb,
            key_type=KEY_TYPES.numbers[key_type] if key_type else cid_pb2.KEY_TYPE_UNSPECIFIED,
            sync_status=SYNC_STATUSES.numbers[status] if status else cid_pb2.SYNC_STATUS_UNSPECIFIED,
            tax_id=tax_id,
            created_after=timestamp(created_after),
            created_before=timestamp(created_before),
        )
        return command(wanted=wanted, **arguments)

    return _with((*_FILTER, *_TIMES), with_filter)


def timestamp(time: dt.datetime | None) -> Timestamp | None:
    if time is None:
        return None
    converted = Timestamp()
    converted.FromDatetime(time)
    return converted


def canonical_key(key: str) -> str:
    """Returns the canonical form of --key. Raises click.BadParameter."""
    try:
        return normalize_key(key)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--key") from error


def print_record(record: cid_pb2.CidRecord, *, as_json: bool) -> None:
    fields = fields_of(record)
    if as_json:
        print_json(fields)
    else:
        # The revision is a number without separators, as --revision takes it.
        print_fields(stdout(), [(name, str(value)) for name, value in fields.items()])


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)
