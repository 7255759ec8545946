"""A fingerprint depends on what is asked for, and on nothing else."""

import os
import subprocess
import sys

from google.protobuf.field_mask_pb2 import FieldMask
from vsync.v1 import cid_pb2 as pb
from vsyncd.core.fingerprints import fingerprint
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.messages import read_changes

PATHS = ["cid", "branch", "account_number", "account_type", "dict_request_id"]
PROGRAM = "from tests.unit.core.test_fingerprints import of_an_update; print(of_an_update().hex())"


def of_an_update(paths: list[str] = PATHS, branch: str = "1") -> bytes:
    """The fingerprint of an update of every field."""
    request = pb.UpdateCidRequest(update=pb.CidUpdate(cid="ab" * 32, branch=branch, account_number="1"))
    request.update_mask.CopyFrom(FieldMask(paths=paths))
    return fingerprint(read_changes(request, Validator()))


def test_it_is_the_same_in_every_process() -> None:
    """Python salts the order of its sets anew in each."""
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


def test_the_order_of_a_mask_has_no_meaning() -> None:
    assert of_an_update([*reversed(PATHS), "cid"]) == of_an_update()


def test_other_content_has_another() -> None:
    assert of_an_update(PATHS[:3]) != of_an_update()
    assert of_an_update(branch="2") != of_an_update()
