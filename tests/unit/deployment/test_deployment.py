"""The lock files, the Dockerfile and docker-compose.yml are consistent with the project. Docker is not needed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from vsyncd.access.control import AccessControl
from vsyncd.cli.command import run
from vsyncd.config import Settings
from vsyncd.config.database_url import parse_database_url
from vsyncd.domains.registry import load_settings
from vsyncd.embedded.postgres import SETTINGS

from scripts.pin_images import pin_images
from tests.harness.clusters import VERSIONS

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# "${NAME:-default}": compose uses the default if the variable is not set.
_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


def environment(service: str) -> dict[str, str]:
    """Returns a service's variables, with the defaults for variables that are not set."""
    return {name: _DEFAULT.sub(r"\1", value) for name, value in SERVICES[service]["environment"].items()}


def instructions(name: str) -> list[str]:
    """Returns the arguments of each instruction with this name in the Dockerfile's last stage."""
    last = DOCKERFILE.replace("\\\n", " ").split("\nFROM ")[-1]
    return [line.split(maxsplit=1)[1] for line in last.splitlines() if line.startswith(f"{name} ")]


def test_the_lock_pins_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[^a-z0-9-]", requirement.lower())[0] for requirement in declared} - {"vsyncd"}
    assert names <= {pin.partition("==")[0] for pin in pins("requirements.lock")}, "make lock"


def pins(name: str) -> set[str]:
    """Returns the pins of a lock file, such as "click==8.5.1"."""
    return set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_every_pin_has_hashes_and_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = re.findall(
        r"^\S.*(?:\n +--hash=.*)*", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE), re.MULTILINE
    )
    assert {re.split(r"[ ;]", each)[0] for each in requirements} == pins(name) != set()
    assert [each for each in requirements if not re.search(r"--hash=sha256:[0-9a-f]{64}$", each)] == []
    assert "://" not in text
    assert "--index" not in text


def test_the_lock_files_agree() -> None:
    serving, image, tools = map(pins, ("requirements-run.lock", "requirements-image.lock", "requirements-tools.lock"))
    development = pins("requirements.lock")
    assert serving < development, "make lock"
    assert image < development, "make lock"
    names = {pin.partition("==")[0] for pin in tools - development}
    assert names.isdisjoint(pin.partition("==")[0] for pin in development), "make lock"


@pytest.mark.parametrize("name", ["requirements-run.lock", "requirements-image.lock"])
def test_serving_installs_no_tools_of_development(name: str) -> None:
    names = {pin.partition("==")[0] for pin in pins(name)}
    assert {"grpcio", "psycopg"} <= names
    assert not names & {"mypy", "moto", "pytest", "ruff", "grpcio-tools", "hypothesis", "pip-audit"}


def test_pip_checks_hashes_wherever_it_installs_a_lock_file() -> None:
    recipes = "".join((ROOT / name).read_text() for name in ("Makefile", "Dockerfile")).replace("\\\n", " ")
    installs = re.findall(r"^.*-r requirements.*$", recipes, re.MULTILINE)
    assert len(installs) >= 4
    assert [each for each in installs if "--require-hashes" not in each] == []
    # Build isolation would download the build system without checking its hashes.
    builds = re.findall(r"^.*(?:--editable| wheel ).*\.$|^.* pip wheel .*$", recipes, re.MULTILINE)
    assert len(builds) >= 3
    assert [each for each in builds if "--no-build-isolation" not in each] == []


def test_images_are_pinned_by_digest() -> None:
    text = "FROM python:3.13 AS build\nFROM build\n    image: valkey/valkey:9\n    image: vsyncd:0.1.0\n"
    digests = {"python:3.13": f"sha256:{'0' * 64}", "valkey/valkey:9": f"sha256:{'1' * 64}"}
    pinned = text
    for image, digest in digests.items():
        pinned = pinned.replace(image, f"{image}@{digest}")
    assert pin_images(text, digests.__getitem__) == pinned
    assert pin_images(pinned, digests.__getitem__) == pinned


@pytest.mark.parametrize("service", ["postgres", "valkey", "vsyncd"])
def test_every_service_has_a_health_check_and_is_restarted(service: str) -> None:
    assert SERVICES[service]["healthcheck"].keys() >= {"test", "interval", "timeout", "retries", "start_period"}
    assert SERVICES[service]["restart"] == "unless-stopped"


def test_vsyncd_waits_for_its_dependencies() -> None:
    assert SERVICES["vsyncd"]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "valkey": {"condition": "service_healthy"},
    }


