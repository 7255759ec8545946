"""Durations, aliases of settings, and misspelled names of variables."""

from pathlib import Path

import pytest
from vsyncd.config import Settings, load_settings
from vsyncd.config.durations import parse_duration
from vsyncd.config.loading import variable_notes
from vsyncd.config.variables import unknown_variables

from tests.unit.config.variables import VALUE as SECRET
from tests.unit.config.variables import lines_of, put


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("30s", "s", 30),
        ("5m", "s", 300),
        ("1h", "s", 3600),
        ("400ms", "s", 0.4),
        ("1h30m", "s", 5400),
        (" 1 H ", "s", 3600),
        ("0.57s", "ms", 570),
        ("36h", "d", 1.5),
    ],
)
def test_a_duration_with_units_is_converted(text: str, unit: str, number: float) -> None:
    assert parse_duration(text, unit=unit) == number


@pytest.mark.parametrize("value", ["30", "", "s", "5 minutes", "-5m", "1w", "m5", "1e3s", 30, None])
def test_any_other_value_is_returned_unchanged(value: object) -> None:
    assert parse_duration(value, unit="s") == value


def test_duration_settings_accept_units(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        DB_STATEMENT_TIMEOUT="1m",
        DB_CONNECT_TIMEOUT="30s",
        DB_SLOW_QUERY_MS="1s",
        HEALTH_CACHE_SECONDS="0s",
        AUDIT_RETENTION_DAYS="30d",
        SHUTDOWN_GRACE="30",
    )
    settings = load_settings()
    assert (settings.db_statement_timeout, settings.db_connect_timeout, settings.db_slow_query_ms) == (60, 30, 1000)
    assert (settings.health_cache_seconds, settings.audit_retention_days, settings.shutdown_grace) == (0, 30, 30)
    assert lines_of(monkeypatch, DB_CONNECT_TIMEOUT="1500ms", DB_ACQUIRE_TIMEOUT="5 minutes") == (
        "DB_CONNECT_TIMEOUT: takes a whole number of seconds from 2 to 600, or with a unit: 5s, 1m",
        "DB_ACQUIRE_TIMEOUT: takes seconds, more than 0, or with a unit: 500ms, 30s, 5m, 1h",
    )


def test_every_alias_defines_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        DB_MAX_OPEN_CONNS="40",
        DATABASE_MAX_CONNECTIONS="40",
        DB_MAX_IDLE_CONNS="4",
        DB_MAX_IDLE_CONNECTIONS="4",
        DB_CONN_MAX_LIFETIME="5m",
        DB_CONNECTION_MAX_LIFETIME="300",
        DB_CONN_MAX_IDLE_TIME="2m",
        DATABASE_CONN_TIMEOUT="7s",
        PGPASSWORD=SECRET,
        COMPRESSION="zstd",
        REDIS_ADDR="cache:6380",
        REDIS_DB="2",
        REDIS_PASSWORD="p@ss/word",
        USE_DATABASE_STORAGE="true",
        USE_REDIS_HEALTH_MONITORING="true",
        USE_REDIS_SESSION_CACHE="1",
    )
    settings = load_settings()
    assert (settings.db_max_connections, settings.db_min_connections) == (40, 4)
    assert (settings.db_connection_max_lifetime, settings.db_connection_max_idle_time) == (300, 120)
    assert (settings.db_connect_timeout, settings.secret("db_password")) == (7, SECRET)
    assert settings.backup_compression == "zstd"
    address = settings.redis_address
    assert address is not None
    assert ([str(host) for host in address.hosts], address.database, address.password) == (
        ["cache:6380"],
        2,
        "p@ss/word",
    )
    notes = variable_notes()
    assert len(notes) == 15
    assert "DB_MAX_OPEN_CONNS is an alias: use DB_MAX_CONNECTIONS" in notes
    assert "REDIS_PASSWORD is an alias: use REDIS_URL" in notes
    assert "USE_REDIS_SESSION_CACHE is not needed: REDIS_URL decides whether Redis is used" in notes
    assert SECRET not in str(notes)


