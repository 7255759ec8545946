"""The listen addresses of HTTP: HTTP_LISTEN for probes, ADMIN_LISTEN for metrics, details and the operations page."""

from typing import Final

from vsyncd.config import Settings, cannot_listen
from vsyncd.config.endpoints import parse_host_port
from vsyncd.core.listening import is_loopback
from vsyncd.http.operations import OperationsPage
from vsyncd.http.probes import Probes
from vsyncd.http.server import HttpServer

_DEFAULT_ADMIN_LISTEN: Final = "127.0.0.1:9090"


def admin_address(settings: Settings) -> str:
    """Returns ADMIN_LISTEN or its default: HTTP_LISTEN if only this machine reaches it, or else port 9090."""
    if settings.admin_listen is not None:
        return settings.admin_listen
    try:
        is_local = is_loopback(parse_host_port(settings.http_listen).host)
    except OSError:  # not an address of this machine: the start reports it
        is_local = True
    return settings.http_listen if is_local else _DEFAULT_ADMIN_LISTEN


class HttpListeners:
    """One server for both addresses if they are equal, or else two, which do not share their limit of connections.

    `port` and `admin_port` are known after `start`.
    """

    def __init__(self, settings: Settings, probes: Probes, page: OperationsPage) -> None:
        self.port = self.admin_port = 0
        self._http, self._admin = settings.http_listen, admin_address(settings)
        self._is_shared = self._http == self._admin
        public, admin = probes.public_routes, {**probes.admin_routes, **page.routes}
        self._server = HttpServer({**public, **admin} if self._is_shared else public)
        self._admin_server = self._server if self._is_shared else HttpServer({**public, **admin})

    async def start(self) -> None:
        """Raises StartError if an address cannot be used."""
        self.port = self.admin_port = await _start(self._server, "HTTP_LISTEN", self._http)
        if not self._is_shared:
            self.admin_port = await _start(self._admin_server, "ADMIN_LISTEN", self._admin)

    async def stop(self) -> None:
        """Closes all connections at once."""
        await self._server.stop()
        await self._admin_server.stop()


async def _start(server: HttpServer, setting: str, address: str) -> int:
    try:
        return await server.start(parse_host_port(address))
    except OSError as error:
        raise cannot_listen(setting=setting, address=address) from error
