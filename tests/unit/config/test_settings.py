"""Sources, validation and masking of the settings."""

import importlib.util
import traceback
from pathlib import Path
from types import ModuleType

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from vsyncd.config import ConfigError, Settings, load_settings, types
from vsyncd.config.connections import backup_conninfo, owner_conninfo, replica_conninfo, service_conninfo
from vsyncd.config.endpoints import GrpcDependency, HostPort
from vsyncd.config.types import MASK
from vsyncd.jobs.maintenance.maintainer import retention_settings

ROOT = Path(__file__).resolve().parents[3]
VALUE = "hunter2-is-the-value"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unsets all variables and changes to a directory without .env."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def put(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def lines_of(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[str, ...]:
    put(monkeypatch, **variables)
    with pytest.raises(ConfigError) as error:
        load_settings()
    text = "".join(traceback.format_exception(error.value))
    assert not any(value in text for value in variables.values() if len(value) > 8), "a value was printed"
    return error.value.lines


def conninfo_of(settings: Settings) -> dict[str, object]:
    return dict(conninfo_to_dict(service_conninfo(settings)))


def password_of(settings: Settings) -> object:
    return conninfo_of(settings)["password"]


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


def test_the_connection_string_is_built_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DB_HOST="one, [::1]:5433,/run/post gres", DB_PORT="6432", DB_NAME="n", DB_USER="u")
    put(monkeypatch, DB_PASSWORD="p' \\q", DB_SSL_MODE="REQUIRE", DB_SSL_ROOT_CERT="system", DB_CONNECT_TIMEOUT="7")
    settings = load_settings()
    assert settings.database_hosts == (
        HostPort("one", 6432),
        HostPort("::1", 5433),
        HostPort("/run/post gres", 6432),
    )
    conninfo = conninfo_of(settings)
    assert (conninfo["host"], conninfo["port"]) == ("one,::1,/run/post gres", "6432,5433,6432")
    assert (conninfo["dbname"], conninfo["user"], conninfo["password"]) == ("n", "u", "p' \\q")
    assert (conninfo["sslmode"], conninfo["sslrootcert"], conninfo["connect_timeout"]) == ("require", "system", "7")
    assert conninfo["application_name"] == "vsyncd"
    assert conninfo["keepalives_idle"] == "15"
    assert owner_conninfo(settings) == service_conninfo(settings)
    replica = conninfo_to_dict(replica_conninfo(settings, HostPort("two", 1), application_name="vsyncd-replica"))
    assert (replica["host"], replica["port"], replica["application_name"]) == ("two", "1", "vsyncd-replica")


def test_the_url_overrides_the_settings_and_they_complete_it(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DB_HOST="elsewhere", DB_PORT="1", DB_USER="other", DB_PASSWORD="part", DB_NAME="part")
    put(monkeypatch, DATABASE_URL="postgresql://user@a:11,b/?sslmode=disable&options=-cjit%3Doff&application_name=mine")
    settings = load_settings()
    assert (settings.db_host, settings.db_user, settings.db_name) == ("a:11,b:5432", "user", "part")
    conninfo = conninfo_of(settings)
    assert (conninfo["host"], conninfo["port"], conninfo["password"]) == ("a,b", "11,5432", "part")
    assert (conninfo["options"], conninfo["application_name"]) == ("-cjit=off", "mine")

    put(monkeypatch, DATABASE_URL="postgresql://:url@:77/name")
    settings = load_settings()
    assert (settings.db_host, settings.db_port, settings.db_password) == ("elsewhere", 77, SecretStr("url"))


@pytest.mark.parametrize(
    ("hosts", "addresses", "order", "expected"),
    [
        ("a:1,b:2,c:3", "10.0.0.1,10.0.0.2,10.0.0.3", (2, 0, 1), "10.0.0.3,10.0.0.1,10.0.0.2"),
        ("a,b", "10.0.0.1,", (1, 0), ",10.0.0.1"),
        ("a,a,b", "10.0.0.1,10.0.0.2,10.0.0.3", (2, 0, 1), "10.0.0.3,10.0.0.1,10.0.0.2"),
        ("a,b", "10.0.0.1", (1, 0), "10.0.0.1"),  # libpq refuses it
    ],
)
def test_each_host_keeps_its_address_in_any_order(
    monkeypatch: pytest.MonkeyPatch, hosts: str, addresses: str, order: tuple[int, ...], expected: str
) -> None:
    put(monkeypatch, DATABASE_URL=f"postgresql://{hosts}/?hostaddr={addresses}")
    settings = load_settings()
    assert conninfo_of(settings)["hostaddr"] == addresses
    configured = settings.database_hosts
    conninfo = conninfo_to_dict(service_conninfo(settings, hosts=[configured[place] for place in order]))
    assert conninfo["host"] == ",".join(configured[place].host for place in order)
    assert conninfo["hostaddr"] == expected


