"""Every setting, once: its name, what it takes, its default and its meaning.

Settings come from environment variables, and from `.env` in the working folder in development; an empty variable
counts as one that is not set. `.env.example` and `docs/configuration.md` are made from this module by
`scripts/make_config_reference.py`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vsyncd.config import types
from vsyncd.config.database_url import DEFAULT_PORT, parse_database_url, settings_of
from vsyncd.config.endpoints import GrpcDependency, HostPort, parse_grpc_dependencies, parse_hosts
from vsyncd.config.redis_url import RedisAddress, parse_redis_url
from vsyncd.config.rendering import shown

# What `serve --embedded` listens on by default.
LOOPBACK: Final = MappingProxyType({"grpc_listen": "127.0.0.1:50051", "http_listen": "127.0.0.1:8080"})


class Settings(BaseSettings):
    """The settings of one vsyncd, read-only. Made by `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        str_strip_whitespace=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    domains: types.DomainNames = "cids,sync_batches,reconciliation"
    """The domains to serve; audit and server_info always are. Any other domain is neither migrated nor served."""

    database_url: types.ConnectionString | None = None
    """Connection string of the database. What it says wins over the DB_ settings for the same."""
    db_host: Annotated[types.Hosts, Field(min_length=1)] = "localhost"
    """PostgreSQL's host, or its socket's folder. Several are tried until one takes writes, the last that did first."""
    db_port: types.Port = DEFAULT_PORT
    """The port of each host that names none."""
    db_name: types.Text = "vsync"
    """The database."""
    db_user: types.Text = "vsync"
    """The role that the service works as."""
    db_password: types.Secret | None = None
    """That role's password."""
    db_password_file: types.SecretFile | None = None
    """A file that holds the password; wins over DB_PASSWORD."""
    db_schema: types.SchemaName = "vsync"
    """The schema that holds vsyncd's tables."""
    db_ssl_mode: types.SslModeName = "prefer"
    """How the connection to PostgreSQL is encrypted and the server checked (libpq's sslmode)."""
    db_ssl_root_cert: types.RootCertificate | None = None
    """The certificates that PostgreSQL's is checked against."""
    db_max_connections: types.Count = 25
    """The most connections of the pool."""
    db_min_connections: types.CountOrNone = 5
    """The connections that the pool keeps open; at most DB_MAX_CONNECTIONS."""
    db_connection_max_lifetime: types.Seconds = 3600
    """Age at which a connection is replaced."""
    db_connection_max_idle_time: types.Seconds = 900
    """Idle time after which a connection above the minimum is closed."""
    db_connect_timeout: types.ConnectSeconds = 5
    """The most time that connecting to one host takes."""
    db_acquire_timeout: types.Seconds = 2
    """The most time that a call waits for a connection of the pool."""
    db_statement_timeout: types.CountedSeconds = 30
    """The most time that a statement takes."""
    db_prepare_statements: types.Flag = True
    """Whether statements are prepared on the server; false for a pooler that does not keep them."""
    db_ping_timeout: types.Seconds = 5
    """The most time that a ping of a connection takes."""
    db_health_check_interval: types.Seconds = 30
    """Time between two checks of the idle connections."""
    db_breaker_failures: types.Count = 5
    """Failures in a row to reach a server after which its circuit breaker opens."""
    db_breaker_reset: types.Seconds = 2
    """Time between two trials while a circuit breaker is open; in a long outage up to half as much again."""
    db_replica_hosts: types.Hosts = ""
    """Replicas that lists, exports and counts are read from."""
    db_replica_max_lag: types.Seconds = 30
    """Lag past which a replica is not read from."""
    db_auto_migrate: types.Flag = True
    """Whether the start applies the migrations that are missing."""
    db_migrate_path: types.Folder | None = None
    """A folder of migration sets in place of the ones that come with vsyncd."""
    db_migrate_url: types.ConnectionString | None = None
    """Connection string of the owner role, which migrates; what it leaves open is as for the service."""
    db_slow_query_ms: types.Milliseconds = 100
    """Duration from which a statement is logged as slow."""

    audit_retention_days: types.Days = 0
    """Days that audit entries are kept at least; they are dropped by whole months. 0: for good."""
    event_retention_days: types.Days = 0
    """Days that the history of the CID set is kept at least; it is dropped by whole months. 0: for good."""
    import_retention_days: types.Days = 7
    """Days after which an import that rests can no longer be sent chunks again. 0: never."""

    redis_url: types.RedisUrl | None = None
    """The Redis or Valkey that caches; none: no cache."""
    redis_prefix: types.KeyPrefix = "vsync"
    """What every key in Redis begins with."""
    redis_conn_timeout: types.Seconds = 5
    """The most time that connecting to Redis takes; the start does not wait for it."""
    redis_breaker_reset: types.Seconds = 2
    """Time between two trials while Redis is not there."""
    cache_ttl: types.Seconds = 86400
    """Age at which a cached record is dropped."""
    cache_encryption_key: types.EncryptionKey | None = None
    """The key (AES-256) that records in Redis are encrypted with, the same in every instance; none: they are not."""

    grpc_listen: types.Listen = "0.0.0.0:50051"
    """The address that serves gRPC; port 0 takes a free one. 0.0.0.0 and [::] accept IPv4 and IPv6 alike. Default with
    serve --embedded: 127.0.0.1:50051."""
    grpc_max_request_bytes: types.Bytes = 4 * 1024**2
    """The largest message that is taken."""
    grpc_max_response_bytes: types.Bytes = 4 * 1024**2
    """The largest message that is sent. Pages and batches of 1,000 records may need the default."""
    grpc_reflection: types.Flag = True
    """Whether grpcurl and others can ask for the contract."""
    grpc_default_deadline: types.Seconds = 30
    """The deadline of a unary call that comes without one."""
    grpc_keepalive_time: types.CountedSeconds = 60
    """Silence after which a client is pinged."""
    grpc_keepalive_timeout: types.CountedSeconds = 20
    """Time after which a client that does not answer a ping is given up."""
    grpc_min_ping_interval: types.CountedSeconds = 10
    """The shortest keepalive interval of clients. A client that pings more than twice as often is disconnected."""
    tls_cert_file: types.ReadableFile | None = None
    """The certificate chain (PEM) that gRPC is served with; goes with TLS_KEY_FILE. None: no TLS."""
    tls_key_file: types.ReadableFile | None = None
    """The certificate's private key (PEM); goes with TLS_CERT_FILE."""
    tls_client_ca_file: types.ReadableFile | None = None
    """The certificates (PEM) that a client's must be signed by (mutual TLS); goes with TLS_CERT_FILE."""
    max_concurrent_calls: types.Count = 500
    """Calls in flight past which a new one is turned away; half of them may be streams."""
    max_concurrent_bytes: types.TotalBytes = 256 * 1024**2
    """Bytes of the requests of the calls in flight past which a new one is turned away."""
    stream_idle_timeout: types.Seconds = 60
    """Time after which an import or a comparison whose client sends nothing is cut off."""
    export_max_duration: types.CountedSeconds = 3600
    """The most time that an export takes."""
    export_max_streams: types.Count = 4
    """Exports at a time; each has a connection of its own."""
    export_stall_timeout: types.Seconds = 30
    """Time after which a reader that takes nothing is cut off."""

    reconciliation_max_duration: types.CountedSeconds = 3600
    """The most time that a comparison with a CID set file, or the scan for a VSync, takes."""
    reconciliation_max_streams: types.Count = 2
    """Comparisons and scans at a time; each has a connection of its own."""
    reconciliation_max_cids: types.ManyCount = 200_000_000
    """CIDs past which an upload for a comparison is refused."""
    spill_dir: types.Folder | None = None
    """The folder that CID set files are sorted in, 32 bytes a CID; none: the system's for temporary files."""

    http_listen: types.Listen = "0.0.0.0:8080"
    """The address that serves the HTTP probes and the metrics, in the same form as GRPC_LISTEN. Default with serve
    --embedded: 127.0.0.1:8080."""
    health_check_timeout: types.Seconds = 0.4
    """The most time that the check of one dependency takes."""
    health_cache_seconds: types.SecondsOrNone = 1.0
    """Time for which the result of a check is used again."""
    health_grpc_dependencies: types.GrpcDependencies = ""
    """Other gRPC services that the health report covers."""
    shutdown_grace: types.SecondsOrNone = 20
    """The most time that a shutdown takes; calls in flight get nine tenths of it to end."""
    shutdown_delay: types.SecondsOrNone = 0
    """Time, within SHUTDOWN_GRACE, that calls are still taken while balancers turn away; 5 in Kubernetes."""
    log_level: types.LogLevel = "INFO"
    """The least severe message that is logged."""
    log_format: types.LogFormat = "auto"
    """How a line of the log is written; auto: console on a terminal, or else json."""
    log_failures_per_second: types.Count = 10
    """Most lines a second about calls of one method that fail alike; the next line tells how many were left out."""

    backup_dir: types.NewFolder | None = None
    """Where backups are kept; with BACKUP_S3_URL, where they are put together before they are sent."""
    backup_s3_url: types.S3Url | None = None
    """The place in an S3-compatible store that backups are kept in, instead of BACKUP_DIR."""
    backup_s3_endpoint: types.HttpUrl | None = None
    """The store's address; none: Amazon's."""
    backup_s3_region: types.Text = "us-east-1"
    """The store's region."""
    backup_s3_access_key_id: types.Text | None = None
    """The store's access key; none: AWS_ variables, or the machine's own role."""
    backup_s3_secret_access_key: types.Secret | None = None
    """That key's secret."""
    backup_url: types.ConnectionString | None = None
    """Connection string of the role that dumps and restores; what it leaves open is as for who migrates."""
    backup_pg_bin: types.Folder | None = None
    """The folder of pg_dump and pg_restore; none: PATH, packages' folders, then the wheel of --embedded."""
    backup_format: types.BackupFormat = "directory"
    """The format of a dump: a directory, written by PARALLEL_JOBS at once, or one custom file, by one."""
    backup_compression: types.Compression = "gzip"
    """How a dump is compressed; zstd needs a pg_dump that was built with it."""
    parallel_jobs: types.Jobs = 4
    """Connections that a dump or a restore works with at once; a dump takes two more."""
    backup_schedule: types.Schedule | None = None
    """When the service backs up by itself; none: never. A run that was missed is made up for."""
    backup_check: types.BackupCheck = "checksums"
    """How a scheduled backup is verified: by its checksums, or by a restore into a throwaway database too."""
    retention_days: types.DaysOrParts = 7
    """Age, in days, at which a backup is removed; 0: never for its age."""
    backup_retention_count: types.CountOrNone = 0
    """Backups that are kept, the newest; 0: any number."""

    @model_validator(mode="before")
    @classmethod
    def _take_parts_of_url(cls, values: dict[str, Any]) -> dict[str, Any]:
        url = values.get("database_url")
        if not url:
            return values
        try:
            parts = settings_of(parse_database_url(types.plain(url)))
        except ValueError:
            return values  # The check of database_url itself reports it, by its name.
        return values | parts | ({"db_password_file": None} if "db_password" in parts else {})

    @field_validator("db_min_connections")
    @classmethod
    def _is_at_most_the_maximum(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("db_max_connections", value):
            raise ValueError("more than DB_MAX_CONNECTIONS")
        return value

    @field_validator("shutdown_delay")
    @classmethod
    def _is_within_the_grace(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("shutdown_grace", value):
            raise ValueError("more than SHUTDOWN_GRACE")
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _stands_when_the_certificate_does(cls, value: str | None, info: ValidationInfo) -> str | None:
        # A certificate that is wrong itself is reported already, and is not here.
        if "tls_cert_file" in info.data and (value is None) != (info.data["tls_cert_file"] is None):
            raise ValueError("goes with TLS_CERT_FILE")
        return value

    @field_validator("tls_client_ca_file")
    @classmethod
    def _needs_the_certificate(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("tls_cert_file", value) is None:
            raise ValueError("goes with TLS_CERT_FILE")
        return value

    @field_validator("backup_s3_url", "backup_schedule")
    @classmethod
    def _needs_a_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("backup_dir", value) is None:
            raise ValueError("goes with BACKUP_DIR")
        return value

    @field_validator("backup_s3_secret_access_key")
    @classmethod
    def _stands_when_the_key_does(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (value is None) != (info.data.get("backup_s3_access_key_id") is None):
            raise ValueError("goes with BACKUP_S3_ACCESS_KEY_ID")
        return value

    @property
    def database_hosts(self) -> tuple[HostPort, ...]:
        """The hosts of DATABASE_URL or DB_HOST."""
        return parse_hosts(self.db_host, default_port=self.db_port)

    @property
    def replica_hosts(self) -> tuple[HostPort, ...]:
        """The hosts of DB_REPLICA_HOSTS."""
        return parse_hosts(self.db_replica_hosts, default_port=self.db_port)

    @property
    def redis_address(self) -> RedisAddress | None:
        """What REDIS_URL says; None for no cache."""
        return parse_redis_url(types.plain(self.redis_url)) if self.redis_url else None

    @property
    def grpc_dependencies(self) -> tuple[GrpcDependency, ...]:
        """The services of HEALTH_GRPC_DEPENDENCIES."""
        return parse_grpc_dependencies(self.health_grpc_dependencies)

    def with_database(self, conninfo: str) -> Self:
        """The same settings for another database, alone: no replica, no other role that migrates.

        Raises ValueError when the connection string cannot be read.
        """
        parse_database_url(conninfo)
        alone = dict.fromkeys(("db_password", "db_password_file", "db_ssl_root_cert", "db_migrate_url", "backup_url"))
        database = {"database_url": conninfo, "db_port": DEFAULT_PORT, "db_ssl_mode": "prefer", "db_replica_hosts": ""}
        return type(self).model_validate(self.model_dump() | alone | database)

    def listening_on_loopback(self) -> Self:
        """Return the same settings, listening on this machine only where no address is configured."""
        free = LOOPBACK.keys() - self.model_fields_set
        return self.model_copy(update={name: LOOPBACK[name] for name in free})

    def with_redis(self, url: str) -> Self:
        """The same settings with another Redis."""
        return type(self).model_validate(self.model_dump() | {"redis_url": url})

    def masked(self) -> dict[str, str]:
        """Every setting by its variable's name, secrets masked."""
        return {name.upper(): shown(getattr(self, name)) for name in type(self).model_fields}
