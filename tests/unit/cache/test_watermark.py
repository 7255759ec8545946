"""Snapshots, watermarks and changes: what covers what."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.cache.encoding import CID, ID, KEY
from vsyncd.cache.watermark import MAX_ROWS, ChangeBatch, Incarnation, RecordChange, TransactionSnapshot, Watermark

INCARNATION = Incarnation(bytes(16), 1)
OTHER_EPOCH = Incarnation(bytes(15) + b"\1", 1)


@st.composite
def snapshot_series(draw: st.DrawFn) -> list[str]:
    """Consecutive snapshots of one server: transactions begin in order and end in any order."""
    running: set[int] = set()
    following = draw(st.integers(3, 1000))
    snapshots = []
    for _ in range(draw(st.integers(2, 8))):
        for _ in range(draw(st.integers(0, 4))):
            running.add(following)
            following += 1
        for xid in sorted(running):
            if draw(st.booleans()):
                running.discard(xid)
        xmin = min(running, default=following)
        snapshots.append(f"{xmin}:{following}:{','.join(map(str, sorted(running)))}")
    return snapshots


@given(snapshot_series())
def test_a_snapshot_covers_earlier_ones_and_a_later_one_only_if_no_transaction_has_ended(
    snapshots: Sequence[str],
) -> None:
    parsed = [TransactionSnapshot.parse(text) for text in snapshots]
    ended = [{xid for xid in range(3, each.xmax) if xid not in each.xip} for each in parsed]
    for at, earlier in enumerate(parsed):
        for later_at in range(at, len(parsed)):
            assert parsed[later_at].covers(earlier)
            assert earlier.covers(parsed[later_at]) <= (ended[later_at] <= ended[at])


INVALID = ["", "1:2", "a:b:", "0:5:", "5:4:", "5:9:4", "5:9:9", "5:9:7,6", "5:9:6,6", "5:9:-1"]
INVALID += ["5:9:6,", "05:9:", "5:1_0:", " 5:9:", f"5:{1 << 63}:", f"5:{'9' * 5000}:"]


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_snapshot_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"snapshot|unpack|invalid|limit"):
        TransactionSnapshot.parse(text)


def test_a_watermark_decodes_to_the_encoded_one_and_an_invalid_one_is_rejected() -> None:
    watermark = Watermark.new_generation(INCARNATION, "5:9:6,7")
    data = watermark.encode()
    assert Watermark.decode(data) == watermark
    for damaged in (None, b"", data[:49], b"\1" + data[1:], data + b",6", data[:-1] + b"\xff"):
        assert Watermark.decode(damaged) is None


def test_an_advanced_watermark_keeps_records_valid_and_may_invalidate_absences() -> None:
    watermark = Watermark.new_generation(INCARNATION, "5:9:")
    keeping, invalidating = (watermark.advanced("9:9:", invalidate_absences=each) for each in (False, True))
    assert {watermark.generation} == {keeping.generation, invalidating.generation}
    assert keeping.absence_generation == watermark.absence_generation != invalidating.absence_generation
    assert len({watermark.nonce, keeping.nonce, invalidating.nonce}) == 3
    assert keeping.covers(watermark)
    assert not keeping.covers(Watermark.new_generation(OTHER_EPOCH, "5:9:"))


def batch(
    *changes: RecordChange, dropped: int = 0, incarnation: Incarnation = INCARNATION, unlogged: Sequence[int] = ()
) -> ChangeBatch:
    return ChangeBatch("20:20:", b"s", incarnation, dropped, frozenset(unlogged), changes)


def test_a_batch_continues_a_watermark_unless_changes_are_missing_or_too_many_to_name() -> None:
    watermark = Watermark.new_generation(INCARNATION, "5:9:")
    named = RecordChange(added=False, cids=bytes(32), keys=bytes(32), ids=bytes(16))
    assert batch().continues(watermark)
    assert batch(named).continues(watermark)
    assert batch(RecordChange(added=True, cids=None, keys=None, ids=None)).continues(watermark)
    assert batch(dropped=4).continues(watermark)
    for other in (
        batch(dropped=5),
        batch(incarnation=OTHER_EPOCH),
        batch(incarnation=Incarnation(bytes(16), 2)),
        batch(RecordChange(added=False, cids=None, keys=None, ids=None)),
        batch(*[named] * MAX_ROWS),
        batch(RecordChange(added=False, cids=bytes(32 * 20_001), keys=None, ids=None)),
    ):
        assert not other.continues(watermark)


def test_a_batch_does_not_continue_a_watermark_if_an_unlogged_transaction_has_ended_since() -> None:
    watermark = Watermark.new_generation(INCARNATION, "5:9:5,7")
    assert not batch(unlogged=[5]).continues(watermark)
    assert not batch(unlogged=[4, 7]).continues(watermark)
    assert batch(unlogged=[6, 8]).continues(watermark), "they had ended before the watermark"
    assert batch(unlogged=[5])._replace(snapshot_text="5:20:5").continues(watermark), "it is still running"


def test_a_batch_does_not_continue_a_watermark_that_is_ahead_of_the_database() -> None:
    for ahead in ("5:21:", "21:21:", f"5:{(1 << 63) - 1}:"):
        assert not batch().continues(Watermark.new_generation(INCARNATION, ahead))
    assert batch().continues(Watermark.new_generation(INCARNATION, "20:20:"))


def test_a_change_names_every_lookup_of_its_records() -> None:
    change = RecordChange(added=False, cids=b"a" * 32 + b"b" * 32, keys=b"c" * 32, ids=b"d" * 16)
    assert list(batch(change).changed_lookups()) == [
        (CID, b"a" * 32),
        (CID, b"b" * 32),
        (KEY, b"c" * 32),
        (ID, b"d" * 16),
    ]
