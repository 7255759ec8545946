"""CIDs and VSyncs: the directory's own vectors, and what must hold for any set."""

import hmac
from typing import Any
from uuid import UUID

import pytest
import vsync
from hypothesis import given
from hypothesis import strategies as st

ENTRY = vsync.DirectoryEntry(
    key_type="PHONE",
    key="+5511987654321",
    owner_tax_id="11122233300",
    owner_name="João Silva",
    owner_trade_name=None,
    participant="12345678",
    branch="00001",
    account_number="0007654321",
    account_type="CACC",
)
REQUEST_ID = bytes(range(1, 17))
CID = "28c06eb41c4dc9c3ae114831efcac7446c8747777fca8b145ecd31ff8480ae88"
OTHERS = (
    "4d4abb9168114e349672b934d16ed201a919cb49e28b7f66a240e62c92ee007f",
    "fce514f84f37934bc8aa0f861e4f7392273d71b9d18e8209d21e4192a7842058",
)
VSYNC = "996fc1dd3b6b14bcf0c9fe8320eb66d7e2a3fd874ccf767b2e939641b1ea8eaf"

cids = st.binary(min_size=32, max_size=32)
ids = st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize("request_id", [REQUEST_ID, UUID(bytes=REQUEST_ID), str(UUID(bytes=REQUEST_ID))])
def test_the_directorys_cid_vector(request_id: bytes | UUID | str) -> None:
    assert vsync.compute_cid(ENTRY, request_id) == CID


def test_an_absent_attribute_is_the_empty_text() -> None:
    assert vsync.compute_cid(ENTRY._replace(owner_trade_name=""), REQUEST_ID) == CID


def test_only_optional_attributes_can_be_absent() -> None:
    assert vsync.compute_cid(ENTRY._replace(branch=None), REQUEST_ID) == vsync.compute_cid(
        ENTRY._replace(branch=""), REQUEST_ID
    )
    for place in set(range(9)) - {4, 6}:
        parts: list[Any] = [None if at == place else part for at, part in enumerate(ENTRY)]
        with pytest.raises(TypeError):
            vsync.compute_cid(vsync.DirectoryEntry(*parts), REQUEST_ID)


@given(st.tuples(*[st.text()] * 4, st.none() | st.text(), st.text(), st.none() | st.text(), st.text(), st.text()), ids)
def test_a_cid_is_the_hmac_of_the_attributes(attributes: tuple[str, ...], request_id: bytes) -> None:
    message = "&".join(attribute or "" for attribute in attributes).encode()
    assert (
        vsync.compute_cid(vsync.DirectoryEntry(*attributes), request_id)
        == hmac.digest(request_id, message, "sha256").hex()
    )


@pytest.mark.parametrize("request_id", [b"", bytes(15), bytes(17), "no uuid", ""])
def test_a_request_id_that_is_not_a_uuid_is_rejected(request_id: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"UUID|request id"):
        vsync.compute_cid(ENTRY, request_id)


def test_the_directorys_vsync_vector() -> None:
    assert vsync.vsync_of((CID, *OTHERS)) == VSYNC
    assert vsync.vsync_of(bytes.fromhex(cid) for cid in (CID, *OTHERS)) == VSYNC
    assert vsync.vsync_of([CID.upper(), *OTHERS]) == VSYNC


def test_the_vsync_of_no_cids_is_64_zeros() -> None:
    assert vsync.vsync_of([]) == "0" * 64


@given(st.lists(cids))
def test_order_does_not_matter(members: list[bytes]) -> None:
    assert vsync.vsync_of(members) == vsync.vsync_of(sorted(members))


@given(st.lists(cids, min_size=1))
def test_adding_and_removing_a_cid_are_the_same_operation(members: list[bytes]) -> None:
    *others, last = members
    assert vsync.xor(vsync.vsync_of(others), last) == vsync.vsync_of(members)
    assert vsync.xor(vsync.vsync_of(members), last.hex()) == vsync.vsync_of(others)


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33), "", "0" * 63, "g" * 64, "+" + "0" * 63, "0_0" + "0" * 61])
def test_an_invalid_cid_is_rejected(bad: bytes | str) -> None:
    with pytest.raises(ValueError, match="a CID must have"):
        vsync.vsync_of([bad])
