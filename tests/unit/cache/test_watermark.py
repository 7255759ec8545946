"""Places and snapshots: what covers what."""

from collections.abc import Sequence

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.cache.changes import MOST_ROWS, Polled
from vsyncd.cache.keys import CID, ID, KEY, RedisKeys, form_of, key_digest
from vsyncd.cache.watermark import Change, Incarnation, Snapshot, Watermark

LIFE = Incarnation(bytes(16), 1)


@st.composite
def histories(draw: st.DrawFn) -> list[str]:
    """Snapshots as one server gives them one after the other: transactions begin in order, and end in any."""
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


@given(histories())
def test_a_later_snapshot_covers_an_earlier_one_and_the_other_way_round_only_when_nothing_ended(
    snapshots: Sequence[str],
) -> None:
    parsed = [Snapshot.parse(text) for text in snapshots]
    ended = [{xid for xid in range(3, each.xmax) if xid not in each.xip} for each in parsed]
    for at, earlier in enumerate(parsed):
        for later_at in range(at, len(parsed)):
            assert parsed[later_at].covers(earlier)
            assert earlier.covers(parsed[later_at]) <= (ended[later_at] <= ended[at])


NO_SNAPSHOTS = ["", "1:2", "a:b:", "0:5:", "5:4:", "5:9:4", "5:9:9", "5:9:7,6", "5:9:6,6", "5:9:-1"]
NO_SNAPSHOTS += ["5:9:6,", "05:9:", "5:1_0:", " 5:9:", f"5:{1 << 63}:", f"5:{'9' * 5000}:"]


@pytest.mark.parametrize("text", NO_SNAPSHOTS)
def test_what_is_no_snapshot_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"snapshot|unpack|invalid|limit"):
        Snapshot.parse(text)


def test_a_place_is_read_as_it_was_written_and_nothing_else_is() -> None:
    place = Watermark.new(LIFE, "5:9:6,7")
    data = place.encode()
    assert Watermark.decode(data) == place
    for damage in (None, b"", data[:49], b"\1" + data[1:], data + b",6", data[:-1] + b"\xff"):
        assert Watermark.decode(damage) is None


def test_a_move_keeps_values_and_may_forget_absences() -> None:
    place = Watermark.new(LIFE, "5:9:")
    kept, forgotten = (place.moved("9:9:", forget_absences=forget) for forget in (False, True))
    assert {place.generation} == {kept.generation, forgotten.generation}
    assert kept.absences == place.absences != forgotten.absences
    assert len({place.mark, kept.mark, forgotten.mark}) == 3
    assert kept.covers(place)
    assert not kept.covers(Watermark.new(Incarnation(bytes(15) + b"\1", 1), "5:9:"))


def polled(*changes: Change, dropped: int = 0, life: Incarnation = LIFE, unheard: Sequence[int] = ()) -> Polled:
    return Polled("20:20:", b"s", life, dropped, frozenset(unheard), changes)


def test_changes_follow_a_place_unless_some_are_missing_or_cannot_be_named() -> None:
    place = Watermark.new(LIFE, "5:9:")
    named = Change(added=False, cids=bytes(32), keys=bytes(32), ids=bytes(16))
    assert polled().follows(place)
    assert polled(named).follows(place)
    assert polled(Change(added=True, cids=None, keys=None, ids=None)).follows(place)
    assert polled(dropped=4).follows(place)
    for other in (
        polled(dropped=5),
        polled(life=Incarnation(bytes(15) + b"\1", 1)),
        polled(life=Incarnation(bytes(16), 2)),
        polled(Change(added=False, cids=None, keys=None, ids=None)),
        polled(*[named] * MOST_ROWS),
        polled(Change(added=False, cids=bytes(32 * 20_001), keys=None, ids=None)),
    ):
        assert not other.follows(place)


def test_changes_do_not_follow_a_place_when_one_has_ended_meanwhile_that_is_not_in_the_feed() -> None:
    place = Watermark.new(LIFE, "5:9:5,7")
    assert not polled(unheard=[5]).follows(place)
    assert not polled(unheard=[4, 7]).follows(place)
    assert polled(unheard=[6, 8]).follows(place), "the place was already behind their ends"
    assert polled(unheard=[5])._replace(seen="5:20:5").follows(place), "it is still running"


def test_a_change_names_everything_that_its_records_are_looked_up_by() -> None:
    change = Change(added=False, cids=b"a" * 32 + b"b" * 32, keys=b"c" * 32, ids=b"d" * 16)
    assert list(polled(change).lookups()) == [
        (CID, b"a" * 32),
        (CID, b"b" * 32),
        (KEY, b"c" * 32),
        (ID, b"d" * 16),
    ]


def test_names_hide_what_they_are_of_and_differ_by_kind_and_secret() -> None:
    names = RedisKeys("vsync", form="1", one_slot=False)
    digest = key_digest("12345678901", "12345678")
    given_ = {names.record(kind, digest, secret) for kind in (CID, KEY, ID) for secret in (b"1", b"2")}
    assert len(given_) == 6
    assert all(digest.hex().encode() not in name for name in given_)
    assert RedisKeys("vsync", form="1", one_slot=True).record(CID, digest, b"1").startswith(b"{vsync}:cid:")


def test_changes_do_not_follow_a_place_that_is_ahead_of_the_database() -> None:
    for ahead in ("5:21:", "21:21:", f"5:{(1 << 63) - 1}:"):
        assert not polled().follows(Watermark.new(LIFE, ahead))
    assert polled().follows(Watermark.new(LIFE, "20:20:"))


def message(*fields: str) -> Descriptor:
    """One with these fields, all of them strings."""
    described = DescriptorProto(name="Message")
    for number, name in enumerate(fields, 1):
        described.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING)
    pool = DescriptorPool()
    pool.AddSerializedFile(FileDescriptorProto(name="f.proto", message_type=[described]).SerializeToString())
    found: Descriptor = pool.FindMessageTypeByName("Message")
    return found


def test_records_of_another_form_have_other_names_and_another_place() -> None:
    assert form_of(message("a")) == form_of(message("a"))
    one, other = (RedisKeys("vsync", form=form_of(message(*fields)), one_slot=False) for fields in ("a", "ab"))
    assert one.feed != other.feed
    assert one.record(CID, bytes(32), b"s") != other.record(CID, bytes(32), b"s")
