"""CPU time per call with access control and without: CreateCid and GetCid, in alternating pairs on one PostgreSQL.

With: client certificates, and an AUTHZ_FILE of 100 principals that limits the caller to one participant. Without: the
default of a service that listens on loopback only.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import load, unary
from bench.entries import ISPB
from bench.report import Figure, rate, ratio
from bench.servers import VSYNCD, Service, cpu_seconds, database, postgres, vsyncd

PAIRS: Final = 10
MAX_RATIO: Final = 1.05
_PRINCIPALS: Final = 100


def run() -> list[Figure]:
    """Returns the CPU time per call of both services, and their ratios."""
    with ExitStack() as stack:
        admin = stack.enter_context(postgres())
        folder = stack.enter_context(_certificates())
        secured = {
            "AUTHN_METHODS": "mtls",
            "TLS_CERT_FILE": str(folder / "server.pem"),
            "TLS_KEY_FILE": str(folder / "server.key"),
            "TLS_CLIENT_CA_FILE": str(folder / "ca.pem"),
            "AUTHZ_FILE": str(folder / "authz.yaml"),
        }
        ours, theirs = (
            stack.enter_context(vsyncd(stack.enter_context(database(admin, name)), **settings))
            for name, settings in (("secured", secured), ("open", {}))
        )
        samples = _measure((ours, folder), (theirs, None))
    figures = []
    for method, (with_access, without) in samples.items():
        figures += [
            rate("access", f"{method}, with access control", with_access, "µs/call"),
            rate("access", f"{method}, without", without, "µs/call"),
            ratio("access", f"{method}, with / without", with_access, without, at_most=MAX_RATIO),
        ]
    return figures


def _measure(*services: tuple[Service, Path | None]) -> dict[str, list[list[float]]]:
    """Microseconds of CPU time per call: for each method a list of samples for each service."""
    samples: dict[str, list[list[float]]] = {method: [[] for _ in services] for method in unary.METHODS}
    for pair in range(PAIRS + 1):
        requests = unary.requests(pair)
        order = list(enumerate(services))
        for number, (service, certificates) in order if pair % 2 else reversed(order):
            for method in unary.METHODS:
                before = cpu_seconds(service)
                path = f"/vsync.v1.CidService/{method}"
                load.run(service.port, path, requests[method], concurrency=64, certificates=certificates)
                samples[method][number].append((cpu_seconds(service) - before) / len(requests[method]) * 1e6)
    # The first pair warms up.
    return {method: [values[1:] for values in each] for method, each in samples.items()}


@contextmanager
def _certificates() -> Iterator[Path]:
    """A folder with the files of `vsyncd dev-certs`, and an AUTHZ_FILE of 100 principals."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([VSYNCD, "dev-certs", folder], check=True, stdout=subprocess.DEVNULL)
        path = folder / "authz.yaml"
        [developer] = json.loads(path.read_text())["principals"]
        others = [
            {"principal": f"spiffe://bank.example/{number}", "roles": ["reader"], "ispbs": [f"{number:08}"]}
            for number in range(_PRINCIPALS - 1)
        ]
        path.write_text(json.dumps({"principals": [*others, developer | {"ispbs": [ISPB]}]}))
        yield folder
