"""The token of a client: a key or a JWT, from memory or from a file that may be replaced while the client runs."""

from ipaddress import ip_address
from pathlib import Path
from typing import Final

AUTHORIZATION_KEY: Final = "authorization"


class Token:
    """Returns the value of the header `authorization`. Threads may share it.

    The file is read again when it has changed. If it is missing or empty at that moment, the last token is used.
    """

    def __init__(self, source: str | Path) -> None:
        """`source` is the token or the path of its file. Raises OSError, and ValueError for an empty token."""
        self._path = source if isinstance(source, Path) else None
        self._signature: tuple[int, ...] = ()
        self.header = ""
        if self._path is None:
            self._set(str(source))
        else:
            self._set(self._path.read_text(encoding="utf-8"))
            self.refresh()

    def refresh(self) -> str:
        """Returns the header, after reading a file that has changed."""
        if self._path is None:
            return self.header
        try:
            stat = self._path.stat()
            signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if signature != self._signature:
                self._set(self._path.read_text(encoding="utf-8"))
                self._signature = signature
        except (OSError, ValueError):
            pass
        return self.header

    def _set(self, token: str) -> None:
        token = token.strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("a token must have visible ASCII characters, without spaces")
        self.header = f"Bearer {token}"


def check_confidential(target: str, *, tls: bool) -> None:
    """Raises ValueError if a token would be sent to another machine without TLS."""
    if not tls and not _is_local(target):
        raise ValueError("a token is sent only over TLS, or to this machine")


def _is_local(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    # gRPC's names: dns:///host:port, dns://authority/host:port, ipv4:address:port, ipv6:[address]:port
    address = target.rpartition("/")[2].removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:")
    host, _, port = address.rpartition(":")
    host = (host if port.isdigit() and host else address).strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
