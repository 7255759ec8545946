"""The cache: GetCid with all records cached against GetCid without, and what its upkeep costs CreateCid."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from vsync.v1 import cid_pb2 as pb
from vsyncd.embedded import EmbeddedValkey

from bench import load
from bench.entries import record
from bench.report import Figure, rate, ratio
from bench.servers import database, from_afar, postgres, vsyncd

CALLS = 10_000
ROUNDS = 5
_CREATE = "/vsync.v1.CidService/CreateCid"
_GET = "/vsync.v1.CidService/GetCid"
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
        figures = _compare(cached, plain, redis, first=0, titles=(("GetCid", 1.3), ("CreateCid", 0.95)), where="")
        with from_afar(cached, seconds=0.0025) as far, from_afar(plain, seconds=0.0025) as plain_far:
            first = (ROUNDS + 1) * CALLS
            titles = (("GetCid", 1.3),)
            figures += _compare(far, plain_far, redis, first=first, titles=titles, where=", PostgreSQL 5 ms away")
    return figures


def _compare(
    cached: str, plain: str, redis: str, *, first: int, titles: Sequence[tuple[str, float]], where: str
) -> list[Figure]:
    rates: dict[tuple[str, str], list[float]] = {}
    with vsyncd(cached, REDIS_URL=redis) as with_cache, vsyncd(plain) as without:
        for round_ in range(ROUNDS + 1):
            records = [record(first + round_ * CALLS + number) for number in range(CALLS)]
            creates = [pb.CreateCidRequest(record=r, request_id=str(uuid4())).SerializeToString() for r in records]
            gets = [pb.GetCidRequest(cid=r.cid).SerializeToString() for r in records]
            for name, target in (("with", with_cache), ("without", without)):
                # The first time, the records are loaded and cached.
                steps = (("CreateCid", _CREATE, creates), ("first", _GET, gets), ("GetCid", _GET, gets))
                for title, method, requests in steps:
                    calls = load.run(target.port, method, requests, concurrency=64)
                    if round_:  # the first round warms up
                        rates.setdefault((title, name), []).append(calls)
    figures = []
    for title, at_least in titles:
        mine, theirs = rates[title, "with"], rates[title, "without"]
        figures += [
            rate("cache", f"{title}, with a cache{where}", mine, "calls/s"),
            rate("cache", f"{title}, without{where}", theirs, "calls/s"),
            ratio("cache", f"{title}, with / without{where}", mine, theirs, at_least=at_least),
        ]
    return figures
