"""Records for benchmarks: valid, distinct, of one ispb and all key types, and cheap to generate."""

from hashlib import sha256
from uuid import UUID, uuid5

from vsync.v1 import cid_pb2 as pb

ISPB = "12345678"
_SPACE = UUID("5a1c6f1e-9d0b-4f51-8d5c-2b1f5b1f3a10")


def record(number: int) -> pb.CidRecord:
    """Returns the record with this number."""
    digits = f"{number:011d}"
    keys = (digits, f"{number:012d}00", f"+55{digits}", f"person{number}@example.com", str(uuid5(_SPACE, digits)))
    return pb.CidRecord(
        cid=sha256(digits.encode()).hexdigest(),
        key_type=number % 5 + 1,  # type: ignore[arg-type]  # an enum's number
        key_value=keys[number % 5],
        ispb=ISPB,
        branch="0001",
        account_number=digits,
        account_type=pb.ACCOUNT_TYPE_CACC,
        tax_id=digits,
        dict_request_id=str(uuid5(_SPACE, digits)),
    )
