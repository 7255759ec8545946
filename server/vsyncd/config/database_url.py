"""Parses libpq connection strings into settings."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from vsyncd.config.endpoints import HostPort, parse_hosts, parse_port

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

DEFAULT_PORT = 5432

# libpq's parameters other than host and port that correspond to settings. Other parameters (options,
# target_session_attrs, ...) are passed on.
_SETTINGS = {
    "dbname": "db_name",
    "user": "db_user",
    "password": "db_password",
    "sslmode": "db_ssl_mode",
    "sslrootcert": "db_ssl_root_cert",
    "connect_timeout": "db_connect_timeout",
}


def parse_database_url(text: str) -> dict[str, str]:
    """Returns the parameters of a libpq URL or `key=value` string by libpq's names.

    Raises ValueError without the text, which may contain a password.
    """
    try:
        params = {name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None}
    except ProgrammingError:
        # Without a cause: libpq's message quotes the text.
        raise ValueError("not a libpq connection string") from None
    if params.get("sslmode", "prefer") not in get_args(SslMode):
        raise ValueError("unknown sslmode")
    timeout = params.get("connect_timeout", "2")
    if not (timeout.isascii() and timeout.isdigit() and 2 <= int(timeout) <= 600):
        raise ValueError("connect_timeout is not a number from 2 to 600")
    parse_hosts(",".join(str(host) for host in hosts_of(params)))
    return params


def settings_of(params: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings that the parameters define. Raises ValueError."""
    settings: dict[str, Any] = {_SETTINGS[name]: value for name, value in params.items() if name in _SETTINGS}
    if hosts := hosts_of(params):
        settings["db_host"] = ",".join(str(host) for host in hosts)
    elif "port" in params:
        settings["db_port"] = parse_port(params["port"], default_port=DEFAULT_PORT)
    return settings


def further_parameters(params: Mapping[str, str]) -> dict[str, str]:
    """Returns the parameters that correspond to no setting."""
    return {name: value for name, value in params.items() if name not in {*_SETTINGS, "host", "port"}}


def hosts_of(params: Mapping[str, str]) -> tuple[HostPort, ...]:
    """Returns the hosts of a connection string; none if it has none. Raises ValueError."""
    hosts = [host for host in params.get("host", "").split(",") if host]
    ports = [parse_port(port, default_port=DEFAULT_PORT) for port in params.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= max(len(hosts), 1)
    if len(ports) != max(len(hosts), 1):
        raise ValueError("the number of ports differs from the number of hosts")
    return tuple(HostPort(host, port) for host, port in zip(hosts, ports, strict=False))
