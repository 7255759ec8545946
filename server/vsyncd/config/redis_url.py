"""Parses the URL of Redis.

redis://[user:password@]host[:port][/database]                       one server, also ?db=0; rediss:// with TLS
unix://[user:password@]/path/of/the/socket[?db=0]                     one server, over a Unix socket
redis+sentinel://[user:password@]host[:port],host.../service[/database]   the primary that Sentinel reports
redis+cluster://[user:password@]host[:port],host...                   a cluster

With rediss: ?ssl_ca_certs=FILE, ssl_certfile=FILE, ssl_keyfile=FILE.
With Sentinel: ?sentinel_username=, sentinel_password= for the account of the sentinels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from vsyncd.config.endpoints import HostPort, parse_hosts

Mode = Literal["single", "sentinel", "cluster"]

_PORTS: Mapping[Mode, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Address and account of Redis. `socket` is a path; `tls_files` has the option names of redis-py."""

    mode: Mode = "single"
    hosts: tuple[HostPort, ...] = ()
    socket: str = ""
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    service: str = ""
    tls_files: Mapping[str, str] = field(default_factory=dict)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def is_remote(self) -> bool:
        """Whether data leaves this machine."""
        return not all(host.is_local for host in self.hosts)

    @property
    def is_unprotected(self) -> bool:
        """Whether data would leave this machine unencrypted."""
        return self.is_remote and not self.tls


def parse_redis_url(text: str) -> RedisAddress:
    """Parses a URL of Redis. Raises ValueError without the text, which may contain a password."""
    try:
        url = urlsplit(text)
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    except ValueError:
        raise ValueError("not a Redis URL") from None
    scheme, _, kind = url.scheme.partition("+")
    mode = _mode(scheme, kind)
    account, _, hosts = url.netloc.rpartition("@")
    username, _, password = (unquote(part) for part in account.partition(":"))
    database, service, socket = options.pop("db", ""), "", ""
    if scheme == "unix":
        socket = unquote(url.path)
        if hosts or not socket:
            raise ValueError("the path of the socket is missing")
    else:
        parts = [part for part in url.path.strip("/").split("/") if part]
        service = unquote(parts.pop(0)) if mode == "sentinel" and parts else ""
        database = database or (parts.pop(0) if parts else "")
        if parts or (mode == "sentinel" and not service):
            raise ValueError("the path does not fit this kind of URL")
    address = RedisAddress(
        mode=mode,
        hosts=_hosts(hosts, mode) if not socket else (),
        socket=socket,
        tls=scheme == "rediss",
        username=username or None,
        password=password or None,
        database=_database(database, mode),
        service=service,
        tls_files={name: options.pop(name) for name in _TLS_FILES if scheme == "rediss" and name in options},
        sentinel_username=options.pop("sentinel_username", None) if mode == "sentinel" else None,
        sentinel_password=options.pop("sentinel_password", None) if mode == "sentinel" else None,
    )
    if options:
        raise ValueError("unknown option")
    return address


def _mode(scheme: str, kind: str) -> Mode:
    if scheme in {"redis", "rediss", "unix"} and not kind:
        return "single"
    if scheme in {"redis", "rediss"} and kind == "sentinel":
        return "sentinel"
    if scheme in {"redis", "rediss"} and kind == "cluster":
        return "cluster"
    raise ValueError("not a Redis URL")


def _hosts(text: str, mode: Mode) -> tuple[HostPort, ...]:
    hosts = parse_hosts(text or "localhost", default_port=_PORTS[mode])
    if mode == "single" and len(hosts) > 1:
        raise ValueError("more than one host")
    return hosts


def _database(text: str, mode: Mode) -> int:
    if not text:
        return 0
    if mode == "cluster" or not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError("the database must be a number, and a cluster has only database 0")
    return int(text)
