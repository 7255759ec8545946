"""The cache: GetCid with all records cached against GetCid without, what its upkeep costs CreateCid, and how long
callers wait when Redis is in trouble."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from vsyncd.embedded import EmbeddedValkey

from bench import cache_faults, load, unary
from bench.report import Figure, rate, ratio
from bench.servers import database, from_afar, postgres, vsyncd

_TRIGGERS = ("cids_note_added", "cids_note_removed", "cids_note_updated")


@contextmanager
def valkey() -> Iterator[str]:
    """A Valkey of its own; its URL."""
    folder = Path(tempfile.mkdtemp(prefix="vsyncd-bench-"))
    server = EmbeddedValkey(folder)
    try:
        yield server.start_now()
    finally:
        server.stop_now()
        shutil.rmtree(folder)


def run() -> list[Figure]:
    """The rates with and without in turns, and their ratios: beside PostgreSQL, and with it 5 ms away, which is the
    round trip between two zones of a region and a proxy or pooler on the way."""
    with postgres() as admin, valkey() as redis, database(admin, "cached") as cached, database(admin, "plain") as plain:
        # What is written down for caches costs whether there is one or not: without means without that, too.
        with psycopg.connect(plain, autocommit=True) as connection:
            for trigger in _TRIGGERS:
                connection.execute(f"ALTER TABLE vsync.cids DISABLE TRIGGER {trigger}".encode())
        rounds = range(unary.ROUNDS + 1)
        figures = _compare(cached, plain, redis, rounds, titles=(("GetCid", 1.3), ("CreateCid", 0.95)), where="")
        with from_afar(cached, seconds=0.0025) as far, from_afar(plain, seconds=0.0025) as plain_far:
            rounds = range(rounds.stop, 2 * rounds.stop)
            figures += _compare(
                far, plain_far, redis, rounds, titles=(("GetCid", 1.3),), where=", PostgreSQL 5 ms away"
            )
        with database(admin, "faults") as faults:
            figures += cache_faults.run(faults)
    return figures


def _compare(
    cached: str, plain: str, redis: str, rounds: range, *, titles: Sequence[tuple[str, float]], where: str
) -> list[Figure]:
    rates: dict[tuple[str, str], list[float]] = {}
    with vsyncd(cached, REDIS_URL=redis) as with_cache, vsyncd(plain) as without:
        for round_ in rounds:
            requests = unary.requests(round_)
            for name, target in (("with", with_cache), ("without", without)):
                # The first time, the records are loaded and cached.
                for step, title in (("CreateCid", "CreateCid"), ("first", "GetCid"), ("GetCid", "GetCid")):
                    method = f"/vsync.v1.CidService/{title}"
                    calls = load.run(target.port, method, requests[title], concurrency=64)
                    if round_ > rounds.start:  # the first round warms up
                        rates.setdefault((step, name), []).append(calls)
    figures = []
    for title, at_least in titles:
        mine, theirs = rates[title, "with"], rates[title, "without"]
        figures += [
            rate("cache", f"{title}, with a cache{where}", mine, "calls/s"),
            rate("cache", f"{title}, without{where}", theirs, "calls/s"),
            ratio("cache", f"{title}, with / without{where}", mine, theirs, at_least=at_least),
        ]
    return figures
