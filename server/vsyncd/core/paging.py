"""Pages: their sizes (AIP-158), and tokens that are opaque and bound to what was asked.

A token is the position of the last row, with a checksum over it, the method and the filter: one that was cut, changed
or given with another filter is refused. It is a guard against mistakes, not a secret: a position gives nothing that
the filter alone would not give.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import blake2b
from uuid import UUID

from vsyncd.core.errors import InvalidFields, Violation

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

_CHECKSUM_BYTES = 8


def page_size(requested: int) -> int:
    """The size of a page: 0 is the default, too large is cut down. Raises InvalidFields for a negative one."""
    if requested < 0:
        raise InvalidFields([Violation("page_size", "must not be negative")])
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(position: bytes, *scope: object) -> str:
    """A token for `position`; `scope` is what it is bound to: the method and the filter's values."""
    return urlsafe_b64encode(_checksum(position, scope) + position).decode().rstrip("=")


def decode_token(token: str, *scope: object, field: str = "page_token") -> bytes:
    """The position in a token. Raises InvalidFields, naming `field`, when it was not made for this scope."""
    try:
        raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except (UnicodeEncodeError, Base64Error):
        raw = b""
    checksum, position = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    canonical = urlsafe_b64encode(raw).decode().rstrip("=") == token
    if len(checksum) < _CHECKSUM_BYTES or checksum != _checksum(position, scope) or not canonical:
        raise InvalidFields([Violation(field, "is not a token of this method with these arguments")])
    return position


def encode_id_token(last: UUID | None, *scope: object) -> str:
    """Returns the token of the page after the row with the id `last`, or an empty text if it is None: the last page."""
    return "" if last is None else encode_token(last.bytes, *scope)


def decode_id_token(token: str, *scope: object) -> UUID | None:
    """Returns the id in a token of `encode_id_token`, or None for the first page. Raises InvalidFields."""
    return UUID(bytes=decode_token(token, *scope)) if token else None


def _checksum(position: bytes, scope: tuple[object, ...]) -> bytes:
    digest = blake2b(repr(scope).encode(), digest_size=_CHECKSUM_BYTES, person=b"vsyncd token")
    digest.update(position)
    return digest.digest()
