"""A proxy for PostgreSQL that cuts a connection after the server has executed a message, before its answer arrives."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

from psycopg.conninfo import conninfo_to_dict

from tests.harness.clusters import Database


class CuttingProxy:
    """Forwards bytes, with one thread per connection."""

    def __init__(self, database: Database) -> None:
        parts = conninfo_to_dict(database.service)
        self._server = f"{parts['host']}/.s.PGSQL.{parts['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._text, self._after = b"", b""
        self.cuts = 0
        self.url = (
            f"postgresql://{parts['user']}@127.0.0.1:{self._listener.getsockname()[1]}/{database.name}?sslmode=disable"
        )

    def cut_after(self, text: bytes, *, after: bytes = b"") -> None:
        """Cuts the next connection that sends `text` after `after`, when the server answers.

        `after` distinguishes a transaction from those of the service's jobs.
        """
        self._text, self._after = text, after

    def start(self) -> None:
        """Starts to accept connections."""
        self._threads[0].start()

    def stop(self) -> None:
        """Closes every connection and waits for the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for client in self._clients:
            with contextlib.suppress(OSError):  # closed already
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._forward, args=[client]))
            self._threads[-1].start()

    def _forward(self, client: socket.socket) -> None:
        sent, cutting = b"", False
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._server)
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is client:
                        sent += data
                        if self._text and self._text in data and self._after in sent:
                            self._text, cutting = b"", True
                        server.sendall(data)
                    elif cutting:
                        self.cuts += 1
                        return
                    else:
                        client.sendall(data)


@contextlib.contextmanager
def cutting_proxy(database: Database) -> Iterator[CuttingProxy]:
    """A proxy in front of this database until the end of the block."""
    proxy = CuttingProxy(database)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