def test_two_names_with_different_values_are_an_error_that_names_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("DB_MAX_CONNECTIONS=40\nDB_MAX_OPEN_CONNS=41\n")
    (tmp_path / "secret").write_text("other")
    assert lines_of(
        monkeypatch,
        PGPASSWORD=SECRET,
        DB_PASSWORD_FILE=str(tmp_path / "secret"),
        DB_MAX_IDLE_CONNS="1",
        DB_MAX_IDLE_CONNECTIONS="2",
        REDIS_URL="redis://:other@cache/1",
        REDIS_ADDR="cache:6379",
        REDIS_DB="2",
        REDIS_PASSWORD=SECRET,
        USE_REDIS_SESSION_CACHE="false",
        USE_DATABASE_STORAGE="false",
    ) == (
        "DB_MAX_OPEN_CONNS: DB_MAX_CONNECTIONS has a different value: remove one of them",
        "DB_MAX_IDLE_CONNECTIONS: DB_MAX_IDLE_CONNS has a different value: remove one of them",
        "PGPASSWORD: DB_PASSWORD_FILE is set, too: remove one of them",
        "REDIS_DB: REDIS_URL has a different value: remove one of them",
        "REDIS_PASSWORD: REDIS_URL has a different value: remove one of them",
        "USE_REDIS_SESSION_CACHE: false contradicts REDIS_URL: remove one of them",
        "USE_DATABASE_STORAGE: takes true, because PostgreSQL always stores the data",
    )


def test_a_wrong_value_of_an_alias_is_reported_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_of(monkeypatch, DATABASE_CONN_TIMEOUT="soon", REDIS_PASSWORD=SECRET, DB_MAX_OPEN_CONNS="0")
    assert [line.partition(":")[0] for line in lines] == [
        "REDIS_PASSWORD",
        "DB_MAX_OPEN_CONNS",
        "DATABASE_CONN_TIMEOUT",
    ]
    monkeypatch.delenv("DB_MAX_OPEN_CONNS")
    monkeypatch.delenv("DATABASE_CONN_TIMEOUT")
    assert lines_of(monkeypatch, REDIS_ADDR=f"{SECRET}:x") == ("REDIS_ADDR: takes host:port",)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("DB_PROT", "DB_PORT"),
        ("DATABASE_HOST", "DB_HOST"),
        ("GRCP_LISTEN", "GRPC_LISTEN"),
        ("GRPC_LISTN", "GRPC_LISTEN"),
        ("LOG_LEVELL", "LOG_LEVEL"),
        ("LOG_LEVAL", "LOG_LEVEL"),
        ("BACKUP_QQQQQQQQQQQQQ", None),
    ],
)
def test_a_misspelled_name_is_reported_with_the_nearest_setting(name: str, nearest: str | None) -> None:
    (found,) = unknown_variables({name: "x"}, Settings.model_fields)
    assert (found.name, found.nearest) == (name, nearest)


def test_variables_of_other_programs_are_not_reported() -> None:
    others = {
        **dict.fromkeys(("DOMAIN", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "NO_PROXY", "GRPC_VERBOSITY"), "x"),
        **dict.fromkeys(("GRPC_TRACE", "LOG_FILE", "CACHE_DIR", "TRACE_ID", "MAX_JOBS", "PGUSER", "POSTGRES_DB"), "x"),
        **dict.fromkeys(("DB_SERVICE_HOST", "DB_SERVICE_PORT_SQL", "REDIS_PORT_6379_TCP_ADDR", "DB_ENV_LANG"), "x"),
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "OTEL_SERVICE_NAME", "VSYNC_TARGET", "EXPORT_DIR", "HOSTNAME"), "x"),
        "REDIS_PORT": "tcp://10.0.0.1:6379",
    }
    assert unknown_variables(others, Settings.model_fields) == []