def test_host_parameters_of_the_url_do_not_apply_to_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_hosts = {
        "hostaddr": "10.0.0.1,10.0.0.2",
        "load_balance_hosts": "random",
        "target_session_attrs": "primary",
    }
    further = "&".join(f"{name}={value}" for name, value in of_the_hosts.items())
    put(monkeypatch, DATABASE_URL=f"postgresql://a,b/?options=-cjit%3Doff&{further}")
    put(monkeypatch, DB_MIGRATE_URL="host=server", BACKUP_URL="host=elsewhere")
    settings = load_settings()
    assert of_the_hosts.items() <= conninfo_of(settings).items()
    replica = conninfo_to_dict(replica_conninfo(settings, HostPort("c", 1)))
    assert (replica["host"], replica["port"], replica["options"]) == ("c", "1", "-cjit=off")
    assert not of_the_hosts.keys() & replica.keys()
    for conninfo in (owner_conninfo(settings), backup_conninfo(settings)):
        assert not conninfo_to_dict(conninfo).get("hostaddr")


def test_replicas_have_their_own_role(monkeypatch: pytest.MonkeyPatch) -> None:
    def account() -> tuple[object, object]:
        conninfo = conninfo_to_dict(replica_conninfo(load_settings(), HostPort("replica", 1)))
        return conninfo["user"], conninfo.get("password")

    put(monkeypatch, DB_USER="service", DB_PASSWORD="service's")
    assert account() == ("service", "service's")
    put(monkeypatch, DB_REPLICA_USER="reader")
    assert account() == ("reader", "")
    put(monkeypatch, DB_REPLICA_PASSWORD="reader's")
    assert account() == ("reader", "reader's")
    put(monkeypatch, DATABASE_URL="postgresql://url:url@host/name")
    assert account() == ("reader", "reader's")
    assert conninfo_of(load_settings())["user"] == "url"


def test_a_password_file_is_read_for_each_connection_string(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" first \r\n")
    put(monkeypatch, DB_PASSWORD_FILE=str(file))
    settings = load_settings()
    assert password_of(settings) == " first "
    file.write_text("second")
    assert password_of(settings) == "second"
    file.unlink()
    with pytest.raises(ConfigError, match="DB_PASSWORD_FILE: takes the path of a readable text file"):
        service_conninfo(settings)
    file.write_text("third")
    put(monkeypatch, DATABASE_URL="postgresql://user:url@host/name")
    assert password_of(load_settings()) == "url"


CONTENTS = {
    "DATABASE_URL": "postgresql://user:{}@host:77/name",
    "DB_PASSWORD": "{}",
    "DB_REPLICA_PASSWORD": "{}",
    "DB_MIGRATE_URL": "postgresql://owner:{}@host/name",
    "REDIS_URL": "redis://user:{}@host",
    "CACHE_ENCRYPTION_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "BACKUP_S3_SECRET_ACCESS_KEY": "{}",
    "BACKUP_URL": "postgresql://backup:{}@host/name",
}


def test_every_secret_has_a_variant_with_a_file() -> None:
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {name.upper() for name in secrets} == CONTENTS.keys()
    assert {f"{name}_file" for name in secrets} <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", CONTENTS)
def test_a_secret_is_read_from_its_file_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(CONTENTS[name].format(VALUE) + "\n")
    put(monkeypatch, **{f"{name}_FILE": str(file)})
    if name == "BACKUP_S3_SECRET_ACCESS_KEY":
        put(monkeypatch, BACKUP_S3_ACCESS_KEY_ID="id")
    settings = load_settings()
    assert settings.secret(name.lower()) == CONTENTS[name].format(VALUE)
    assert VALUE not in str(settings.masked()) + repr(settings)
    assert type(settings).model_validate(settings.model_dump()) == settings
    file.write_text(CONTENTS[name].format("rotated"))
    assert settings.secret(name.lower()) == CONTENTS[name].format("rotated")

    put(monkeypatch, **{name: CONTENTS[name].format(VALUE)})
    (line,) = lines_of(monkeypatch)
    assert name in line
    assert f"{name}_FILE" in line
    monkeypatch.delenv(name)
    if name not in {"DB_PASSWORD", "DB_REPLICA_PASSWORD", "BACKUP_S3_SECRET_ACCESS_KEY"}:
        file.write_text(f"nothing://{VALUE}")
        with pytest.raises(ConfigError, match=f"^{name}_FILE: takes") as invalid:
            settings.secret(name.lower())
        assert VALUE not in str(invalid.value)
        (line,) = lines_of(monkeypatch)
        assert line.startswith(f"{name}_FILE: takes the path of a readable text file (its content: ")
        assert VALUE not in line


