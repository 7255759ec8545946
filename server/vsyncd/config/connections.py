"""libpq connection strings of the service, the owner role and the backup role.

They contain passwords and must not be logged.
"""

from collections.abc import Mapping, Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vsyncd.config.database_url import DEFAULT_PORT, further_parameters, hosts_of, parse_database_url
from vsyncd.config.endpoints import HostPort
from vsyncd.config.settings import Settings

_DEFAULTS: dict[str, str | int | None] = {
    "application_name": "vsyncd",
    # Detects a lost peer in half a minute instead of two hours.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# Parameters of DATABASE_URL that apply only to its own hosts, not to replicas.
_HOST_PARAMETERS = ("hostaddr", "load_balance_hosts", "target_session_attrs")


def service_conninfo(settings: Settings, *, hosts: Sequence[HostPort] = (), **params: str) -> str:
    """Returns the service's connection string.

    `hosts` are the configured hosts in another order. `params` are libpq parameters that override all others.
    Raises ConfigError if a file with a secret can no longer be read.
    """
    return _conninfo(settings, hosts or settings.database_hosts, params)


def replica_conninfo(settings: Settings, host: HostPort, **params: str) -> str:
    """Returns the connection string for a replica, as DB_REPLICA_USER or else as the service's role.

    Raises ConfigError like `service_conninfo`.
    """
    account: dict[str, str] = {}
    if settings.db_replica_user is not None and settings.db_replica_user != settings.db_user:
        # The service's password belongs to the other role.
        account = {"user": settings.db_replica_user, "password": ""}
    if (password := settings.secret("db_replica_password")) is not None:
        account["password"] = password
    return _conninfo(settings, (host,), {**dict.fromkeys(_HOST_PARAMETERS), **account, **params})


def owner_conninfo(settings: Settings, **params: str) -> str:
    """Returns the connection string for migrations: DB_MIGRATE_URL, completed with the service's values."""
    url = settings.secret("db_migrate_url")
    if url is None:
        return _conninfo(settings, settings.database_hosts, params)
    owner = _overriding_parameters(settings, url, {"user": settings.db_user})
    return _conninfo(settings, settings.database_hosts, {**owner, **params})


def backup_conninfo(settings: Settings, **params: str) -> str:
    """Returns the connection string for dumps and restores: BACKUP_URL, completed with the owner's values."""
    owner = conninfo_to_dict(owner_conninfo(settings))
    given = {name: str(value) for name, value in owner.items() if value is not None}
    url = settings.secret("backup_url")
    if url is not None:
        given |= _overriding_parameters(settings, url, given)
    return make_conninfo("", **{**given, "application_name": "vsyncd backup", **params})


def backup_database(settings: Settings) -> str:
    return str(conninfo_to_dict(backup_conninfo(settings))["dbname"])


def _conninfo(settings: Settings, hosts: Sequence[HostPort], params: Mapping[str, str | None]) -> str:
    """None in `params` removes a parameter of DATABASE_URL."""
    # DATABASE_URL_FILE may have changed since the settings were loaded.
    url = parse_database_url(settings.secret("database_url") or "")
    parts: dict[str, str | int | None] = {
        **_DEFAULTS,
        # After a failover another host accepts writes.
        **({"target_session_attrs": "read-write"} if len(hosts) > 1 else {}),
        **further_parameters(url),
        "host": ",".join(host.host for host in hosts),
        "port": ",".join(str(host.port) for host in hosts),
        "hostaddr": _addresses(url.get("hostaddr"), settings.database_hosts, hosts),
        "dbname": settings.db_name,
        "user": url.get("user", settings.db_user),
        "password": url["password"] if "password" in url else settings.secret("db_password"),
        "sslmode": _ssl_mode(settings, hosts),
        "sslrootcert": settings.db_ssl_root_cert,
        "connect_timeout": settings.db_connect_timeout,
        **params,
    }
    return make_conninfo("", **parts)


def _addresses(given: str | None, configured: Sequence[HostPort], hosts: Sequence[HostPort]) -> str | None:
    """Returns libpq's hostaddr, which has one address per configured host, for hosts in another order."""
    addresses = given.split(",") if given else []
    if len(addresses) != len(configured):
        return given  # libpq reports the error
    left: dict[HostPort, list[str]] = {}  # a name may occur twice, with two addresses
    for host, address in zip(configured, addresses, strict=True):
        left.setdefault(host, []).append(address)
    return ",".join(left[host].pop(0) if left.get(host) else "" for host in hosts)


def _ssl_mode(settings: Settings, hosts: Sequence[HostPort]) -> str:
    return settings.db_ssl_mode or ("prefer" if all(host.is_local for host in hosts) else "require")


def _overriding_parameters(settings: Settings, url: str, other: Mapping[str, str]) -> dict[str, str]:
    """Returns the parameters of a connection string that override those of `other`."""
    params = parse_database_url(url)
    if params.get("user", other["user"]) != other["user"]:
        params.setdefault("password", "")  # the password belongs to the other role
    if "host" in params:
        params.setdefault("port", str(DEFAULT_PORT))
        params.setdefault("hostaddr", "")  # the address belongs to the other host
        params.setdefault("sslmode", _ssl_mode(settings, hosts_of(params)))
    return params
