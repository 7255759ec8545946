"""Sources, validation and masking of the settings."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from vsyncd.config import ConfigError, Settings, load_settings, types
from vsyncd.config.endpoints import GrpcDependency, HostPort
from vsyncd.config.types import MASK
from vsyncd.jobs.maintenance.maintainer import retention_settings

from tests.unit.config.variables import VALUE, lines_of, put

ROOT = Path(__file__).resolve().parents[3]


class NoteSettings(Settings):
    """The settings of a domain."""

    note_retention_days: types.Days = 5
    """Days."""


class OtherSettings(Settings):
    """The settings of another domain."""

    other_limit: types.Count = 1
    """A limit."""


def test_the_settings_of_domains_are_settings_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, NOTE_RETENTION_DAYS="7")
    settings = load_settings(NoteSettings, OtherSettings, other_limit=3)
    assert isinstance(settings, NoteSettings)
    assert isinstance(settings, OtherSettings)
    assert (settings.note_retention_days, settings.other_limit) == (7, 3)
    assert list(settings.masked()) == [*load_settings().masked(), "NOTE_RETENTION_DAYS", "OTHER_LIMIT"]
    assert retention_settings(settings)["NOTE_RETENTION_DAYS"] == 7
    assert isinstance(settings.with_database("dbname=other"), NoteSettings)
    put(monkeypatch, NOTE_RETENTION_DAYS="-1", OTHER_LIMIT="none")
    with pytest.raises(ConfigError) as error:
        load_settings(NoteSettings, OtherSettings)
    assert [line.partition(":")[0] for line in error.value.lines] == ["NOTE_RETENTION_DAYS", "OTHER_LIMIT"]


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_config_reference", ROOT / "scripts/make_config_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_env_example_has_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (ROOT / ".env.example").read_text() == reference().env_example(), "run scripts/make_config_reference.py"

    assert load_settings() == Settings.model_construct(**load_settings().model_dump())
    defaults = load_settings()
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    assert load_settings() == defaults
    monkeypatch.chdir("/")
    assert load_settings() == defaults


def test_the_configuration_page_has_every_setting() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == reference().configuration_page(), "run scripts/make_config_reference.py"
    assert all(f"| `{name.upper()}` |" in page for name in Settings.model_fields)


def test_the_environment_overrides_the_file_and_an_argument_overrides_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("DB_NAME=file\nDB_USER=file\nDB_HOST=file\nSOMETHING_ELSE=1\n")
    put(monkeypatch, DB_USER="environment", DB_HOST="environment")
    settings = load_settings(db_host="argument", db_port=None)
    assert (settings.db_name, settings.db_user, settings.db_host) == ("file", "environment", "argument")
    assert settings.db_port == 5432


def test_an_unknown_override_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="grpc_listne"):
        load_settings(grpc_listne="localhost:1")


def test_settings_are_read_only() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().db_name = "other"


@pytest.mark.parametrize(
    "name",
    [
        "DB_STATEMENT_TIMEOUT",
        "EXPORT_MAX_DURATION",
        "GRPC_KEEPALIVE_TIME",
        "GRPC_KEEPALIVE_TIMEOUT",
        "RECONCILIATION_MAX_DURATION",
    ],
)
@pytest.mark.parametrize("value", ["0.0004", "1296000"])
def test_a_timeout_out_of_range_is_rejected(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: takes seconds from 0.001 to 1000000"):
        load_settings()


def test_each_wrong_variable_is_reported_in_one_line_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_of(
        monkeypatch,
        DB_PORT=VALUE,
        DB_SCHEMA="Vsync; DROP TABLE",
        DB_CONNECT_TIMEOUT="1",
        DB_AUTO_MIGRATE="perhaps so",
        DB_STATEMENT_TIMEOUT="nan",
        GRPC_LISTEN="localhost-without-port",
        HEALTH_GRPC_DEPENDENCIES="dict=localhost",
        LOG_FORMAT="a-pretty-one",
        GRPC_MAX_REQUEST_BYTES="12",
    )
    assert lines == (
        "DB_PORT: takes a whole number from 1 to 65535",
        "DB_SCHEMA: takes up to 41 lower case letters, digits and _, not starting with a digit",
        "DB_CONNECT_TIMEOUT: takes a whole number of seconds from 2 to 600, or with a unit: 5s, 1m",
        "DB_STATEMENT_TIMEOUT: takes seconds from 0.001 to 1000000, or with a unit: 500ms, 30s, 5m, 1h",
        "DB_AUTO_MIGRATE: takes true or false",
        "GRPC_LISTEN: takes host:port (the port is not a number from 0 to 65535)",
        "GRPC_MAX_REQUEST_BYTES: takes a whole number of bytes from 1024 to 1073741824",
        (
            "HEALTH_GRPC_DEPENDENCIES: takes name=host:port, comma separated; ! at the end: critical"
            " (the port is not a number from 0 to 65535)"
        ),
        "LOG_FORMAT: takes auto, json or console",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"postgresql+psycopg://u:{VALUE}@host/name"),
        ("DATABASE_URL", f"postgresql://u:{VALUE}@host:99999/name"),
        ("DATABASE_URL", f"host=a,b port=1,2,3 password={VALUE}"),
        ("DATABASE_URL", f"postgresql://u:{VALUE}@host/name?sslmode=maybe"),
        ("DATABASE_URL", f"host=h password={VALUE} connect_timeout=soon"),
        ("DATABASE_URL", f"host=h password={VALUE} pasword=x"),
        ("DB_MIGRATE_URL", f"mysql://u:{VALUE}@host/name"),
        ("REDIS_URL", f"http://u:{VALUE}@host"),
        ("DB_SSL_MODE", VALUE),
        ("DB_HOST", f"{VALUE}:x"),
        ("DB_REPLICA_HOSTS", f"{VALUE},,b"),
        ("DB_SSL_ROOT_CERT", f"/{VALUE}/nowhere"),
        ("DB_PASSWORD_FILE", f"/{VALUE}/nowhere"),
        ("DB_MIGRATE_PATH", f"/{VALUE}/nowhere"),
        ("DB_MAX_CONNECTIONS", "0"),
        ("LOG_LEVEL", VALUE),
        ("REDIS_PREFIX", "with a space in it"),
        ("CACHE_TTL", "-1"),
        ("SHUTDOWN_GRACE", "inf"),
    ],
)
def test_a_wrong_value_is_reported_for_its_own_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    (line,) = lines_of(monkeypatch, **{name: value})
    assert line.startswith(f"{name}: takes ")


def test_dependent_settings_are_validated_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pem = tmp_path / "some.pem"
    pem.write_text("certificate")
    assert lines_of(monkeypatch, DB_MAX_CONNECTIONS="3", TLS_CERT_FILE=str(pem)) == (
        "DB_MIN_CONNECTIONS: takes a whole number from 0 to 100000 (more than DB_MAX_CONNECTIONS)",
        "TLS_KEY_FILE: takes the path of a readable file (requires TLS_CERT_FILE, and vice versa)",
    )
    put(monkeypatch, DB_MIN_CONNECTIONS="3", TLS_KEY_FILE=str(pem), TLS_CLIENT_CA_FILE=str(pem))
    assert load_settings().tls_client_ca_file == str(pem)
    monkeypatch.delenv("TLS_CERT_FILE")
    assert [line.partition(":")[0] for line in lines_of(monkeypatch)] == ["TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"]


def test_an_unreadable_env_file_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DB_NAME=\xff\n")
    with pytest.raises(ConfigError, match=r"^\.env: takes readable UTF-8 text"):
        load_settings()


def test_secrets_appear_in_no_repr_and_no_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        monkeypatch,
        DATABASE_URL=f"postgresql://user:{VALUE}@host/name",
        DB_MIGRATE_URL=f"postgresql://owner:{VALUE}@host/name",
        REDIS_URL=f"redis://:{VALUE}@host",
    )
    settings = load_settings()
    shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    assert not any(VALUE in text for text in [*shown, str(settings.masked())])
    masked = settings.masked()
    assert masked["DATABASE_URL"] == masked["DB_PASSWORD"] == masked["REDIS_URL"] == MASK
    assert (masked["DB_USER"], masked["DB_PASSWORD_FILE"], masked["DB_STATEMENT_TIMEOUT"]) == ("user", "", "30")


def test_lists_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DB_REPLICA_HOSTS="a,b:5433", HEALTH_GRPC_DEPENDENCIES="dict=dict:443!, fraud=[::1]:9")
    settings = load_settings()
    assert settings.replica_hosts == (HostPort("a", 5432), HostPort("b", 5433))
    assert settings.grpc_dependencies == (
        GrpcDependency("dict", HostPort("dict", 443), is_critical=True),
        GrpcDependency("fraud", HostPort("::1", 9), is_critical=False),
    )


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DB_HOST="", DB_PORT="", DATABASE_URL="", GRPC_LISTEN="", TLS_CERT_FILE="")
    assert load_settings() == Settings()
    assert load_settings().db_host == "localhost"