def test_a_database_url_in_a_file_overrides_the_settings_and_may_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://first:one@host:77/name?options=-cjit%3Doff\n")
    put(monkeypatch, DATABASE_URL_FILE=str(file), DB_PASSWORD="other", DB_USER="other")
    settings = load_settings()
    assert (settings.db_host, settings.db_user, settings.db_name) == ("host:77", "first", "name")
    file.write_text("postgresql://second:two@host:77/name")
    conninfo = conninfo_of(settings)
    assert (conninfo["user"], conninfo["password"], "options" in conninfo) == ("second", "two", False)
    other = settings.with_database("host=other")
    assert (conninfo_of(other)["host"], conninfo_of(other).get("password")) == ("other", None)


def test_the_owner_role_uses_the_services_database_but_not_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(monkeypatch, DB_HOST="pooler", DB_PORT="6432", DB_NAME="name", DB_USER="service", DB_PASSWORD="service's")
    put(monkeypatch, DB_MIGRATE_URL="postgresql://owner@server")
    conninfo = conninfo_to_dict(owner_conninfo(load_settings()))
    assert (conninfo["host"], conninfo["port"], conninfo["dbname"]) == ("server", "5432", "name")
    assert (conninfo["user"], conninfo["password"]) == ("owner", "")

    put(monkeypatch, DB_MIGRATE_URL="host=server")
    conninfo = conninfo_to_dict(owner_conninfo(load_settings()))
    assert (conninfo["user"], conninfo["password"]) == ("service", "service's")

    put(monkeypatch, DB_MIGRATE_URL="postgresql://owner:own@/")
    conninfo = conninfo_to_dict(owner_conninfo(load_settings()))
    assert (conninfo["host"], conninfo["port"], conninfo["password"]) == ("pooler", "6432", "own")


def test_another_database_replaces_all_connection_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, DATABASE_URL="postgresql://user:secret@host:1/name?sslmode=require&options=-cjit%3Doff")
    put(monkeypatch, DB_MIGRATE_URL="postgresql://owner@host", DB_REPLICA_HOSTS="replica", DB_ACQUIRE_TIMEOUT="9")
    settings = load_settings().with_database("host='/run/em bedded' dbname=vsync user=vsync")
    conninfo = conninfo_of(settings)
    assert (conninfo["host"], conninfo["port"], conninfo["dbname"]) == ("/run/em bedded", "5432", "vsync")
    assert (conninfo["user"], conninfo["sslmode"]) == ("vsync", "prefer")
    assert not {"password", "options"} & conninfo.keys()
    assert owner_conninfo(settings) == service_conninfo(settings)
    assert (settings.replica_hosts, settings.db_acquire_timeout) == ((), 9)
    with_owner = settings.with_database("dbname=vsync user=vsync_service", owner="dbname=vsync user=vsync")
    assert conninfo_of(with_owner)["user"] == "vsync_service"
    assert conninfo_to_dict(owner_conninfo(with_owner))["user"] == "vsync"


@pytest.mark.parametrize(
    ("hosts", "mode"),
    [
        ("localhost", "prefer"),
        ("127.0.0.1,[::1]", "prefer"),
        ("/run/postgresql", "prefer"),
        ("db.internal", "require"),
        ("localhost,db.internal", "require"),
        ("10.0.0.7", "require"),
    ],
)
def test_a_connection_that_leaves_the_machine_is_encrypted_by_default(
    monkeypatch: pytest.MonkeyPatch, hosts: str, mode: str
) -> None:
    put(monkeypatch, DB_HOST=hosts)
    settings = load_settings()
    assert conninfo_of(settings)["sslmode"] == mode
    # A migration role that connects past a pooler on this machine, or the other way round.
    put(monkeypatch, DB_HOST="127.0.0.1" if mode == "require" else "db.internal")
    put(monkeypatch, DB_MIGRATE_URL="host=" + hosts.replace("[::1]", "::1"))
    settings = load_settings()
    assert conninfo_to_dict(owner_conninfo(settings))["sslmode"] == mode
    assert conninfo_to_dict(backup_conninfo(settings))["sslmode"] == mode
    put(monkeypatch, DB_SSL_MODE="disable")
    assert conninfo_of(load_settings())["sslmode"] == "disable"


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
