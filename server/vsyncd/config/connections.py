"""The connection strings for libpq that the settings come to: the service's, the owner's who migrates, the one who
backs up.

Each holds a password: never log it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from vsyncd.config.database_url import DEFAULT_PORT, further_parameters, parse_database_url
from vsyncd.config.endpoints import HostPort
from vsyncd.config.errors import ConfigError
from vsyncd.config.rendering import complaint
from vsyncd.config.settings import Settings
from vsyncd.config.types import plain, read_secret_file

_DEFAULTS: dict[str, str | int | None] = {
    "application_name": "vsyncd",
    # A peer that went without a word is found in half a minute instead of two hours.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


# What DATABASE_URL says of its own hosts, and of no replica.
_OF_THE_HOSTS = ("hostaddr", "load_balance_hosts", "target_session_attrs")


def service_conninfo(settings: Settings, *, hosts: Sequence[HostPort] = (), **params: str) -> str:
    """The service's.

    `hosts` are the configured ones in another order; `params`, libpq's own, win over all else.
    Raises ConfigError when DB_PASSWORD_FILE can no longer be read.
    """
    return _service(settings, hosts or settings.database_hosts, params)


def replica_conninfo(settings: Settings, host: HostPort, **params: str) -> str:
    """The service's, to a replica. Raises ConfigError when DB_PASSWORD_FILE can no longer be read."""
    return _service(settings, (host,), {**dict.fromkeys(_OF_THE_HOSTS), **params})


def owner_conninfo(settings: Settings, **params: str) -> str:
    """The role's that migrates: what DB_MIGRATE_URL says, else the service's."""
    if settings.db_migrate_url is None:
        return _service(settings, settings.database_hosts, params)
    owner = _beside(settings.db_migrate_url, {"user": settings.db_user})
    return _service(settings, settings.database_hosts, {**owner, **params})


def backup_conninfo(settings: Settings, **params: str) -> str:
    """The role's that dumps and restores: what BACKUP_URL says, else the owner's."""
    migrates = conninfo_to_dict(owner_conninfo(settings))
    given = {name: str(value) for name, value in migrates.items() if value is not None}
    if settings.backup_url is not None:
        given |= _beside(settings.backup_url, given)
    return make_conninfo("", **{**given, "application_name": "vsyncd backup", **params})


def backup_database(settings: Settings) -> str:
    """The name of the database that is backed up."""
    return str(conninfo_to_dict(backup_conninfo(settings))["dbname"])


def _service(settings: Settings, hosts: Sequence[HostPort], params: Mapping[str, str | None]) -> str:
    """With `params`; None leaves out what DATABASE_URL says."""
    url = parse_database_url(plain(settings.database_url)) if settings.database_url else {}
    parts: dict[str, str | int | None] = {
        **_DEFAULTS,
        # Of several, the one that takes writes: after a failover that is another one.
        **({"target_session_attrs": "read-write"} if len(hosts) > 1 else {}),
        **further_parameters(url),
        "host": ",".join(host.host for host in hosts),
        "port": ",".join(str(host.port) for host in hosts),
        "hostaddr": _addresses(url.get("hostaddr"), settings.database_hosts, hosts),
        "dbname": settings.db_name,
        "user": settings.db_user,
        "password": _password(settings),
        "sslmode": settings.db_ssl_mode,
        "sslrootcert": settings.db_ssl_root_cert,
        "connect_timeout": settings.db_connect_timeout,
        **params,
    }
    return make_conninfo("", **parts)


def _addresses(given: str | None, configured: Sequence[HostPort], hosts: Sequence[HostPort]) -> str | None:
    """libpq's hostaddr, which has one address for each configured host, for hosts in another order."""
    addresses = given.split(",") if given else []
    if len(addresses) != len(configured):
        return given  # libpq says what is wrong with it
    left: dict[HostPort, list[str]] = {}  # one name may be there twice, with two addresses
    for host, address in zip(configured, addresses, strict=True):
        left.setdefault(host, []).append(address)
    return ",".join(left[host].pop(0) if left.get(host) else "" for host in hosts)


def _beside(url: SecretStr, other: Mapping[str, str]) -> dict[str, str]:
    """What a connection string says in place of another one's."""
    params = parse_database_url(plain(url))
    if params.get("user", other["user"]) != other["user"]:
        params.setdefault("password", "")  # One role's password is not another's.
    if "host" in params:
        params.setdefault("port", str(DEFAULT_PORT))
        params.setdefault("hostaddr", "")  # One host's address is not another's.
    return params


def _password(settings: Settings) -> str | None:
    if settings.db_password_file is None:
        return plain(settings.db_password) if settings.db_password else None
    try:
        return plain(read_secret_file(settings.db_password_file))
    except ValueError as error:
        field = type(settings).model_fields["db_password_file"]
        raise ConfigError(complaint("db_password_file", field, str(error))) from error
