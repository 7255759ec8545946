"""Page sizes (AIP-158), and opaque page tokens.

A token has the position of the last row and a checksum over the position, the method and the filter. A truncated or
changed token, or one of another filter, is rejected. A page token is also bound to the principal; a resume token of a
stream is not, so that another instance of the client can continue. The checksum prevents mistakes and is not a secret:
a position gives no access to other rows.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import blake2b
from uuid import UUID

from vsyncd.core.context import current_context
from vsyncd.core.errors import InvalidFields, Violation

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

_CHECKSUM_BYTES = 8


def page_size(requested: int) -> int:
    """Returns the size of a page: the default for 0, and at most MAX_PAGE_SIZE. Raises InvalidFields if negative."""
    if requested < 0:
        raise InvalidFields([Violation("page_size", "must not be negative")])
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(position: bytes, *scope: object) -> str:
    """Returns a token for `position`, valid only with this `scope`: the method and the filter's values."""
    return urlsafe_b64encode(_checksum(position, scope) + position).decode().rstrip("=")


def decode_token(token: str, *scope: object, field: str = "page_token") -> bytes:
    """Returns the position of a token. Raises InvalidFields for `field` if the token is not of this scope."""
    try:
        raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except (UnicodeEncodeError, Base64Error):
        raw = b""
    checksum, position = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    canonical = urlsafe_b64encode(raw).decode().rstrip("=") == token
    if len(checksum) < _CHECKSUM_BYTES or checksum != _checksum(position, scope) or not canonical:
        raise InvalidFields([Violation(field, "is not a token of this method with these arguments")])
    return position


def encode_page_token(position: bytes, *scope: object) -> str:
    """Returns a page token for `position`, valid only for this principal and `scope`."""
    return encode_token(position, current_context().principal, *scope)


def decode_page_token(token: str, *scope: object) -> bytes:
    """Returns the position of a token of `encode_page_token`. Raises InvalidFields."""
    return decode_token(token, current_context().principal, *scope)


def encode_id_token(last: UUID | None, *scope: object) -> str:
    """Returns the page token after the row with the id `last`, or an empty text if it is None: the last page."""
    return "" if last is None else encode_page_token(last.bytes, *scope)


def decode_id_token(token: str, *scope: object) -> UUID | None:
    """Returns the id in a token of `encode_id_token`, or None for the first page. Raises InvalidFields."""
    return UUID(bytes=decode_page_token(token, *scope)) if token else None


def _checksum(position: bytes, scope: tuple[object, ...]) -> bytes:
    digest = blake2b(repr(scope).encode(), digest_size=_CHECKSUM_BYTES, person=b"vsyncd token")
    digest.update(position)
    return digest.digest()
