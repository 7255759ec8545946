"""The settings: name, type, default and description.

Settings are environment variables. In development, the file `.env` in the working directory can set them. An empty
variable is not set. A domain declares further settings in its module `settings`, as a subclass of Settings.
`scripts/make_config_reference.py` generates `.env.example` and `docs/configuration.md` from these modules.
"""

from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vsyncd.config import types
from vsyncd.config.database_url import DEFAULT_PORT, parse_database_url, settings_of
from vsyncd.config.endpoints import GrpcDependency, HostPort, parse_grpc_dependencies, parse_hosts
from vsyncd.config.errors import ConfigError
from vsyncd.config.redis_url import RedisAddress, parse_redis_url

# Settings that must not exceed another one, and pairs that are set together.
_LIMITS: Final = MappingProxyType({"db_min_connections": "db_max_connections", "shutdown_delay": "shutdown_grace"})
_PAIRS: Final = MappingProxyType(
    {"tls_key_file": "tls_cert_file", "backup_s3_secret_access_key": "backup_s3_access_key_id"}
)


class Settings(BaseSettings):
    """The settings of one service, read-only. `load_settings` creates them."""

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
    """libpq connection string of the database. Its values override the corresponding DB_ settings."""
    database_url_file: types.SecretFile | None = None
    """File that contains DATABASE_URL. User and password are read for each connection."""
    db_host: Annotated[types.Hosts, Field(min_length=1)] = "localhost"
    """Host of PostgreSQL, or the folder of its Unix socket. If there are several, the first one that accepts writes is
    used; the last one that did is tried first."""
    db_port: types.Port = DEFAULT_PORT
    """Port of the hosts that do not specify one."""
    db_name: types.Text = "vsync"
    """Name of the database."""
    db_user: types.Text = "vsync"
    """Role of the service."""
    db_password: types.Secret | None = None
    """Password of the role."""
    db_password_file: types.SecretFile | None = None
    """File that contains DB_PASSWORD. It is read for each connection."""
    db_schema: types.SchemaName = "vsync"
    """Schema of vsyncd's tables."""
    db_ssl_mode: types.SslModeName | None = None
    """Encryption of the connection to PostgreSQL and verification of the server (libpq's sslmode). Empty: prefer for
    hosts on this machine, or else require."""
    db_ssl_root_cert: types.RootCertificate | None = None
    """Certificate authorities that PostgreSQL's certificate is verified against."""
    db_max_connections: types.Count = 25
    """Maximum number of connections in the pool."""
    db_min_connections: types.CountOrZero = 5
    """Minimum number of connections in the pool; at most DB_MAX_CONNECTIONS."""
    db_connection_max_lifetime: types.Seconds = 3600
    """Age at which a connection is replaced."""
    db_connection_max_idle_time: types.Seconds = 900
    """Idle time after which a connection above the minimum is closed."""
    db_connect_timeout: types.ConnectSeconds = 5
    """Timeout for connecting to one host."""
    db_acquire_timeout: types.Seconds = 2
    """Maximum time that a call waits for a connection from the pool."""
    db_statement_timeout: types.TimeoutSeconds = 30
    """Timeout of a statement."""
    db_prepare_statements: types.Flag = True
    """Whether statements are prepared on the server. Use false with a pooler that does not support it."""
    db_ping_timeout: types.Seconds = 5
    """Timeout of a connection check."""
    db_health_check_interval: types.Seconds = 30
    """Interval between checks of the idle connections."""
    db_breaker_failures: types.Count = 5
    """Number of consecutive connection failures that opens a server's circuit breaker."""
    db_breaker_reset: types.Seconds = 2
    """Interval between attempts to reach a server whose circuit breaker is open; up to 50 % longer in a long outage."""
    db_replica_hosts: types.Hosts = ""
    """Replicas for lists, exports and counts."""
    db_replica_user: types.Text | None = None
    """Role for the replicas, for example one that can only read. Empty: the service's role."""
    db_replica_password: types.Secret | None = None
    """Password of DB_REPLICA_USER."""
    db_replica_password_file: types.SecretFile | None = None
    """File that contains DB_REPLICA_PASSWORD. It is read for each connection."""
    db_replica_max_lag: types.Seconds = 30
    """Replication lag above which a replica is not used."""
    db_auto_migrate: types.Flag = True
    """Whether `vsyncd serve` applies pending migrations at the start."""
    db_migrate_path: types.Folder | None = None
    """Folder of migration sets to use instead of the built-in ones."""
    db_migrate_url: types.ConnectionString | None = None
    """libpq connection string of the owner role, which migrates. Missing values are taken from the service's
    connection."""
    db_migrate_url_file: types.SecretFile | None = None
    """File that contains DB_MIGRATE_URL."""
    db_slow_query_ms: types.Milliseconds = 100
    """Duration from which a statement is logged as slow."""

    audit_retention_days: types.Days = 0
    """Minimum retention of audit entries. Whole months are dropped. 0: unlimited."""
    event_retention_days: types.Days = 0
    """Minimum retention of CID events. Whole months are dropped. 0: unlimited."""
    import_retention_days: types.Days = 7
    """Days without activity after which an import can no longer be resumed. 0: unlimited."""

    redis_url: types.RedisUrl | None = None
    """URL of the Redis or Valkey cache. Empty: no cache."""
    redis_url_file: types.SecretFile | None = None
    """File that contains REDIS_URL. User and password are read for each connection."""
    redis_prefix: types.KeyPrefix = "vsync"
    """Prefix of every key in Redis."""
    redis_conn_timeout: types.Seconds = 5
    """Timeout for connecting to Redis. The start does not wait for Redis."""
    redis_breaker_reset: types.Seconds = 2
    """Interval between attempts to reach Redis while its circuit breaker is open."""
    cache_ttl: types.Seconds = 86400
    """Age at which a cached record expires."""
    cache_encryption_key: types.EncryptionKeys | None = None
    """AES-256 key for records in Redis, the same in every instance. A second key, after a comma, only decrypts, so that
    a key can be replaced. Empty: no encryption."""
    cache_encryption_key_file: types.SecretFile | None = None
    """File that contains CACHE_ENCRYPTION_KEY. It is read again when it changes."""

    grpc_listen: types.Listen = "127.0.0.1:50051"
    """Listen address of gRPC. Port 0 chooses a free port. 0.0.0.0 and [::] both accept IPv4 and IPv6. An address that
    other machines reach requires TLS and AUTHN_METHODS."""
    grpc_max_request_bytes: types.Bytes = 4 * 1024**2
    """Maximum size of a request message."""
    grpc_max_response_bytes: types.Bytes = 4 * 1024**2
    """Maximum size of a response message. Pages and batches of 1,000 records may need the default."""
    grpc_reflection: types.Flag = True
    """Whether server reflection is enabled, which grpcurl uses."""
    grpc_default_deadline: types.Seconds = 30
    """Deadline of a unary call without one."""
    grpc_keepalive_time: types.TimeoutSeconds = 60
    """Idle time after which the server pings a client."""
    grpc_keepalive_timeout: types.TimeoutSeconds = 20
    """Time after which a client that does not answer a ping is disconnected."""
    grpc_min_ping_interval: types.TimeoutSeconds = 10
    """Minimum keepalive interval of clients. A client that pings more than twice as often is disconnected."""
    tls_cert_file: types.ReadableFile | None = None
    """Certificate chain (PEM) of the gRPC server; requires TLS_KEY_FILE. Empty: no TLS."""
    tls_key_file: types.ReadableFile | None = None
    """Private key (PEM) of the certificate; requires TLS_CERT_FILE."""
    tls_client_ca_file: types.ReadableFile | None = None
    """Certificate authorities (PEM) of client certificates, which are then required (mutual TLS); requires
    TLS_CERT_FILE and AUTHN_METHODS=mtls."""
    tls_crl_file: types.ReadableFile | None = None
    """Certificate revocation lists (PEM) of these authorities."""
    authn_methods: types.AuthenticationMethods = ""
    """How callers authenticate: mtls with client certificates, key with keys, jwt with tokens of an issuer. Empty:
    nobody authenticates."""
    authn_keys_file: types.ReadableFile | None = None
    """YAML file with the SHA-256 of each caller's keys; requires AUTHN_METHODS=key."""
    authn_jwt_issuer: types.Text | None = None
    """The issuer (iss) of the tokens; requires AUTHN_METHODS=jwt."""
    authn_jwt_audience: types.Text | None = None
    """The audience (aud) that the tokens must name."""
    authn_jwks_file: types.ReadableFile | None = None
    """JSON Web Key Set with the issuer's public keys."""
    authn_jwks_url: types.HttpUrl | None = None
    """URL of the JSON Web Key Set, instead of AUTHN_JWKS_FILE. It is fetched every five minutes, and for a token with
    an unknown key."""
    authz_file: types.ReadableFile | None = None
    """YAML file with the roles and participants of each principal. Required with AUTHN_METHODS."""
    tenant_hmac_key_file: types.KeyFile | None = None
    """File with the key from which the tenants in tenanted tables are computed; `openssl rand -base64 32` makes one.
    Required if AUTHN_METHODS is set and a domain with tenants is served. It must never change."""
    grpc_token_listen: types.Listen | None = None
    """Further listen address of gRPC, for callers with keys or tokens while GRPC_LISTEN requires client
    certificates. Required if AUTHN_METHODS has mtls and a further method."""
    allow_insecure: types.Flag = False
    """Whether an address that other machines reach may be served without TLS or AUTHN_METHODS. Everyone may then read
    and change all data."""
    max_concurrent_calls: types.Count = 500
    """Maximum number of calls in flight. Half of them may be streams. Further calls are rejected."""
    max_calls_per_principal: types.Count = 400
    """Maximum number of unary calls in flight of one principal. Callers without credentials count by their address."""
    max_streams_per_principal: types.Count = 100
    """Maximum number of streams of one principal, in addition."""
    max_connections: types.Count = 2000
    """Maximum number of connections to each gRPC listen address. Further ones are closed."""
    connection_max_age: types.TimeoutSeconds = 3600
    """Age at which the client of a connection is told to open a new one, which balances the load of instances."""
    connection_max_age_grace: types.TimeoutSeconds = 3600
    """Time after CONNECTION_MAX_AGE for the calls in flight. Those that are left are then cancelled."""
    handshake_timeout: types.TimeoutSeconds = 10
    """Time for a connection's TLS handshake and its first HTTP/2 frames."""
    max_concurrent_bytes: types.TotalBytes = 256 * 1024**2
    """Maximum total size of the requests in flight. Further calls are rejected."""
    stream_idle_timeout: types.Seconds = 60
    """Time after which a call is aborted if its request, or the next one of its stream, does not arrive."""
    export_max_duration: types.TimeoutSeconds = 3600
    """Maximum duration of an export."""
    export_max_streams: types.Count = 4
    """Maximum number of concurrent exports. Each uses its own connection."""
    export_stall_timeout: types.Seconds = 30
    """Time after which an export is aborted if the client receives nothing."""

    reconciliation_max_duration: types.TimeoutSeconds = 3600
    """Maximum duration of a comparison with a CID file, or of a scan for a VSync."""
    reconciliation_max_streams: types.Count = 2
    """Maximum number of concurrent comparisons and scans. Each uses its own connection."""
    reconciliation_max_cids: types.LargeCount = 200_000_000
    """Maximum number of CIDs in an upload for a comparison."""
    spill_dir: types.Folder | None = None
    """Folder for sorting CID files, with 32 bytes per CID. Empty: the system's folder for temporary files."""

    http_listen: types.Listen = "127.0.0.1:8080"
    """Listen address of the HTTP probes /live, /ready and /health, in the form of GRPC_LISTEN. It has no
    authentication, and its reports have no details."""
    admin_listen: types.Listen | None = None
    """Listen address of the operations page, /status, /metrics, /health/detailed and /health/database, also without
    authentication. Empty: HTTP_LISTEN if only this machine reaches it, or else 127.0.0.1:9090."""
    grpc_health_listen: types.Listen | None = None
    """Further listen address of gRPC, without TLS and authentication, with grpc.health.v1 only. Empty: none."""
    health_check_timeout: types.Seconds = 0.4
    """Timeout of the check of one dependency."""
    health_cache_seconds: types.SecondsOrZero = 1.0
    """Time for which the result of a check is reused."""
    health_grpc_dependencies: types.GrpcDependencies = ""
    """Other gRPC services that the health report covers."""
    shutdown_grace: types.SecondsOrZero = 20
    """Maximum duration of a shutdown. Calls in flight get 90 % of it."""
    shutdown_delay: types.SecondsOrZero = 0
    """Part of SHUTDOWN_GRACE during which calls are still accepted while load balancers react; use 5 in Kubernetes."""
    log_level: types.LogLevel = "INFO"
    """Minimum level of logged events."""
    log_format: types.LogFormat = "auto"
    """Format of the log; auto: console on a terminal, or else json."""
    trace_trust_incoming: types.Flag = False
    """Whether spans take over the tracestate and the baggage of callers, which may contain personal data."""
    log_failures_per_second: types.Count = 10
    """Maximum number of log events per second about similar failed calls of a method. The next one counts the rest."""

    backup_dir: types.NewFolder | None = None
    """Folder of the backups. With BACKUP_S3_URL: the folder where a backup is prepared before the upload."""
    backup_s3_url: types.S3Url | None = None
    """S3-compatible storage for the backups, instead of BACKUP_DIR."""
    backup_s3_endpoint: types.HttpUrl | None = None
    """URL of the S3 service. Empty: Amazon S3."""
    backup_s3_region: types.Text = "us-east-1"
    """Region of the S3 service."""
    backup_s3_access_key_id: types.Text | None = None
    """Access key of the S3 service. Empty: the AWS_ variables, or the role of the machine."""
    backup_s3_secret_access_key_file: types.SecretFile | None = None
    """File that contains BACKUP_S3_SECRET_ACCESS_KEY."""
    backup_s3_secret_access_key: types.Secret | None = None
    """Secret of the access key."""
    backup_url: types.ConnectionString | None = None
    """libpq connection string of the role that dumps and restores, completed with that of the migration role."""
    backup_url_file: types.SecretFile | None = None
    """File that contains BACKUP_URL."""
    backup_pg_bin: types.Folder | None = None
    """Folder of pg_dump and pg_restore. Empty: PATH, PostgreSQL's packages, then the embedded PostgreSQL."""
    backup_format: types.BackupFormat = "directory"
    """Format of a dump: a directory written by PARALLEL_JOBS connections, or one custom file written by one."""
    backup_compression: types.Compression = "gzip"
    """Compression of a dump. zstd requires a pg_dump with zstd support."""
    parallel_jobs: types.Jobs = 4
    """Number of connections for a dump or a restore. A dump uses two more."""
    backup_schedule: types.Schedule | None = None
    """When `vsyncd serve` creates backups. Empty: never. A missed run is made up for."""
    backup_check: types.BackupCheck = "checksums"
    """Verification of a scheduled backup: its checksums, or also a restore into a temporary database."""
    retention_days: types.FractionalDays = 7
    """Age in days at which a backup is removed. 0: unlimited."""
    backup_retention_count: types.CountOrZero = 0
    """Number of backups to keep, newest first. 0: unlimited."""

    @model_validator(mode="before")
    @classmethod
    def _apply_database_url(cls, values: dict[str, Any]) -> dict[str, Any]:
        url, path = values.get("database_url"), values.get("database_url_file")
        if not url and not path:
            return values
        try:
            parts = settings_of(parse_database_url(types.reveal(url or types.read_secret_file(str(path)))))
        except ValueError:
            return values  # the validator of database_url reports the error
        return values | parts | ({"db_password_file": None} if "db_password" in parts else {})

    @field_validator("*")
    @classmethod
    def _validate_secret(cls, value: object, info: ValidationInfo) -> object:
        """Rejects a secret that is given as a variable and as a file, and a file with invalid content."""
        name = info.field_name or ""
        secret = name.removesuffix("_file")
        if value is None or not {secret, f"{secret}_file"} <= cls.model_fields.keys():
            return value
        other = secret if name != secret else f"{secret}_file"
        if info.data.get(other) is not None:
            raise ValueError(f"{other.upper()} is set, too")
        if name != secret:
            types.read_secret(str(value), cls.model_fields[secret])
        return value

    @field_validator("db_min_connections", "shutdown_delay")
    @classmethod
    def _validate_limit(cls, value: float, info: ValidationInfo) -> float:
        limit = _LIMITS[info.field_name or ""]
        if value > info.data.get(limit, value):
            raise ValueError(f"more than {limit.upper()}")
        return value

    @field_validator("tls_key_file", "backup_s3_secret_access_key")
    @classmethod
    def _validate_pair(cls, value: object, info: ValidationInfo) -> object:
        other = _PAIRS[info.field_name or ""]
        is_given = value is not None or info.data.get(f"{info.field_name}_file") is not None
        # An invalid value is reported already, and is missing in info.data.
        if other in info.data and is_given != (info.data[other] is not None):
            raise ValueError(f"requires {other.upper()}, and vice versa")
        return value

    @field_validator("tls_client_ca_file", "backup_s3_url", "backup_schedule")
    @classmethod
    def _validate_requirement(cls, value: str | None, info: ValidationInfo) -> str | None:
        required = "tls_cert_file" if info.field_name == "tls_client_ca_file" else "backup_dir"
        if value is not None and info.data.get(required, value) is None:
            raise ValueError(f"requires {required.upper()}")
        return value

    @property
    def authentication_methods(self) -> frozenset[str]:
        return frozenset(method.strip() for method in self.authn_methods.split(",") if method.strip())

    @property
    def database_hosts(self) -> tuple[HostPort, ...]:
        return parse_hosts(self.db_host, default_port=self.db_port)

    @property
    def replica_hosts(self) -> tuple[HostPort, ...]:
        return parse_hosts(self.db_replica_hosts, default_port=self.db_port)

    def secret(self, name: str) -> str | None:
        """Returns a secret: the present content of its file, or its variable. Raises ConfigError."""
        file, fields = f"{name}_file", type(self).model_fields
        path: str | None = getattr(self, file)
        if path is None:
            return types.reveal(value) if (value := getattr(self, name)) is not None else None
        try:
            return types.read_secret(path, fields[name])
        except ValueError as error:
            raise ConfigError(types.error_line(file, fields[file], str(error))) from error

    @property
    def has_cache(self) -> bool:
        return self.redis_url is not None or self.redis_url_file is not None

    @property
    def redis_address(self) -> RedisAddress | None:
        """The address of REDIS_URL, or None without a cache. Raises ConfigError like `secret`."""
        url = self.secret("redis_url")
        return parse_redis_url(url) if url is not None else None

    @property
    def cache_encryption_keys(self) -> list[bytes]:
        """The key that encrypts, and one that only decrypts. Raises ConfigError like `secret`."""
        keys = self.secret("cache_encryption_key")
        return types.parse_encryption_keys(keys) if keys is not None else []

    @property
    def grpc_dependencies(self) -> tuple[GrpcDependency, ...]:
        return parse_grpc_dependencies(self.health_grpc_dependencies)

    def with_database(self, conninfo: str, *, owner: str | None = None) -> Self:
        """Returns the settings for another database, without replicas. `owner` connects as its owner.

        Raises ValueError if the connection string is invalid.
        """
        parse_database_url(conninfo)
        secrets = ("database_url", "db_password", "db_migrate_url", "backup_url")
        alone = dict.fromkeys(("db_ssl_root_cert", "db_ssl_mode", *secrets, *(f"{name}_file" for name in secrets)))
        database = {"database_url": conninfo, "db_migrate_url": owner, "db_port": DEFAULT_PORT, "db_replica_hosts": ""}
        return type(self).model_validate(self.model_dump() | alone | database)

    def with_redis(self, url: str) -> Self:
        return type(self).model_validate(self.model_dump() | {"redis_url": url, "redis_url_file": None})

    def masked(self) -> dict[str, str]:
        """Returns every setting by the name of its variable, with masked secrets."""
        return {name.upper(): types.format_value(getattr(self, name)) for name in type(self).model_fields}
