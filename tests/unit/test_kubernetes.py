"""The Kubernetes manifests agree with the settings, the image and the health service. No cluster is needed."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from vsyncd.config import Settings, load_settings
from vsyncd.health.grpc_service import LIVENESS, READINESS

ROOT = Path(__file__).parents[2]
OBJECTS: dict[str, dict[str, Any]] = {
    each["kind"]: each for each in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
}
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
SPEC: dict[str, Any] = POD["spec"]
(CONTAINER,) = SPEC["containers"]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """As the container would read them, but for the password's file."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    given = {variable["name"].lower(): variable["value"] for variable in CONTAINER["env"]}
    assert given.keys() <= Settings.model_fields.keys()
    (tmp_path / "password").write_text("secret")
    return load_settings(**given | {"db_password_file": str(tmp_path / "password")})


def test_the_password_is_a_file_of_a_secret(settings: Settings) -> None:
    (path,) = [each["value"] for each in CONTAINER["env"] if each["name"] == "DB_PASSWORD_FILE"]
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    (volume,) = [each for each in SPEC["volumes"] if each["name"] == mounts[str(Path(path).parent)]]
    assert volume["secret"]["secretName"] == "vsyncd-database"
    assert "password=secret" in settings.database_conninfo()


def test_a_pod_gets_the_time_to_go_in_good_order(settings: Settings) -> None:
    probe = CONTAINER["readinessProbe"]
    assert settings.shutdown_grace + 2 < SPEC["terminationGracePeriodSeconds"]
    assert 0 < probe["periodSeconds"] <= settings.shutdown_delay < settings.shutdown_grace


def test_probes_ask_what_is_served_where_it_is_served(settings: Settings) -> None:
    asked = {kind: CONTAINER[f"{kind}Probe"]["grpc"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["service"] for kind, probe in asked.items()} == {
        "startup": LIVENESS,
        "liveness": LIVENESS,
        "readiness": READINESS,
    }
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {probe["port"] for probe in asked.values()} == {ports["grpc"]}
    assert settings.grpc_listen.endswith(f":{ports['grpc']}")
    assert settings.http_listen.endswith(f":{ports['http']}")
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["http"])


def test_it_runs_as_the_images_user_and_may_write_nothing() -> None:
    user = SPEC["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text()
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True


def test_everything_chooses_the_same_pods() -> None:
    labels = POD["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
