"""Records to and from the messages of cid.proto."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from vsync.v1 import cid_pb2 as pb

from vsyncd.cids.records import FAILED, CidChanges, CidFilter, CidRecord, NewCid, Selector
from vsyncd.fields import (
    CID_FORM,
    CID_RULE,
    ISPB_FORM,
    ISPB_RULE,
    TAX_ID_FORM,
    TAX_ID_RULE,
    UUID_FORM,
    UUID_RULE,
    Problems,
)

KEY_TYPES: Final = range(1, 6)
ACCOUNT_TYPES: Final = range(1, 5)
SYNC_STATUSES: Final = range(1, 4)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
UPDATABLE: Final = ("cid", "branch", "account_number", "account_type", "dict_request_id")

_BRANCH = re.compile(r"[0-9]{1,10}").fullmatch
_ACCOUNT = re.compile(r"[0-9]{1,20}").fullmatch
_BRANCH_RULE = "must be 1 to 10 digits"
_ACCOUNT_RULE = "must be 1 to 20 digits"

# The forms of keys; migrations/vsync has the same in the CHECK cids_key_value. The e-mail's is the directory's.
_KEYS: Final[dict[int, tuple[Callable[[str], object | None], str]]] = {
    1: (re.compile(r"[0-9]{11}").fullmatch, "must be 11 digits for a CPF"),
    2: (
        re.compile(r"[0-9A-Z]{12}[0-9]{2}").fullmatch,
        "must be 14 characters for a CNPJ: 12 of A-Z or 0-9, then two digits",
    ),
    3: (re.compile(r"\+[1-9][0-9]{1,14}").fullmatch, "must be in E.164 for a PHONE: + and 2 to 15 digits"),
    4: (
        re.compile(r"(?=.{3,77}\Z)[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?").fullmatch,
        "must be an address in lower case of at most 77 characters for an EMAIL",
    ),
    5: (
        re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch,
        "must be a UUID in lower case, with hyphens, for an EVP",
    ),
}
_KEY_OF_ANY_TYPE = re.compile(r"[!-~]{1,77}").fullmatch


def read_new_cid(message: pb.CidRecord, prefix: str, problems: Problems) -> NewCid:
    """The record a caller sends; bad fields are noted as `prefix` + name. Empty optional fields count as absent.

    Written out rather than composed: an import spends most of its time here.
    """
    cid, key_type, key_value, ispb = message.cid, message.key_type, message.key_value, message.ispb
    branch, account_number, tax_id = message.branch, message.account_number, message.tax_id
    account_type, dict_request_id = message.account_type, message.dict_request_id
    if CID_FORM(cid) is None:
        problems.add(prefix + "cid", CID_RULE)
        cid = ""
    key = _KEYS.get(key_type)
    if key is None:
        problems.add(prefix + "key_type", "must be a known value other than UNSPECIFIED")
    elif key[0](key_value) is None:
        problems.add(prefix + "key_value", key[1])
    if ISPB_FORM(ispb) is None:
        problems.add(prefix + "ispb", ISPB_RULE)
    if branch and _BRANCH(branch) is None:
        problems.add(prefix + "branch", _BRANCH_RULE)
    if _ACCOUNT(account_number) is None:
        problems.add(prefix + "account_number", _ACCOUNT_RULE)
    if account_type not in ACCOUNT_TYPES:
        problems.add(prefix + "account_type", "must be a known value other than UNSPECIFIED")
    if TAX_ID_FORM(tax_id) is None:
        problems.add(prefix + "tax_id", TAX_ID_RULE)
    if dict_request_id and UUID_FORM(dict_request_id) is None:
        problems.add(prefix + "dict_request_id", UUID_RULE)
    return NewCid(
        bytes.fromhex(cid),
        key_type,
        key_value,
        ispb,
        branch or None,
        account_number,
        account_type,
        tax_id,
        dict_request_id.lower() or None,
    )


def read_key(message: pb.CidKey, prefix: str, problems: Problems) -> tuple[str, str]:
    """A key of any type at an ispb."""
    return (
        problems.matching(
            f"{prefix}key_value", message.key_value, _KEY_OF_ANY_TYPE, "must be 1 to 77 characters of a key"
        ),
        problems.ispb(f"{prefix}ispb", message.ispb),
    )


def read_selector(
    request: pb.GetCidRequest | pb.UpdateCidRequest | pb.DeleteCidRequest, problems: Problems
) -> Selector:
    """The one record that a request names."""
    chosen = problems.one_of("by", request.WhichOneof("by"), ("id", "cid", "key"))
    if chosen == "id":
        return Selector(id=problems.uuid("id", request.id))
    if chosen == "cid":
        return Selector(cid=problems.cid("cid", request.cid))
    return Selector(key=read_key(request.key, "key.", problems)) if chosen else Selector()


def read_filter(message: pb.CidFilter, problems: Problems) -> CidFilter:
    """Which records are asked for."""
    after = problems.time("filter.created_after", message.created_after) if message.HasField("created_after") else None
    before = (
        problems.time("filter.created_before", message.created_before) if message.HasField("created_before") else None
    )
    return CidFilter(
        problems.ispb("filter.ispb", message.ispb, optional=True) or None,
        problems.choice("filter.key_type", message.key_type, KEY_TYPES, optional=True) or None,
        problems.choice("filter.sync_status", message.sync_status, SYNC_STATUSES, optional=True) or None,
        problems.matching("filter.tax_id", message.tax_id, TAX_ID_FORM, TAX_ID_RULE, optional=True) or None,
        after,
        before,
    )


def read_changes(request: pb.UpdateCidRequest, problems: Problems) -> CidChanges:
    """What an update sets: always the cid, and of the account what its mask names."""
    update, paths = request.update, list(request.update_mask.paths)
    for path in paths:
        if path not in UPDATABLE:
            problems.add("update_mask", "may name " + ", ".join(UPDATABLE))
            break
    if "cid" not in paths:
        problems.add("update_mask", "must name cid: a CID covers the account")
    cid = problems.cid("update.cid", update.cid)
    if "branch" in paths:
        problems.matching("update.branch", update.branch, _BRANCH, _BRANCH_RULE, optional=True)
    if "account_number" in paths:
        problems.matching("update.account_number", update.account_number, _ACCOUNT, _ACCOUNT_RULE)
    if "account_type" in paths:
        problems.choice("update.account_type", update.account_type, ACCOUNT_TYPES)
    if "dict_request_id" in paths:
        problems.matching("update.dict_request_id", update.dict_request_id, UUID_FORM, UUID_RULE, optional=True)
    return CidChanges(
        cid,
        tuple(sorted(set(paths) - {"cid"})),
        update.branch or None,
        update.account_number,
        update.account_type,
        update.dict_request_id.lower() or None,
    )


def read_revision(request: pb.UpdateCidRequest | pb.DeleteCidRequest, problems: Problems) -> int | None:
    """The revision that the record must still have, if any is given."""
    if not request.HasField("revision"):
        return None
    if request.revision < 1:
        problems.add("revision", "must be at least 1")
    return request.revision


def read_error(status: int, error: str, field: str, problems: Problems) -> None:
    """Why a synchronisation failed: required with FAILED, and only there."""
    if status == FAILED:
        problems.error_text(field, error)
    elif error:
        problems.add(field, "is only allowed with FAILED")


def record_message(record: CidRecord) -> pb.CidRecord:
    """A record as a message."""
    dict_request_id: UUID | None = record.dict_request_id
    return pb.CidRecord(
        id=str(record.id),
        cid=record.cid.hex(),
        key_type=record.key_type,  # type: ignore[arg-type]  # an enum's number; the CHECKs keep it in range
        key_value=record.key_value,
        ispb=record.ispb,
        branch=record.branch,
        account_number=record.account_number,
        account_type=record.account_type,  # type: ignore[arg-type]  # as above
        tax_id=record.tax_id,
        dict_request_id=None if dict_request_id is None else str(dict_request_id),
        sync_status=record.sync_status,  # type: ignore[arg-type]  # as above
        created_at=_timestamp(record.created_at),  # type: ignore[arg-type]  # protobuf takes the fields; its stubs do not
        updated_at=_timestamp(record.updated_at),  # type: ignore[arg-type]  # as above
        synced_at=None if record.synced_at is None else _timestamp(record.synced_at),  # type: ignore[arg-type]  # as above
        last_error=record.last_error,
        revision=record.revision,
    )


def _timestamp(at: datetime) -> dict[str, int]:
    """A Timestamp's fields: a quarter of what protobuf needs to convert a datetime itself."""
    since = at - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1_000}
