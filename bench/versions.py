"""CPU time per call of this version and of another one, in alternating pairs on one PostgreSQL.

    VSYNCD_BASELINE=/path/to/another/checkout/.venv/bin/vsyncd python -m bench versions

Counts the CPU time of the service's process (user and system), since rates depend on what else runs on the machine.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import uvloop
from psycopg.conninfo import make_conninfo

from bench import imports, load, unary
from bench.report import Figure, rate, ratio
from bench.servers import VSYNCD, Service, another_vsyncd, cpu_seconds, postgres

PAIRS = 10
MAX_RATIO = 1.05
_IMPORT_CHUNKS = 50


def run() -> list[Figure]:
    """Returns the CPU time per call of both versions, and their ratios."""
    baseline = os.environ.get("VSYNCD_BASELINE")
    if baseline is None:
        print("skipped: VSYNCD_BASELINE names no other vsyncd", file=sys.stderr)
        return []
    with postgres() as admin, ExitStack() as stack:
        programs = (VSYNCD, Path(baseline))
        services = [
            stack.enter_context(_serving(admin, f"version_{number}", program))
            for number, program in enumerate(programs)
        ]
        samples = _measure(services)
    figures = []
    for method, (ours, theirs) in samples.items():
        figures += [
            rate("versions", f"{method}, this version", ours, "µs/call"),
            rate("versions", f"{method}, baseline", theirs, "µs/call"),
            ratio("versions", f"{method}, this version / baseline", ours, theirs, at_most=MAX_RATIO),
        ]
    return figures


def _measure(services: Sequence[Service]) -> dict[str, list[list[float]]]:
    """Microseconds of CPU time per call: for each method a list of samples for each service."""
    methods = (*unary.METHODS, "ImportCids")
    samples: dict[str, list[list[float]]] = {method: [[] for _ in services] for method in methods}
    for pair in range(PAIRS + 1):
        requests = unary.requests(pair)
        chunks = imports.chunks_of_records(1_000_000 + pair * _IMPORT_CHUNKS, _IMPORT_CHUNKS)
        order = list(enumerate(services))
        for number, service in order if pair % 2 else reversed(order):
            for method in unary.METHODS:
                cpu = _cpu_seconds(service, _unary_load(service, method, requests[method]))
                samples[method][number].append(cpu / len(requests[method]) * 1e6)
            cpu = _cpu_seconds(service, _import_load(service, chunks))
            samples["ImportCids"][number].append(cpu / (_IMPORT_CHUNKS * imports.CHUNK) * 1e6)
    # The first pair warms up.
    return {method: [values[1:] for values in each] for method, each in samples.items()}


def _unary_load(service: Service, method: str, requests: Sequence[bytes]) -> Callable[[], object]:
    return lambda: load.run(service.port, f"/vsync.v1.CidService/{method}", requests, concurrency=64)


def _import_load(service: Service, chunks: list[bytes]) -> Callable[[], object]:
    return lambda: uvloop.run(imports.send(service, chunks, len(chunks) * imports.CHUNK))


def _cpu_seconds(service: Service, work: Callable[[], object]) -> float:
    before = cpu_seconds(service)
    work()
    return cpu_seconds(service) - before


@contextmanager
def _serving(admin: str, name: str, program: Path) -> Iterator[Service]:
    """A version over an empty database, which it migrates itself."""
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    with another_vsyncd(program, make_conninfo(admin, dbname=name)) as service:
        yield service
