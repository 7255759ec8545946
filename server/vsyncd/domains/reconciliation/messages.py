"""Converts the messages of reconciliation.proto to records and back."""

from typing import Final, TypeAlias

from vsync.v1 import reconciliation_pb2 as pb

from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.reconciliation.records import (
    KEY_TYPES,
    MAX_VERIFICATION_ID_CHARS,
    NOK,
    OK,
    Event,
    Group,
    NewVsyncVerification,
    VerificationFilter,
    Vsync,
    VsyncVerification,
)

_RESULTS: Final = range(OK, NOK + 1)


# The messages that identify a group.
_Grouped: TypeAlias = (
    pb.GetVsyncRequest
    | pb.RecomputeVsyncRequest
    | pb.VsyncVerification
    | pb.ListVsyncVerificationsRequest
    | pb.ListCidEventsRequest
    | pb.DiffStart
)


def read_group(message: _Grouped, prefix: str, validator: Validator) -> Group:
    """Reads a participant and a key type, both required."""
    return Group(
        validator.ispb(f"{prefix}ispb", message.ispb),
        validator.choice(f"{prefix}key_type", message.key_type, KEY_TYPES),
    )


def read_verification(message: pb.VsyncVerification, validator: Validator) -> NewVsyncVerification:
    group = read_group(message, "verification.", validator)
    submitted = validator.cid("verification.submitted_vsync", message.submitted_vsync)
    result = validator.choice("verification.directory_result", message.directory_result, _RESULTS)
    identifier = validator.identifier(
        "verification.directory_verification_id",
        message.directory_verification_id,
        min_chars=0,
        max_chars=MAX_VERIFICATION_ID_CHARS,
    )
    directory_vsync = message.directory_vsync
    theirs = validator.cid("verification.directory_vsync", directory_vsync) if directory_vsync else None
    return NewVsyncVerification(*group, submitted, result, identifier, theirs)


def read_verification_filter(request: pb.ListVsyncVerificationsRequest, validator: Validator) -> VerificationFilter:
    group = read_group(request, "", validator)
    result = validator.choice("directory_result", request.directory_result, _RESULTS, optional=True) or None
    return VerificationFilter(
        *group,
        result,
        validator.optional_time("", request, "created_after"),
        validator.optional_time("", request, "created_before"),
    )


def vsync_message(vsync: Vsync) -> pb.Vsync:
    return pb.Vsync(
        ispb=vsync.ispb,
        key_type=vsync.key_type,  # type: ignore[arg-type]  # an enum's number
        vsync=vsync.vsync.hex(),
        count=vsync.size,
    )


def verification_message(verification: VsyncVerification) -> pb.VsyncVerification:
    ours = Vsync(verification.ispb, verification.key_type, verification.our_vsync, verification.our_count)
    return pb.VsyncVerification(
        id=str(verification.id),
        ispb=verification.ispb,
        key_type=verification.key_type,  # type: ignore[arg-type]  # an enum's number
        submitted_vsync=verification.submitted_vsync.hex(),
        directory_result=verification.directory_result,  # type: ignore[arg-type]  # as above
        directory_verification_id=verification.directory_verification_id or "",
        directory_vsync="" if verification.directory_vsync is None else verification.directory_vsync.hex(),
        our_vsync=vsync_message(ours),
        actor=verification.actor,
        created_at=timestamp(verification.created_at),
        last_ok_at=timestamp(verification.last_ok_at),
    )


def event_message(event: Event) -> pb.CidEvent:
    return pb.CidEvent(
        cid=event.cid.hex(),
        ispb=event.ispb,
        key_type=event.key_type,  # type: ignore[arg-type]  # an enum's number
        change=event.change,  # type: ignore[arg-type]  # as above
        audit_id="" if event.audit_id is None else str(event.audit_id),
        transaction_id=event.transaction_id,
        sequence=event.seq,
        created_at=timestamp(event.created_at),
    )
