"""Verifications: the results of the directory, recorded with our VSync."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.cids import ISPB, Stub, create, failure_of, info_of, rows
from tests.harness.clusters import Database
from tests.harness.reconciliation import CPF, VSYNC, Reconciliation, model
from tests.harness.serving import fields_of


def a_verification(result: int, **changes: Any) -> pb.VsyncVerification:
    """Returns a new verification."""
    fields: dict[str, Any] = {"ispb": ISPB, "key_type": CPF, "submitted_vsync": VSYNC, "directory_result": result}
    return pb.VsyncVerification(**fields | changes)


async def test_a_verification_records_our_vsync_and_the_last_ok(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    async def record(verification: pb.VsyncVerification, **how: Any) -> pb.VsyncVerification:
        request = pb.RecordVsyncVerificationRequest(verification=verification, **how)
        return (await reconciliation.RecordVsyncVerification(request)).verification

    await create(cids, range(3))
    never = await record(a_verification(pb.DIRECTORY_RESULT_NOK, directory_vsync="F" * 64))
    assert (never.our_vsync.count, never.our_vsync.vsync) == (3, model(database)[ISPB, CPF][0])
    assert (never.directory_vsync, never.submitted_vsync) == ("f" * 64, VSYNC)
    assert not never.HasField("last_ok_at")
    request_id = str(uuid4())
    agreed = await record(a_verification(1, directory_verification_id="v-1"), request_id=request_id)
    assert await record(a_verification(1, directory_verification_id="v-1"), request_id=request_id) == agreed
    other = await record(a_verification(2, key_type=cid_pb2.KEY_TYPE_EVP))
    assert (other.our_vsync.count, other.HasField("last_ok_at")) == (0, False)
    await record(a_verification(2), validate_only=True)
    later = await record(a_verification(2))
    assert (later.last_ok_at, later.actor, later.our_vsync) == (agreed.created_at, "anonymous", never.our_vsync)

    found: list[pb.VsyncVerification] = []
    page = pb.ListVsyncVerificationsRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, page_size=1)
    while not found or page.page_token:
        answer = await reconciliation.ListVsyncVerifications(page)
        found += answer.verifications
        page.page_token = answer.next_page_token
    assert found == [later, agreed, never]
    wanted = pb.ListVsyncVerificationsRequest(
        ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, directory_result=pb.DIRECTORY_RESULT_NOK
    )
    assert list((await reconciliation.ListVsyncVerifications(wanted)).verifications) == [later, never]
    entry = rows(database, "SELECT * FROM vsync.audit_logs WHERE id = %s", UUID(later.id))[0]
    assert (entry["payload"]["our_count"], entry["payload"]["directory_result"]) == (3, 2)
    with psycopg.connect(database.service) as service, pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute("DELETE FROM vsync.vsync_verifications")


async def test_a_bad_verification_names_every_field(reconciliation: Reconciliation) -> None:
    bad = pb.VsyncVerification(submitted_vsync="x", directory_vsync="y", directory_verification_id="z" * 101)
    request = pb.RecordVsyncVerificationRequest(verification=bad, request_id="r")
    error = await failure_of(reconciliation.RecordVsyncVerification(request))
    assert {field.removeprefix("verification.") for field in fields_of(error)} == {
        *("ispb", "key_type", "submitted_vsync", "directory_result", "directory_verification_id", "directory_vsync"),
        "request_id",
    }
    assert info_of(error).reason == "INVALID_FIELD"