def test_every_variable_of_vsyncd_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    certificates = tmp_path / "certs"
    assert run(["dev-certs", str(certificates)]) == 0
    (volume,) = [each for each in SERVICES["vsyncd"]["volumes"] if each.startswith("certs:")]
    folder = volume.split(":")[1]
    assert SERVICES["vsyncd"]["entrypoint"][-1] == f"vsyncd dev-certs {folder} && exec vsyncd serve"
    values = {name: value.replace(folder, str(certificates)) for name, value in environment("vsyncd").items()}
    client = {name: values.pop(name) for name in ("VSYNC_TLS_CA", "VSYNC_TLS_CERT", "VSYNC_TLS_KEY")}
    assert all(Path(path).is_file() for path in client.values())
    listens = dict(re.findall(r"(GRPC_LISTEN|HTTP_LISTEN)=(\S+)", DOCKERFILE))
    given = {name.lower(): value for name, value in (listens | values).items()}
    assert given.keys() <= Settings.model_fields.keys()
    settings = load_settings(**given)
    assert AccessControl(settings).enforced
    assert (settings.db_host, settings.db_name, settings.db_user) == ("postgres", "vsync", "vsync")
    assert settings.db_migrate_url is not None
    assert parse_database_url(settings.db_migrate_url.get_secret_value())["user"] == "vsync_owner"


def test_postgresql_has_an_owner_and_a_service_role_with_the_passwords_that_vsyncd_uses() -> None:
    (script,) = [each for each in SERVICES["postgres"]["volumes"] if "initdb.d" in each]
    sql = (ROOT / script.split(":")[0]).read_text()
    assert set(re.findall(r"CREATE ROLE (\w+)", sql)) == {"vsync_owner", "vsync"}
    assert "SUPERUSER" not in sql
    assert set(re.findall(r"\\getenv \w+ (\w+)", sql)) <= environment("postgres").keys()
    service, postgres = SERVICES["vsyncd"]["environment"], SERVICES["postgres"]["environment"]
    assert service["DB_PASSWORD"] == postgres["DB_PASSWORD"]
    assert f":{postgres['OWNER_PASSWORD']}@" in service["DB_MIGRATE_URL"]


def test_valkey_has_the_password_that_vsyncd_uses() -> None:
    password = SERVICES["valkey"]["environment"]["VALKEYCLI_AUTH"]
    command = SERVICES["valkey"]["command"]
    assert command[command.index("--requirepass") + 1] == password
    assert f":{password}@" in SERVICES["vsyncd"]["environment"]["REDIS_URL"]


def test_docker_waits_longer_than_the_shutdown() -> None:
    grace = int(SERVICES["vsyncd"]["stop_grace_period"].removesuffix("s"))
    assert grace > float(environment("vsyncd")["SHUTDOWN_GRACE"])


def test_the_data_is_in_a_volume() -> None:
    # The image of PostgreSQL 18 refuses to start with a volume at .../data, the folder of older versions.
    assert SERVICES["postgres"]["volumes"][0] == "postgres-data:/var/lib/postgresql"
    assert "postgres-data" in COMPOSE["volumes"]


def test_postgresql_logs_no_keys_as_the_embedded_one() -> None:
    options = SERVICES["postgres"]["command"][2::2]
    assert [f"{name}={SETTINGS[name]}" for name in ("log_error_verbosity", "log_min_error_statement")] == options


def test_backups_are_in_a_volume_that_the_images_user_owns() -> None:
    folder = environment("vsyncd")["BACKUP_DIR"]
    assert f"backups:{folder}" in SERVICES["vsyncd"]["volumes"]
    assert "backups" in COMPOSE["volumes"]
    assert f"install --directory --owner=vsyncd --group=vsyncd --mode=0700 {folder} /certs" in DOCKERFILE
    # pg_dump's password is in a temporary file. Everything else is read-only.
    assert SERVICES["vsyncd"]["read_only"] is True
    assert SERVICES["vsyncd"]["tmpfs"] == ["/tmp"]  # noqa: S108 - a folder of the container


def test_the_image_has_client_programs_for_every_server_version() -> None:
    versions = {int(version) for version in re.findall(r"postgresql-client-(\d+)", DOCKERFILE)}
    assert set(VERSIONS) <= versions, "the tested versions must be supported"
    newest = SERVICES["postgres"]["image"].removeprefix("postgres:")
    assert int(newest) in versions


def test_ports_are_open_to_the_local_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert {port.rpartition(":")[2] for port in ports} == {"50051", "8080", "9090"}
    assert environment("vsyncd")["ADMIN_LISTEN"] == "0.0.0.0:9090"


def test_the_image_runs_as_a_numeric_user_and_is_probed_for_liveness() -> None:
    (user,) = instructions("USER")
    (probe,) = instructions("HEALTHCHECK")
    assert user == "10001:10001"
    assert "http://localhost:8080/live" in probe
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("EXPOSE") == ["50051 8080"]
    assert Settings.model_fields["grpc_listen"].default.endswith(":50051")
    assert Settings.model_fields["http_listen"].default.endswith(":8080")


def test_dockerignore_permits_exactly_the_files_of_the_image() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert kept == copied
    assert all((ROOT / name).exists() for name in kept)
