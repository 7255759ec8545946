"""Sample records are realistic and always the same."""

import hashlib
import re
from itertools import islice
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vsync import DirectoryEntry, compute_cid, sample
from vsync.records import KEY_TYPES

FORMS = {
    "CPF": r"[0-9]{11}",
    "CNPJ": r"[0-9A-Z]{12}[0-9]{2}",
    "PHONE": r"\+55[1-9][0-9]9[0-9]{8}",
    "EMAIL": r"[a-z0-9.]+@[a-z.]+",
    "EVP": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


def test_the_same_seed_yields_the_same_records_on_every_machine() -> None:
    digest = hashlib.sha256(b"".join(r.SerializeToString(deterministic=True) for r in sample.entries(1000, 7)))
    assert digest.hexdigest() == "763461e953f3cb9efd1046a595b0344482fd88b5b04ca51adbf262dc1a37a8ff"


def test_fewer_records_are_the_first_of_more() -> None:
    assert list(sample.entries(10, 3)) == list(islice(sample.entries(1000, 3), 10))


def test_another_seed_yields_other_records() -> None:
    assert {r.cid for r in sample.entries(100, 1)}.isdisjoint(r.cid for r in sample.entries(100, 2))


def test_keys_and_cids_are_unique_and_of_every_kind() -> None:
    records = list(sample.entries(20_000, 1))
    assert len({record.key_value for record in records}) == len({record.cid for record in records}) == 20_000
    assert {KEY_TYPES.name(record.key_type) for record in records} == set(FORMS)
    assert len({record.ispb for record in records}) > 1
    assert any(record.tax_id.isdigit() and len(record.tax_id) == 14 for record in records)
    assert any(not record.tax_id.isdigit() for record in records)
    assert {record.HasField("branch") for record in records} == {True, False}


@settings(max_examples=20)
@given(st.integers())
def test_every_field_is_well_formed(seed: int) -> None:
    for record in sample.entries(50, seed):
        assert re.fullmatch(FORMS[KEY_TYPES.name(record.key_type)], record.key_value)
        assert re.fullmatch(r"[0-9a-f]{64}", record.cid)
        assert re.fullmatch(r"[0-9]{8}", record.ispb)
        assert re.fullmatch(r"[0-9]{11}|[0-9A-Z]{12}[0-9]{2}", record.tax_id)
        assert re.fullmatch(r"[0-9]{1,20}", record.account_number)
        assert len(record.key_value) <= 77


def test_the_cid_is_the_directorys_function_of_the_entry() -> None:
    owner = sample.Owner(
        serial=0,
        tax_id="11122233300",
        name="João Silva",
        trade_name="",
        ispb="12345678",
        branch="00001",
        account_number="0007654321",
        account_type="CACC",
    )
    record = sample.record(owner, "PHONE", "+5511987654321", UUID(bytes=bytes(range(1, 17))))
    assert record.cid == "28c06eb41c4dc9c3ae114831efcac7446c8747777fca8b145ecd31ff8480ae88"
    assert (
        compute_cid(
            DirectoryEntry(
                "PHONE", "+5511987654321", "11122233300", "João Silva", None, "12345678", "00001", "0007654321", "CACC"
            ),
            record.dict_request_id,
        )
        == record.cid
    )


@pytest.mark.parametrize(
    ("stem", "weight", "whole"),
    [
        ("529982247", 11, "52998224725"),
        ("111444777", 11, "11144477735"),
        ("112223330001", 9, "11222333000181"),
        # The example of Receita Federal's note on alphanumeric CNPJs.
        ("12ABC34501DE", 9, "12ABC34501DE35"),
    ],
)
def test_check_digits(stem: str, weight: int, whole: str) -> None:
    assert sample.with_check_digits(stem, max_weight=weight) == whole
