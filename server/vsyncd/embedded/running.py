"""The server of another process: where it is, while it runs."""

from pathlib import Path

from psycopg.conninfo import make_conninfo

from vsyncd.embedded.cluster import SUPERUSER
from vsyncd.embedded.errors import DataDirUnreachable, NotRunning
from vsyncd.embedded.postgres import DATABASE
from vsyncd.embedded.sockets import find_socket_dir


def conninfo_of_running(data_dir: Path) -> str:
    """How libpq reaches the database of the server that runs over this folder, as its owner.

    Raises NotRunning, and DataDirUnreachable when the folder belongs to somebody else.
    """
    path = data_dir.expanduser().absolute()
    try:
        sockets = find_socket_dir(path.resolve())
    except OSError as error:
        raise DataDirUnreachable(
            f"the data folder {path} cannot be used: {error.strerror}; the user who runs the server can"
        ) from error
    if sockets is None:
        raise NotRunning(f"no embedded PostgreSQL runs over {path}: start vsyncd serve --embedded --data-dir {path}")
    return make_conninfo(host=str(sockets), port=5432, user=SUPERUSER, dbname=DATABASE)
