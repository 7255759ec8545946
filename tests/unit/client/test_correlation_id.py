"""The correlation id of a block."""

import asyncio

import pytest
import vsync
from vsync.correlation_id import current_correlation_id


def test_a_block_has_an_id_and_the_outside_has_none() -> None:
    with vsync.correlation("order-1") as correlation_id:
        assert current_correlation_id() == correlation_id == "order-1"
    assert current_correlation_id() is None


def test_the_default_is_the_id_of_the_enclosing_block() -> None:
    with vsync.correlation() as outer:
        assert outer
        with vsync.correlation() as inner:
            assert inner == outer
        with vsync.correlation("other"):
            assert current_correlation_id() == "other"
        assert current_correlation_id() == outer


@pytest.mark.parametrize("bad", [" ", "a b", "ç", "x" * 129, "a\n"])
def test_an_id_that_the_server_does_not_accept_is_rejected(bad: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"), vsync.correlation(bad):
        pass
    with pytest.raises(ValueError, match="visible ASCII"):
        vsync.connect_sync("localhost:1", correlation_id=bad)


async def test_each_task_has_its_own_id() -> None:
    async def task(name: str) -> str | None:
        with vsync.correlation(name):
            await asyncio.sleep(0)
            return current_correlation_id()

    assert tuple(await asyncio.gather(task("a"), task("b"))) == ("a", "b")
