"""A fingerprint depends only on the content of a request."""

import os
import subprocess
import sys

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from vsync.v1 import cid_pb2 as pb
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.messages import read_changes
from vsyncd.postgres.mutations import fingerprint

PATHS = ["cid", "branch", "account_number", "account_type", "dict_request_id"]
PROGRAM = "from tests.unit.core.test_fingerprints import of_an_update; print(of_an_update().hex())"


def of_an_update(paths: list[str] = PATHS, branch: str = "1") -> bytes:
    """The fingerprint of an update of every field."""
    request = pb.UpdateCidRequest(update=pb.CidUpdate(cid="ab" * 32, branch=branch, account_number="1"))
    request.update_mask.CopyFrom(FieldMask(paths=paths))
    return fingerprint(read_changes(request, Validator()))


@pytest.mark.soak
def test_a_fingerprint_is_the_same_in_every_process() -> None:
    """Python randomizes the order of sets per process."""
    seen = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert seen == {of_an_update().hex()}


def test_the_order_of_a_field_mask_does_not_matter() -> None:
    assert of_an_update([*reversed(PATHS), "cid"]) == of_an_update()


def test_other_content_has_another_fingerprint() -> None:
    assert of_an_update(PATHS[:3]) != of_an_update()
    assert of_an_update(branch="2") != of_an_update()
