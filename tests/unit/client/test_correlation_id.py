"""The correlation id of a block."""

import asyncio

import pytest
import vsync
from vsync.correlation_id import current_correlation_id

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_a_block_has_an_id_and_the_outside_has_none() -> None:
    with vsync.correlation(ULID) as correlation_id:
        assert current_correlation_id() == correlation_id == ULID
    assert current_correlation_id() is None


def test_the_default_is_the_id_of_the_enclosing_block() -> None:
    with vsync.correlation() as outer:
        assert outer
        with vsync.correlation() as inner:
            assert inner == outer
        with vsync.correlation(ULID):
            assert current_correlation_id() == ULID
        assert current_correlation_id() == outer


@pytest.mark.parametrize(
    "bad", [" ", "order-1", "12345678901", "0" * 31, "0" * 33, "0" * 32 + "\n", "u" * 26, "٣" * 32, "8" + "0" * 25]
)
def test_an_id_that_the_server_does_not_accept_is_rejected(bad: str) -> None:
    with pytest.raises(ValueError, match="a UUID, a ULID or"), vsync.correlation(bad):
        pass
    with pytest.raises(ValueError, match="a UUID, a ULID or"):
        vsync.connect_sync("localhost:1", correlation_id=bad)


async def test_each_task_has_its_own_id() -> None:
    async def task(name: str) -> str | None:
        with vsync.correlation(name):
            await asyncio.sleep(0)
            return current_correlation_id()

    assert tuple(await asyncio.gather(task("a" * 32), task("b" * 32))) == ("a" * 32, "b" * 32)
