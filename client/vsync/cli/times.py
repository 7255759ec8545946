"""Times on the command line."""

import datetime as dt

import click


def instant(_ctx: click.Context, _param: click.Parameter, text: str | None) -> dt.datetime | None:
    """A time in ISO 8601, in UTC; without an offset it is that."""
    if text is None:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("takes a time like 2026-11-20 or 2026-11-20T08:00:00-03:00") from None
