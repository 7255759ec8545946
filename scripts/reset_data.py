"""`make reset`: deletes the data folder of `make run`, or that of --data-dir."""

from pathlib import Path

import click
from vsyncd.cli.options import embedded_data_dir
from vsyncd.embedded import EmbeddedError, remove_data_dir


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="As for vsyncd serve --embedded.")
def reset(data_dir: Path | None) -> None:
    """Delete the database and the cache of `make run`. Fails while it runs."""
    path = embedded_data_dir(data_dir)
    try:
        removed = remove_data_dir(path)
    except EmbeddedError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"deleted {path}" if removed else f"nothing to delete: {path} does not exist")


if __name__ == "__main__":
    reset()
