"""The import table of pyproject.toml: it holds, a forbidden import breaks it, and docs/architecture.md shows it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter import ContractCheck

from scripts.import_table import ImportTable

ROOT = Path(__file__).parents[3]
_ROW = re.compile(r"^\| (`.*) \|.*\| ([^|]+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """The imports of the server."""
    return grimp.build_graph("vsyncd", cache_dir=None)


def contract() -> dict[str, Any]:
    """The options of the contract in pyproject.toml."""
    (options,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found: dict[str, Any] = options
    return found


def check(graph: grimp.ImportGraph) -> ContractCheck:
    """The result of the contract as `make lint` checks it."""
    options = contract()
    return ImportTable(options["name"], {"root_package": "vsyncd"}, options).check(graph, verbose=False)


def documented() -> dict[str, set[str]]:
    """Returns what each package may import, as docs/architecture.md says."""
    _, _, section = (ROOT / "docs/architecture.md").read_text().partition("\n## Packages\n")
    table: dict[str, set[str]] = {}
    for packages, permitted in _ROW.findall(section.partition("\n## ")[0]):
        names = set(re.split(r", ", permitted.partition(";")[0].replace("`", ""))) - {"nothing"}
        for package in re.findall(r"`([^`]+)`", packages):
            table[package.removesuffix("<name>/").removesuffix(".py").strip("/").replace("/", ".")] = names
    return table


def test_the_architecture_page_shows_the_import_table() -> None:
    options = contract()
    pairs = (line.split(":") for line in options["permitted"])
    expected = {package: set(re.findall(r"[\w.]+", permitted)) for package, permitted in pairs}
    expected |= {package: {"everything"} for package in options["composition"]}
    assert documented() == expected
    page = (ROOT / "docs/architecture.md").read_text()
    listed = [line.split(":") for line in options["domains"]]
    assert {f"{domain} → {other.strip()}" for domain, other in listed} == set(re.findall(r"[a-z_]+ → [a-z_]+", page))


def test_the_server_keeps_to_the_import_table(graph: grimp.ImportGraph) -> None:
    assert check(graph).kept


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("vsyncd.config.settings", "vsyncd.core.errors"),
        ("vsyncd.transport.server", "vsyncd.postgres.database"),
        ("vsyncd.resilience.retry", "vsyncd.postgres.pool"),
        ("vsyncd.domains.audit.repository", "vsyncd.domains.cids.records"),
        ("vsyncd.migrate.runner", "vsyncd.config"),
        ("vsyncd.postgres.pool", "vsyncd.app"),
    ],
)
def test_a_forbidden_import_breaks_the_contract(graph: grimp.ImportGraph, importer: str, imported: str) -> None:
    graph.add_import(importer=importer, imported=imported)
    try:
        result = check(graph)
        assert not result.kept
        assert result.metadata["forbidden"] == [f"{importer} -> {imported}"]
    finally:
        graph.remove_import(importer=importer, imported=imported)
