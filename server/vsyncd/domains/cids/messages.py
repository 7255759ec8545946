"""Converts the messages of cid.proto to records and back."""

import re
from typing import Final

from vsync.keys import KEY_FORMS
from vsync.v1 import cid_pb2 as pb

from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import (
    CID_FORM,
    CID_RULE,
    ISPB_FORM,
    ISPB_RULE,
    TAX_ID_FORM,
    TAX_ID_RULE,
    UUID_FORM,
    UUID_RULE,
    Validator,
)
from vsyncd.domains.cids.records import (
    FAILED,
    MAX_ACCOUNT_CHARS,
    MAX_BRANCH_CHARS,
    CidChanges,
    CidFilter,
    CidRecord,
    NewCid,
    Selector,
)

KEY_TYPES: Final = range(1, 6)
ACCOUNT_TYPES: Final = range(1, 5)
SYNC_STATUSES: Final = range(1, 4)
UPDATABLE: Final = ("cid", "branch", "account_number", "account_type", "dict_request_id")

_BRANCH = re.compile(f"[0-9]{{1,{MAX_BRANCH_CHARS}}}").fullmatch
_ACCOUNT = re.compile(f"[0-9]{{1,{MAX_ACCOUNT_CHARS}}}").fullmatch
_BRANCH_RULE = f"must be 1 to {MAX_BRANCH_CHARS} digits"
_ACCOUNT_RULE = f"must be 1 to {MAX_ACCOUNT_CHARS} digits"


def read_new_cid(message: pb.CidRecord, prefix: str, validator: Validator) -> NewCid:
    """Reads a new record. Violations are reported for `prefix` + field name. Empty optional fields are absent.

    Not composed of the validator's methods: an import spends most of its time here.
    """
    cid, key_type, key_value, ispb = message.cid, message.key_type, message.key_value, message.ispb
    branch, account_number, tax_id = message.branch, message.account_number, message.tax_id
    account_type, dict_request_id = message.account_type, message.dict_request_id
    if CID_FORM(cid) is None:
        validator.add(prefix + "cid", CID_RULE)
        cid = ""
    form = KEY_FORMS.get(key_type)
    if form is None:
        validator.add(prefix + "key_type", "must be a known value other than UNSPECIFIED")
    elif form.matches(key_value) is None:
        validator.add(prefix + "key_value", form.rule)
    if ISPB_FORM(ispb) is None:
        validator.add(prefix + "ispb", ISPB_RULE)
    if branch and _BRANCH(branch) is None:
        validator.add(prefix + "branch", _BRANCH_RULE)
    if _ACCOUNT(account_number) is None:
        validator.add(prefix + "account_number", _ACCOUNT_RULE)
    if account_type not in ACCOUNT_TYPES:
        validator.add(prefix + "account_type", "must be a known value other than UNSPECIFIED")
    if TAX_ID_FORM(tax_id) is None:
        validator.add(prefix + "tax_id", TAX_ID_RULE)
    if dict_request_id and UUID_FORM(dict_request_id) is None:
        validator.add(prefix + "dict_request_id", UUID_RULE)
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


def read_key(message: pb.CidKey, prefix: str, validator: Validator) -> tuple[str, str]:
    return validator.key(f"{prefix}key_value", message.key_value), validator.ispb(f"{prefix}ispb", message.ispb)


def read_selector(
    request: pb.GetCidRequest | pb.UpdateCidRequest | pb.DeleteCidRequest, validator: Validator
) -> Selector:
    chosen = validator.one_of("by", request.WhichOneof("by"), ("id", "cid", "key"))
    if chosen == "id":
        return Selector(id=validator.uuid("id", request.id))
    if chosen == "cid":
        return Selector(cid=validator.cid("cid", request.cid))
    return Selector(key=read_key(request.key, "key.", validator)) if chosen else Selector()


def read_filter(message: pb.CidFilter, validator: Validator) -> CidFilter:
    return CidFilter(
        validator.ispb("filter.ispb", message.ispb, optional=True) or None,
        validator.choice("filter.key_type", message.key_type, KEY_TYPES, optional=True) or None,
        validator.choice("filter.sync_status", message.sync_status, SYNC_STATUSES, optional=True) or None,
        validator.matching("filter.tax_id", message.tax_id, TAX_ID_FORM, TAX_ID_RULE, optional=True) or None,
        validator.optional_time("filter.", message, "created_after"),
        validator.optional_time("filter.", message, "created_before"),
    )


def read_changes(request: pb.UpdateCidRequest, validator: Validator) -> CidChanges:
    """Reads the changes of an update: the cid, and the fields of the account that the mask names."""
    update, paths = request.update, list(request.update_mask.paths)
    for path in paths:
        if path not in UPDATABLE:
            validator.add("update_mask", "may only name " + ", ".join(UPDATABLE))
            break
    if "cid" not in paths:
        validator.add("update_mask", "must name cid: a CID covers the account")
    cid = validator.cid("update.cid", update.cid)
    if "branch" in paths:
        validator.matching("update.branch", update.branch, _BRANCH, _BRANCH_RULE, optional=True)
    if "account_number" in paths:
        validator.matching("update.account_number", update.account_number, _ACCOUNT, _ACCOUNT_RULE)
    if "account_type" in paths:
        validator.choice("update.account_type", update.account_type, ACCOUNT_TYPES)
    if "dict_request_id" in paths:
        validator.matching("update.dict_request_id", update.dict_request_id, UUID_FORM, UUID_RULE, optional=True)
    return CidChanges(
        cid,
        tuple(sorted(set(paths) - {"cid"})),
        update.branch or None,
        update.account_number,
        update.account_type,
        update.dict_request_id.lower() or None,
    )


def read_revision(request: pb.UpdateCidRequest | pb.DeleteCidRequest, validator: Validator) -> int | None:
    """Reads the revision that the record must still have, or None."""
    if not request.HasField("revision"):
        return None
    if request.revision < 1:
        validator.add("revision", "must be at least 1")
    return request.revision


def read_error(status: int, error: str, field: str, validator: Validator) -> None:
    """Validates the error of a synchronization, which is required with FAILED and must be empty otherwise."""
    if status == FAILED:
        validator.error_text(field, error)
    elif error:
        validator.add(field, "is only allowed with FAILED")


def record_message(record: CidRecord) -> pb.CidRecord:
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
        dict_request_id=None if record.dict_request_id is None else str(record.dict_request_id),
        sync_status=record.sync_status,  # type: ignore[arg-type]  # as above
        created_at=timestamp(record.created_at),
        updated_at=timestamp(record.updated_at),
        synced_at=timestamp(record.synced_at),
        last_error=record.last_error,
        revision=record.revision,
    )
