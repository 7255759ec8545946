"""Sorting on disk: the output is ascending and has no duplicates."""

import os
import resource
import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vsync.cid_codec import unpack
from vsync.directory import vsync_of
from vsyncd.domains.reconciliation import external_sort
from vsyncd.domains.reconciliation.comparison import MergeDiff
from vsyncd.domains.reconciliation.external_sort import ExternalSort, SpillFullError

# Few values, so that there are duplicates, also at the edges of runs and blocks.
CID = st.integers(0, 40).map(lambda number: number.to_bytes(32))


@settings(max_examples=200)
@given(uploads=st.lists(st.lists(CID, max_size=30), max_size=12), run=st.integers(1, 9), merged=st.integers(1, 20))
def test_the_output_is_ascending_without_duplicates(uploads: list[list[bytes]], run: int, merged: int) -> None:
    with pytest.MonkeyPatch.context() as patch, ExternalSort() as sorted_cids:
        patch.setattr(external_sort, "RUN_CIDS", run)
        patch.setattr(external_sort, "MERGE_CIDS", merged)
        patch.setattr(external_sort, "MIN_MERGE_CIDS_PER_RUN", 1)
        for upload in uploads:
            sorted_cids.add(b"".join(upload))
        sorted_cids.finish()
        assert list(sorted_cids.blocks()) == list(sorted_cids.blocks())
        came = [cid for block in sorted_cids.blocks() for cid in block]
        sent = [cid for upload in uploads for cid in upload]
        assert came == sorted(set(sent))
        assert (sorted_cids.received, sorted_cids.distinct) == (len(sent), len(set(sent)))
        assert f"{sorted_cids.xor:064x}" == vsync_of(set(sent))


def test_the_default_sizes_sort_100000_cids() -> None:
    packed = os.urandom(32 * 100_000)
    with ExternalSort() as sorted_cids:
        for _ in range(2):
            sorted_cids.add(packed)
        sorted_cids.finish()
        came = [cid for block in sorted_cids.blocks() for cid in block]
    assert came == sorted(unpack(packed))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limits files of this process to three and a half runs."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7 * 16 * external_sort.RUN_CIDS, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_grow_is_reported_as_a_full_disk() -> None:
    with ExternalSort() as sorted_cids:
        sorted_cids.add(bytes(32 * external_sort.RUN_CIDS * 3))
        with pytest.raises(SpillFullError):
            sorted_cids.add(bytes(32 * external_sort.RUN_CIDS))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_also_reported_for_the_last_run() -> None:
    with ExternalSort() as sorted_cids:
        sorted_cids.add(bytes(32 * external_sort.RUN_CIDS * 3))
        sorted_cids.add(bytes(32 * (external_sort.RUN_CIDS - 1)))
        with pytest.raises(SpillFullError):
            sorted_cids.finish()


def test_without_a_writable_temporary_folder_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # tempfile caches the folder
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(SpillFullError):
            ExternalSort()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


BLOCKS = (
    st.sets(CID)
    .map(sorted)
    .flatmap(
        lambda cids: st.lists(st.integers(0, len(cids)), max_size=6).map(
            lambda cuts: [
                cids[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(cids)], strict=True) if cids[a:b]
            ]
        )
    )
)


@settings(max_examples=300)
@given(ours=BLOCKS, theirs=BLOCKS)
def test_a_merge_finds_the_same_differences_as_sets_for_any_blocks(
    ours: list[list[bytes]], theirs: list[list[bytes]]
) -> None:
    comparison = MergeDiff(iter(theirs))
    found = [difference for block in ours for difference in comparison.with_block(block)]
    found += comparison.rest()
    here = {cid for block in ours for cid in block}
    there = {cid for block in theirs for cid in block}
    assert [cid for difference in found for cid in difference.missing_here] == sorted(there - here)
    assert [cid for difference in found for cid in difference.missing_there] == sorted(here - there)
    assert max(Counter(cid for difference in found for each in difference for cid in each).values(), default=1) == 1
