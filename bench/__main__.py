"""`python -m bench [NAME ...]`: runs all benchmarks, or the named ones. The exit code is 1 if a target was missed.

Each module in bench/domains is the benchmark of a domain.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from bench import (
    access,
    backups,
    cache,
    exports,
    functions,
    imports,
    overhead,
    reconciliation,
    report,
    resilience,
    unary,
    versions,
)

DOMAINS = sorted(path.stem for path in (Path(__file__).parent / "domains").glob("[a-z]*.py"))
BENCHES: dict[str, Callable[[], list[report.Figure]]] = {
    "unary": unary.run,
    "access": access.run,
    "import": imports.run,
    "export": exports.run,
    "overhead": overhead.run,
    "resilience": resilience.run,
    "backup": backups.run,
    "reconciliation": reconciliation.run,
    "functions": functions.run,
    "cache": cache.run,
    "versions": versions.run,
    **{name: import_module(f"bench.domains.{name}").run for name in DOMAINS},
}


def main(names: list[str]) -> int:
    """Run the benchmarks one after the other."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    figures = []
    for name in names or BENCHES:
        print(f"{name} ...", file=sys.stderr)
        figures += BENCHES[name]()
    print(f"written to {report.write(figures)}")
    return int(any(figure.is_met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
