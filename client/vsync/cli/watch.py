"""`vsync watch`"""

import sys
from collections.abc import Iterator
from itertools import islice

import click

from vsync.cli.console import print_json, stderr, stdout
from vsync.cli.messages import fields_of, short_name, short_time
from vsync.cli.options import (
    DONE,
    KEY_TYPE,
    ServerOptions,
    json_option,
    reconnect_option,
    rerun_command,
    server_options,
)
from vsync.cli.tables import STYLES
from vsync.client import SyncClient
from vsync.records import KEY_TYPES
from vsync.v1 import reconciliation_pb2 as pb
from vsync.v1.cid_pb2 import KEY_TYPE_UNSPECIFIED


@click.command("watch")
@click.option("--ispb", default="", metavar="ISPB", help="Only CIDs of this participant.")
@click.option("--key-type", type=KEY_TYPE, help="Only keys of this type.")
@click.option("--resume-token", default="", metavar="TOKEN", help="Continue after this token. Default: from now on.")
@click.option("--count", type=click.IntRange(min=1), help="End after this number of changes. Default: never.")
@reconnect_option
@server_options
@json_option
def command(
    *,
    server: ServerOptions,
    ispb: str,
    key_type: str | None,
    resume_token: str,
    count: int | None,
    reconnect_timeout: float,
    as_json: bool,
) -> int:
    """Show the changes of the CID set as they happen.

    Each change appears once and in the order of commits, also after a lost connection. --json prints one object per
    line; a token to continue from follows the changes of each message. Ctrl-C ends the command with exit code 0.
    """
    request = pb.WatchCidEventsRequest(
        ispb=ispb,
        key_type=KEY_TYPES.numbers[key_type] if key_type else KEY_TYPE_UNSPECIFIED,
        resume_token=resume_token,
    )
    token = resume_token
    try:
        with server.client() as client:
            for event, token in islice(_events(client, request, reconnect_timeout), count):
                _print_event(event, token, as_json=as_json)
    except KeyboardInterrupt:
        if not as_json and token:
            stderr().out(f"\nTo continue: {rerun_command(**{'resume-token': token})}")
    return DONE


def _events(
    client: SyncClient, request: pb.WatchCidEventsRequest, reconnect_timeout: float
) -> Iterator[tuple[pb.CidEvent, str]]:
    """Yields each event with the token of the last message that was yielded completely."""
    token = request.resume_token
    for message in client.watch_cid_events(request, reconnect_timeout=reconnect_timeout):
        for place, event in enumerate(message.events, 1):
            yield event, message.resume_token if place == len(message.events) else token
        token = message.resume_token


def _print_event(event: pb.CidEvent, token: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**fields_of(event), "resume_token": token})
    else:
        change = short_name(pb.CidChange.DESCRIPTOR, event.change)
        line = f"{KEY_TYPES.name(event.key_type):<5}  {event.ispb}  {event.cid}"
        console = stdout()
        console.print(
            f"[dim]{short_time(event.created_at)}[/]  [{STYLES[change]}]{change:<7}[/]  {line}", soft_wrap=True
        )
    # A reader of a pipe must see each change at once.
    sys.stdout.flush()
