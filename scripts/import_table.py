"""The import-linter contract that pyproject.toml uses: a table of packages and the packages that each may import."""

from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class ImportTable(Contract):
    """Direct imports between packages of `vsyncd` must be permitted by the table.

    A package is the longest name of the table that a module's name begins with. Modules of `composition` may import
    everything. Packages below `domains` may import each other only if `domains` lists it.
    """

    type_name = "import_table"

    composition = fields.ListField(subfield=fields.StringField())
    permitted = fields.ListField(subfield=fields.StringField())
    domains = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002  import-linter's signature
        """Compares every import of the graph with the table."""
        forbidden = sorted(
            f"{importer} -> {imported}"
            for importer in graph.modules
            for imported in graph.find_modules_directly_imported_by(importer)
            if not self._permits(_below_root(importer), _below_root(imported))
        )
        return ContractCheck(kept=not forbidden, metadata={"forbidden": forbidden})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Lists the imports that the table does not permit."""
        for line in check.metadata["forbidden"]:
            output.print_error(line)

    def _permits(self, importer: str, imported: str) -> bool:
        if not imported or not importer or _within(importer, cast("list[str]", self.composition)):
            return True
        table = _table(cast("list[str]", self.permitted))
        source, target = _package(importer, table), _package(imported, table)
        if source is None or target is None:
            return False
        if source == target:
            return source != "domains" or self._permits_domain(importer.split(".")[1], imported.split(".")[1])
        return target in table[source]

    def _permits_domain(self, importer: str, imported: str) -> bool:
        listed = _table(cast("list[str]", self.domains))
        return importer == imported or imported in listed.get(importer, ())


def _below_root(module: str) -> str:
    return module.partition(".")[2]


def _table(lines: list[str]) -> dict[str, list[str]]:
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): [each.strip() for each in rest.split(",") if each.strip()] for name, _, rest in pairs}


def _within(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _package(module: str, table: dict[str, list[str]]) -> str | None:
    return max((name for name in table if _within(module, [name])), key=len, default=None)
