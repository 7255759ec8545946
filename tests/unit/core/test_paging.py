"""Page tokens are opaque and valid only for their method and filter."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from vsyncd.core.errors import InvalidFields
from vsyncd.core.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, decode_token, encode_token, page_size

POSITIONS = st.binary(max_size=40)
SCOPES = st.tuples(st.sampled_from(["ListCids", "ExportCids"]), st.none() | st.text(max_size=8), st.integers(0, 5))


@given(position=POSITIONS, scope=SCOPES)
def test_a_token_decodes_to_its_position(position: bytes, scope: tuple[object, ...]) -> None:
    token = encode_token(position, *scope)
    assert token.isascii()
    assert decode_token(token, *scope) == position


@given(position=POSITIONS, scope=SCOPES, data=st.data())
def test_a_token_with_any_single_change_is_refused(
    position: bytes, scope: tuple[object, ...], data: st.DataObject
) -> None:
    token = encode_token(position, *scope)
    at = data.draw(st.integers(0, len(token)))
    character = data.draw(st.characters())
    changed = data.draw(
        st.sampled_from(
            [
                token[:at] + token[at + 1 :],
                token[:at] + character + token[at + 1 :],
                token[:at] + character + token[at:],
            ]
        )
    )
    assume(changed != token)
    with pytest.raises(InvalidFields) as caught:
        decode_token(changed, *scope)
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


@given(position=POSITIONS, scope=SCOPES, other=SCOPES)
def test_a_token_of_another_method_or_filter_is_refused(
    position: bytes, scope: tuple[object, ...], other: tuple[object, ...]
) -> None:
    assume(scope != other)
    with pytest.raises(InvalidFields) as caught:
        decode_token(encode_token(position, *scope), *other, field="resume_token")
    assert caught.value.violations[0].field == "resume_token"


@given(st.text(max_size=60))
def test_arbitrary_text_is_rejected_as_a_token(text: str) -> None:
    with pytest.raises(InvalidFields):
        decode_token(text, "ListCids")


def test_page_sizes_have_a_default_and_a_maximum() -> None:
    assert [page_size(size) for size in (0, 1, 999, 1_000, 1_001, 2**31 - 1)] == [
        DEFAULT_PAGE_SIZE,
        1,
        999,
        MAX_PAGE_SIZE,
        MAX_PAGE_SIZE,
        MAX_PAGE_SIZE,
    ]
    with pytest.raises(InvalidFields):
        page_size(-1)
