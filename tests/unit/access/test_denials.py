"""Denied calls are recorded at most once per principal and method in a minute, and none is lost."""

import asyncio

import pytest
from vsyncd.access.denials import Denial, Denials
from vsyncd.core.errors import Unavailable


class Recorder:
    """Records denials, unless it is made to fail."""

    def __init__(self) -> None:
        self.recorded: list[Denial] = []
        self.fails = False
        self.tried = asyncio.Event()

    async def record(self, denial: Denial) -> None:
        self.tried.set()
        if self.fails:
            raise Unavailable("CIRCUIT_OPEN", "down")
        self.recorded.append(denial)


async def test_at_most_one_entry_per_principal_and_method_in_a_minute() -> None:
    now = 0.0
    denials, recorder = Denials(clock=lambda: now), Recorder()

    async def note(principal: str, method: str, correlation_id: str) -> None:
        denials.note(principal, method, correlation_id)
        await denials.flush(recorder.record)

    await note("a", "m", "1")
    for correlation_id in ("2", "3"):
        await note("a", "m", correlation_id)
    await note("b", "m", "4")
    await note("a", "n", "5")
    assert recorder.recorded == [Denial("a", "m", "1", 1), Denial("b", "m", "4", 1), Denial("a", "n", "5", 1)]
    now = 60.0
    await note("a", "m", "6")
    assert recorder.recorded[3:] == [Denial("a", "m", "2", 3)]
    denials.note("b", "m", "7")
    await denials.finish(recorder.record)
    assert recorder.recorded[4:] == [Denial("b", "m", "7", 1)]


async def test_denials_are_recorded_once_the_database_answers() -> None:
    denials, recorder = Denials(), Recorder()
    recorder.fails = True
    denials.note("a", "m", "1")
    task = asyncio.create_task(denials.run(recorder.record))
    async with asyncio.timeout(60):
        await recorder.tried.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert recorder.recorded == []
    recorder.fails = False
    denials.note("a", "m", "2")
    await denials.finish(recorder.record)
    assert recorder.recorded == [Denial("a", "m", "1", 2)]


@pytest.mark.parametrize("pairs", [20_000])
async def test_the_number_of_pairs_is_limited(pairs: int) -> None:
    denials, recorder = Denials(), Recorder()
    for number in range(pairs):
        denials.note(f"dns:{number}", "m", "1")
    await denials.finish(recorder.record)
    assert len(recorder.recorded) == 10_000
