"""promtool's tests of the alerts, and a real Prometheus that scrapes a service until it stops."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from tests.harness.backups import environment
from tests.harness.clusters import Database
from tests.harness.ports import free_port
from tests.harness.processes import ServerProcess

pytestmark = pytest.mark.soak

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
SELECTOR = re.compile(r"\b((?:vsyncd|grpc_server)_\w+)(?:\{([^}]*)\})?")
MAX_WAIT_S = 120


def program(name: str) -> str:
    path = shutil.which(name)
    assert path is not None, f"this test needs {name} on the PATH"
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "rules", "prometheus-rules.yml"],
        ["promtool", "test", "rules", "prometheus-rules-test.yml"],
        ["amtool", "check-config", "alertmanager.yml"],
    ],
    ids=" ".join,
)
def test_the_tools_accept_the_files(command: list[str]) -> None:
    done = subprocess.run(
        [program(command[0]), *command[1:]], cwd=DEPLOY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A Prometheus that scrapes one address every second and evaluates our rules, without their `for`."""

    def __init__(self, folder: Path, target: str) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        for group in RULES["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / "rules.yml").write_text(yaml.safe_dump(RULES))
        scraped = [{"job_name": "vsyncd", "static_configs": [{"targets": [target]}]}]
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": scraped,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._command = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self._address}",
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator["Prometheus"]:
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield self
        finally:
            process.terminate()
            process.wait(MAX_WAIT_S)

    def get(self, path: str) -> Any:
        with urlopen(f"http://{self._address}/api/v1/{path}", timeout=30) as response:
            return json.load(response)["data"]

    def series(self, selector: str) -> list[dict[str, str]]:
        """Returns the labels of the current series that match."""
        return [each["metric"] for each in self.get(f"query?query={quote(selector)}")["result"]]

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.get("alerts")["alerts"]}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(URLError):
            if condition():
                return
        time.sleep(0.5)
    raise AssertionError("the condition was not met in time")


def test_prometheus_has_what_the_alerts_use_and_reports_a_stopped_service(
    database: Database, tmp_path: Path, folder: Path
) -> None:
    settings = environment(database, folder / "backups", BACKUP_SCHEDULE="6h", DB_MIGRATE_URL=database.owner_url)
    server = ServerProcess(database, tmp_path / "log", **settings)
    server.start()
    try:
        with Prometheus(tmp_path, f"127.0.0.1:{server.http_port}").running() as prometheus:
            wait_for(lambda: bool(prometheus.series("vsyncd_ready == 1")))
            wait_for(lambda: bool(prometheus.series("vsyncd_backup_stored")))
            known = prometheus.get("metadata")
            for group in RULES["groups"]:
                for rule in group["rules"]:
                    check_selectors(prometheus, known, rule)
            # Before the first scrape no instance was known.
            wait_for(lambda: prometheus.firing() <= {"VsyncdBackupNotVerified"})
            server.stop()
            wait_for(lambda: "VsyncdDown" in prometheus.firing())
            assert "VsyncdAbsent" not in prometheus.firing()
    finally:
        server.stop()


def check_selectors(prometheus: Prometheus, known: dict[str, Any], rule: dict[str, Any]) -> None:
    """The metrics of an alert were scraped. If they have series, these have the labels that its selectors name."""
    for metric, matchers in SELECTOR.findall(rule["expr"]):
        family = re.sub(r"_(total|bucket)$", "", metric)
        assert known.keys() & {metric, family}, (rule["alert"], metric)
        labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        for found in prometheus.series(metric):
            assert labels <= found.keys(), (rule["alert"], metric)
