"""The import table of pyproject.toml: it holds, and a forbidden import breaks it."""

import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter import ContractCheck

from scripts.import_table import ImportTable

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """The imports of the server."""
    return grimp.build_graph("vsyncd", cache_dir=None)


def check(graph: grimp.ImportGraph) -> ContractCheck:
    """The result of the contract as `make lint` checks it."""
    (options,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return ImportTable(options["name"], {"root_package": "vsyncd"}, options).check(graph, verbose=False)


def test_the_server_keeps_to_the_import_table(graph: grimp.ImportGraph) -> None:
    assert check(graph).kept


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("vsyncd.config.settings", "vsyncd.core.errors"),
        ("vsyncd.transport.server", "vsyncd.postgres.database"),
        ("vsyncd.resilience.retry", "vsyncd.postgres.error_mapping"),
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
