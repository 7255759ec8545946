"""libpq connection strings, taken apart into the settings that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from vsyncd.config.endpoints import HostPort, parse_hosts, parse_port

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

DEFAULT_PORT = 5432

# What a connection string says beside host and port, by libpq's names, and the setting it stands for. All else
# (options, target_session_attrs, ...) is passed on as it is.
_SETTINGS = {
    "dbname": "db_name",
    "user": "db_user",
    "password": "db_password",
    "sslmode": "db_ssl_mode",
    "sslrootcert": "db_ssl_root_cert",
    "connect_timeout": "db_connect_timeout",
}


def parse_database_url(text: str) -> dict[str, str]:
    """The parameters of a libpq URL or `key=value` string, by libpq's names.

    Raises ValueError, whose message does not repeat the text: it may hold a password.
    """
    try:
        params = {name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None}
    except ProgrammingError:
        # libpq's message quotes what it could not read, and a cause would print it.
        raise ValueError("not a libpq connection string") from None
    if params.get("sslmode", "prefer") not in get_args(SslMode):
        raise ValueError("sslmode is not known")
    timeout = params.get("connect_timeout", "2")
    if not (timeout.isascii() and timeout.isdigit() and 2 <= int(timeout) <= 600):
        raise ValueError("connect_timeout is not a number from 2 to 600")
    parse_hosts(",".join(str(host) for host in _hosts(params)))
    return params


def settings_of(params: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the parameters stand for; what they leave open is not in it. Raises ValueError."""
    settings: dict[str, Any] = {_SETTINGS[name]: value for name, value in params.items() if name in _SETTINGS}
    if hosts := _hosts(params):
        settings["db_host"] = ",".join(str(host) for host in hosts)
    elif "port" in params:
        settings["db_port"] = parse_port(params["port"], default_port=DEFAULT_PORT)
    return settings


def further_parameters(params: Mapping[str, str]) -> dict[str, str]:
    """What no setting stands for."""
    return {name: value for name, value in params.items() if name not in {*_SETTINGS, "host", "port"}}


def _hosts(params: Mapping[str, str]) -> tuple[HostPort, ...]:
    hosts = [host for host in params.get("host", "").split(",") if host]
    ports = [parse_port(port, default_port=DEFAULT_PORT) for port in params.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= max(len(hosts), 1)
    if len(ports) != max(len(hosts), 1):
        raise ValueError("there are not as many ports as hosts")
    return tuple(HostPort(host, port) for host, port in zip(hosts, ports, strict=False))
