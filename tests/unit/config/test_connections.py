"""Connection strings that are built from the settings, and secrets that are read from files."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from vsyncd.config import ConfigError, Settings, load_settings
from vsyncd.config.connections import backup_conninfo, owner_conninfo, replica_conninfo, service_conninfo
from vsyncd.config.endpoints import HostPort

from tests.unit.config.variables import VALUE, lines_of, put


def conninfo_of(settings: Settings) -> dict[str, object]:
    return dict(conninfo_to_dict(service_conninfo(settings)))


def password_of(settings: Settings) -> object:
    return conninfo_of(settings)["password"]


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
