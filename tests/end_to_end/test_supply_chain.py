"""The SBOM, and known vulnerabilities of the locked packages. `make soak` installs the tools."""

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
PIP_AUDIT = ROOT / ".venv/tools/bin/pip-audit"


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_sbom_lists_the_packages_of_the_image_and_their_licences() -> None:
    subprocess.run(["make", "sbom"], cwd=ROOT, check=True, timeout=600)
    document = json.loads((ROOT / "dist/vsyncd.cdx.json").read_text())
    components = {normalised(each["name"]): each["version"] for each in document["components"]}
    locked = re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / "requirements-image.lock").read_text(), re.MULTILINE)
    assert components.items() >= dict(locked).items()
    markers = re.findall(r"^([a-z0-9-]+)==\S+ ;", (ROOT / "requirements-image.lock").read_text(), re.MULTILINE)
    assert components.keys() <= {*dict(locked), *markers, "vsyncd"}
    licensed = [each["name"] for each in document["components"] if each.get("licenses")]
    assert len(licensed) > 0.9 * len(components)
    (needed,) = [each["dependsOn"] for each in document["dependencies"] if each["ref"].startswith("vsyncd==")]
    assert any(each.startswith("grpcio==") for each in needed)


@pytest.mark.parametrize(
    "lock", ["requirements-image.lock", "requirements.lock", "requirements-browser.lock", "requirements-tools.lock"]
)
def test_no_locked_package_has_a_known_vulnerability(lock: str) -> None:
    options = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "20")
    command = [str(PIP_AUDIT), "--requirement", lock, *options]
    audited = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    if not audited.stdout:
        if re.search(r"ConnectionError|Connection refused|Max retries|timed out|ServiceError", audited.stderr):
            pytest.skip(f"the advisory database is unreachable: {audited.stderr.strip().splitlines()[-1]}")
        pytest.fail(audited.stderr)
    packages = json.loads(audited.stdout)["dependencies"]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if len(unknown) == len(packages):
        pytest.skip("the package index answers without its advisory database")
    assert unknown == []
    assert {each["name"]: each["vulns"] for each in packages if each["vulns"]} == {}
