"""The Kubernetes manifests are consistent with the settings, the image and the health service. No cluster is needed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from cronsim import CronSim
from vsyncd.access.policy import parse_policy
from vsyncd.cli.command import vsyncd
from vsyncd.config import Settings
from vsyncd.config.connections import service_conninfo
from vsyncd.config.endpoints import parse_host_port
from vsyncd.domains.registry import load_settings
from vsyncd.http.listeners import admin_address

ROOT = Path(__file__).parents[3]
OBJECTS: dict[str, dict[str, Any]] = {
    each["kind"]: each for each in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
}
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
SPEC: dict[str, Any] = POD["spec"]
(CONTAINER,) = SPEC["containers"]
MIGRATION: dict[str, Any] = OBJECTS["Job"]["spec"]
MIGRATION_POD: dict[str, Any] = MIGRATION["template"]
(MIGRATION_CONTAINER,) = MIGRATION_POD["spec"]["containers"]
JOB: dict[str, Any] = OBJECTS["CronJob"]["spec"]
JOB_POD: dict[str, Any] = JOB["jobTemplate"]["spec"]["template"]
(JOB_CONTAINER,) = JOB_POD["spec"]["containers"]


FILES = ("tls_cert_file", "tls_key_file", "tls_client_ca_file", "authz_file")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Returns the settings of the container, with another file for each of its files."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    given = {variable["name"].lower(): variable["value"] for variable in CONTAINER["env"] if "value" in variable}
    assert {variable["name"].lower() for variable in CONTAINER["env"]} <= Settings.model_fields.keys()
    (tmp_path / "password").write_text("secret")
    return load_settings(**given | dict.fromkeys(("db_password_file", *FILES), str(tmp_path / "password")))


def test_the_password_is_a_file_of_a_secret(settings: Settings) -> None:
    (path,) = [each["value"] for each in CONTAINER["env"] if each["name"] == "DB_PASSWORD_FILE"]
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    (volume,) = [each for each in SPEC["volumes"] if each["name"] == mounts[str(Path(path).parent)]]
    assert volume["secret"]["secretName"] == "vsyncd-database"
    assert "password=secret" in service_conninfo(settings)


def test_a_pod_has_time_for_an_orderly_shutdown(settings: Settings) -> None:
    probe = CONTAINER["readinessProbe"]
    assert settings.shutdown_grace + 2 < SPEC["terminationGracePeriodSeconds"]
    assert 0 < probe["periodSeconds"] <= settings.shutdown_delay < settings.shutdown_grace


def test_probes_use_existing_routes_and_ports() -> None:
    asked = {kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "startup": "/live",
        "liveness": "/live",
        "readiness": "/ready",
    }
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {probe["port"] for probe in asked.values()} == {"http"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"GRPC_LISTEN=0.0.0.0:{ports['grpc']} " in dockerfile
    assert f"HTTP_LISTEN=0.0.0.0:{ports['http']} " in dockerfile


def test_prometheus_and_nobody_else_reaches_the_metrics(settings: Settings) -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert parse_host_port(admin_address(settings)).port == ports["admin"]
    annotations = POD["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (str(ports["admin"]), "/metrics")
    rules = {rule["ports"][0]["port"]: rule["from"] for rule in OBJECTS["NetworkPolicy"]["spec"]["ingress"]}
    assert rules["admin"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_callers_need_certificates_and_roles(settings: Settings) -> None:
    assert settings.authentication_methods == {"mtls"}
    parse_policy((ROOT / "deploy/authz.yaml").read_bytes())
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in SPEC["volumes"]}
    for name in FILES:
        (path,) = [each["value"] for each in CONTAINER["env"] if each["name"] == name.upper()]
        assert volumes[mounts[str(Path(path).parent)]]


def test_the_network_policy_covers_the_service_and_its_ports() -> None:
    policy = OBJECTS["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == POD["metadata"]["labels"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    ports = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    # Kubelet's probes come from the node, which network policies permit.
    assert ports == {port["name"] for port in CONTAINER["ports"]} - {"http"}


def test_the_container_runs_as_the_images_user_without_write_access() -> None:
    user = SPEC["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text()
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True


def test_all_selectors_match_the_same_pods() -> None:
    labels = POD["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_each_version_has_a_migration_job_without_probes(settings: Settings) -> None:
    assert settings.db_auto_migrate is False
    assert MIGRATION_CONTAINER["args"] == ["migrate", "up"]
    assert not any(name.endswith("Probe") for name in MIGRATION_CONTAINER)
    assert "activeDeadlineSeconds" not in MIGRATION
    version = MIGRATION_CONTAINER["image"].rpartition(":")[2]
    assert OBJECTS["Job"]["metadata"]["name"] == f"vsyncd-migrate-{version.replace('.', '-')}"


def test_the_migration_job_uses_the_owner_and_grants_the_service_role() -> None:
    variables = {each["name"]: each for each in MIGRATION_CONTAINER["env"]}
    assert {name.lower() for name in variables} <= Settings.model_fields.keys()
    same = {each["name"]: each["value"] for each in CONTAINER["env"] if "value" in each}
    for name in ("DB_HOST", "DB_NAME", "DB_USER", "DB_SSL_MODE"):
        assert variables[name]["value"] == same[name]
    assert variables["DB_MIGRATE_URL"]["valueFrom"]["secretKeyRef"] == {"name": "vsyncd-owner", "key": "url"}


def test_the_maintenance_job_runs_as_the_owner_on_the_same_database() -> None:
    assert JOB_CONTAINER["args"] == ["maintain"]
    assert vsyncd.get_command(click.Context(vsyncd), "maintain") is not None
    assert '\nENTRYPOINT ["vsyncd"]\n' in (ROOT / "Dockerfile").read_text()
    variables = {each["name"]: each for each in JOB_CONTAINER["env"]}
    assert {name.lower() for name in variables} <= Settings.model_fields.keys()
    same = {each["name"]: each["value"] for each in CONTAINER["env"] if "value" in each}
    for name in ("DB_HOST", "DB_NAME", "DB_SSL_MODE"):
        assert variables[name]["value"] == same[name]
    assert {name for name in same if "RETENTION" in name} <= variables.keys(), "the job is who drops"
    # The secret has the owner's name and password. It is not the service's secret.
    assert variables["DB_USER"]["valueFrom"]["secretKeyRef"] == {"name": "vsyncd-owner", "key": "username"}
    mounts = {mount["mountPath"]: mount["name"] for mount in JOB_CONTAINER["volumeMounts"]}
    (volume,) = JOB_POD["spec"]["volumes"]
    assert volume["secret"]["secretName"] == "vsyncd-owner"
    assert mounts[str(Path(variables["DB_PASSWORD_FILE"]["value"]).parent)] == volume["name"]


def test_maintenance_runs_once_a_day_and_never_twice_at_once() -> None:
    times = CronSim(JOB["schedule"], datetime(2026, 1, 1, tzinfo=UTC))
    first, second = next(times), next(times)
    assert second - first == timedelta(days=1)
    assert JOB["concurrencyPolicy"] == "Forbid"
    assert JOB_POD["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("pod", [JOB_POD, MIGRATION_POD], ids=["maintain", "migrate"])
def test_jobs_are_as_restricted_as_the_service_and_receive_no_calls(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    assert container["image"] == CONTAINER["image"]
    assert container["securityContext"] == CONTAINER["securityContext"]
    assert pod["spec"]["securityContext"] == SPEC["securityContext"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["labels"] != POD["metadata"]["labels"]
