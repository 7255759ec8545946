"""A way to PostgreSQL that can be cut at the worst moment: when the server has done what it was told, and says so."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

from psycopg.conninfo import conninfo_to_dict

from tests.harness.clusters import Database


class CuttingProxy:
    """Passes bytes on, a thread a connection. After `cut_after` the answer to one message is swallowed, and its
    connection closed."""

    def __init__(self, database: Database) -> None:
        parts = conninfo_to_dict(database.service)
        self._server = f"{parts['host']}/.s.PGSQL.{parts['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._nears: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._text, self._behind = b"", b""
        self.cuts = 0
        self.url = (
            f"postgresql://{parts['user']}@127.0.0.1:{self._listener.getsockname()[1]}/{database.name}?sslmode=disable"
        )

    def cut_after(self, text: bytes, *, behind: bytes = b"") -> None:
        """Cut the connection on which this is sent next, somewhere behind `behind`, once the server has done it.

        `behind` tells a transaction from those of the service's own jobs.
        """
        self._text, self._behind = text, behind

    def start(self) -> None:
        """Begin to accept connections."""
        self._threads[0].start()

    def stop(self) -> None:
        """Close everything, and wait until it is."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for near in self._nears:
            with contextlib.suppress(OSError):  # closed already
                near.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._nears.append(near)
            self._threads.append(threading.Thread(target=self._pass_on, args=[near]))
            self._threads[-1].start()

    def _pass_on(self, near: socket.socket) -> None:
        sent, cutting = b"", False
        with contextlib.suppress(OSError), near, socket.socket(socket.AF_UNIX) as far:
            far.connect(self._server)
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is near:
                        sent += data
                        if self._text and self._text in data and self._behind in sent:
                            self._text, cutting = b"", True
                        far.sendall(data)
                    elif cutting:
                        self.cuts += 1
                        return
                    else:
                        near.sendall(data)


@contextlib.contextmanager
def cutting_proxy(database: Database) -> Iterator[CuttingProxy]:
    """A proxy before this database, for as long as the context lasts."""
    proxy = CuttingProxy(database)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
