"""The cache: GetCid with all records cached and without a cache, the cost of the cache's maintenance for CreateCid, and
the latency of calls during faults of Redis."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from vsyncd.embedded import EmbeddedValkey

from bench import cache_faults, load, unary
from bench.report import Figure, rate, ratio
from bench.servers import database, from_afar, postgres, vsyncd

T = TypeVar("T")

# Even, so that each side comes first equally often.
_ROUNDS = 6
_UPKEEP_ROUNDS = 10
_PAIR = 2_500  # calls
_TRIGGERS = ("cids_note_added", "cids_note_removed", "cids_note_updated")


@contextmanager
def valkey() -> Iterator[str]:
    """Starts a Valkey and yields its URL."""
    folder = Path(tempfile.mkdtemp(prefix="vsyncd-bench-"))
    server = EmbeddedValkey(folder)
    try:
        yield server.start_now()
    finally:
        server.stop_now()
        shutil.rmtree(folder)


def run() -> list[Figure]:
    """Returns the rates with and without a cache in alternating runs, and their ratios.

    PostgreSQL is on the same machine, or 5 ms away: a round trip between two zones of a region and through a pooler."""
    with postgres() as admin, valkey() as redis, database(admin, "cached") as cached, database(admin, "plain") as plain:
        # The triggers for the change feed cost time even without a cache, so the comparison runs without them.
        with psycopg.connect(plain, autocommit=True) as connection:
            for trigger in _TRIGGERS:
                connection.execute(f"ALTER TABLE vsync.cids DISABLE TRIGGER {trigger}".encode())
        rounds = range(_ROUNDS + 1)
        figures = _compare(cached, plain, redis, rounds, where="")
        rounds = range(rounds.stop, rounds.stop + _UPKEEP_ROUNDS + 1)
        figures += _upkeep(cached, plain, redis, rounds)
        with from_afar(cached, seconds=0.0025) as far, from_afar(plain, seconds=0.0025) as plain_far:
            rounds = range(rounds.stop, rounds.stop + _ROUNDS + 1)
            figures += _compare(far, plain_far, redis, rounds, where=", PostgreSQL 5 ms away")
        with database(admin, "faults") as faults:
            figures += cache_faults.run(faults)
    return figures


def _compare(cached: str, plain: str, redis: str, rounds: range, *, where: str) -> list[Figure]:
    mine: list[float] = []
    theirs: list[float] = []
    with vsyncd(cached, REDIS_URL=redis) as with_cache, vsyncd(plain) as without:
        for round_ in rounds:
            requests = unary.requests(round_)
            for target, rates in _in_turn((with_cache, mine), (without, theirs), round_):
                load.run(target.port, _method("CreateCid"), requests["CreateCid"], concurrency=64)
                # The first round loads and caches the records.
                load.run(target.port, _method("GetCid"), requests["GetCid"], concurrency=64)
                calls = load.run(target.port, _method("GetCid"), requests["GetCid"], concurrency=64)
                if round_ > rounds.start:  # the first round warms up
                    rates.append(calls)
    return _figures("GetCid", mine, theirs, at_least=1.3, where=where)


def _upkeep(cached: str, plain: str, redis: str, rounds: range) -> list[Figure]:
    """Many short pairs, because the machine's speed drifts by more than the effect within seconds."""
    mine: list[float] = []
    theirs: list[float] = []
    with vsyncd(cached, REDIS_URL=redis) as with_cache, vsyncd(plain) as without:
        for round_ in rounds:
            requests = unary.requests(round_)["CreateCid"]
            for pair, start in enumerate(range(0, len(requests), _PAIR)):
                for target, rates in _in_turn((with_cache, mine), (without, theirs), pair):
                    part = requests[start : start + _PAIR]
                    calls = load.run(target.port, _method("CreateCid"), part, concurrency=64)
                    if round_ > rounds.start:  # the first round warms up
                        rates.append(calls)
    return _figures("CreateCid", mine, theirs, at_least=0.95, where="")


def _method(title: str) -> str:
    return f"/vsync.v1.CidService/{title}"


def _in_turn(one: T, other: T, number: int) -> tuple[T, T]:
    """Alternates the order, because the second run finds a warmer machine and a busier disk."""
    return (other, one) if number % 2 else (one, other)


def _figures(
    title: str, mine: Sequence[float], theirs: Sequence[float], *, at_least: float, where: str
) -> list[Figure]:
    return [
        rate("cache", f"{title}, with a cache{where}", mine, "calls/s"),
        rate("cache", f"{title}, without{where}", theirs, "calls/s"),
        ratio("cache", f"{title}, with / without{where}", mine, theirs, at_least=at_least),
    ]
