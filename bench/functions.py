"""The client's functions, compute_cid in two processes, and the two hashes of a CID alone.

Single-core figures use CPU time, so other processes do not affect them.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from typing import TypeVar

from vsync import DirectoryEntry, compute_cid, vsync_of

from bench.report import Figure, rate, ratio

_ENTRIES = 200_000
_ROUNDS = 5
_MILLION = 1_000_000
_T = TypeVar("_T")


def run() -> list[Figure]:
    """Runs all measurements. Each spawned process generates its own entries."""
    hashes, alone, xors = [], [], []
    for _ in range(_ROUNDS):
        hashes.append(_rate(_two_hashes, _blocks(), time.process_time))
        alone.append(_rate(_compute, _entries(), time.process_time))
        xors.append(_rate(vsync_of, [os.urandom(32) for _ in range(_ENTRIES)], time.process_time))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        both = [_together(processes) for _ in range(_ROUNDS + 1)][1:]  # the first round starts the processes
    return [
        rate("functions", "two SHA-256 of a CID's size", hashes, "/s of CPU"),
        rate("functions", "compute_cid", alone, "CIDs/s of CPU"),
        ratio("functions", "compute_cid / two SHA-256 (rate)", alone, hashes, at_least=0.45),
        _million("compute_cid, two processes", both, "CIDs/s"),
        _million("vsync_of", xors, "CIDs/s of CPU"),
    ]


def _million(name: str, samples: list[float], unit: str) -> Figure:
    measured = rate("functions", name, samples, unit)
    return Figure(
        bench=measured.bench,
        name=name,
        value=measured.value,
        unit=measured.unit,
        target="at least 1,000,000",
        is_met=measured.value >= _MILLION,
        samples=samples,
    )


def _rate(work: Callable[[list[_T]], object], items: list[_T], clock: Callable[[], float]) -> float:
    begin = clock()
    work(items)
    return len(items) / (clock() - begin)


def _together(processes: ProcessPoolExecutor) -> float:
    """Returns the sum of both processes' rates. They run at the same time except at the ends."""
    return sum(future.result() for future in [processes.submit(_computed) for _ in range(2)])


def _computed() -> float:
    return _rate(_compute, _entries(), time.perf_counter)


def _entries() -> list[tuple[DirectoryEntry, bytes]]:
    return [(_entry(number), os.urandom(16)) for number in range(_ENTRIES)]


def _compute(entries: list[tuple[DirectoryEntry, bytes]]) -> object:
    return [compute_cid(entry, request_id) for entry, request_id in entries]


def _entry(number: int) -> DirectoryEntry:
    return DirectoryEntry(
        key_type="PHONE",
        key=f"+55119{number:08d}",
        owner_tax_id="11122233300",
        owner_name="João Silva",
        owner_trade_name=None,
        participant="12345678",
        branch="0001",
        account_number=f"{number:010d}",
        account_type="CACC",
    )


def _blocks() -> list[bytes]:
    return [bytes(64) + f"{number:076d}".encode() for number in range(_ENTRIES)]


def _two_hashes(blocks: list[bytes]) -> object:
    pad = bytes(64)
    return [sha256(pad + sha256(block).digest()).hexdigest() for block in blocks]
