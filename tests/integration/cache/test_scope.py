"""Callers with different scopes share cached records, and each sees those of its participants only."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2

from tests.harness.cids import failure_of
from tests.harness.scopes import FOREIGN, OWN, Stubs, record_of, scoped_settings
from tests.harness.serving import reason_of


@pytest.fixture
def overrides(overrides: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return overrides | scoped_settings(tmp_path)


@pytest.mark.usefixtures("unhurried")
async def test_a_cached_record_of_another_participant_is_not_found(channel: grpc.aio.Channel) -> None:
    everyone, own = Stubs(channel, "all"), Stubs(channel, "own")
    mine, foreign = await everyone.create(record_of(OWN, 0), record_of(FOREIGN, 0))
    requests = [cid_pb2.GetCidRequest(cid=foreign.cid), cid_pb2.GetCidRequest(id=foreign.id)]
    many = cid_pb2.BatchGetCidsRequest(cids=[mine.cid, foreign.cid])
    for _ in range(2):  # the second time, the cache has the records
        for request in requests:
            assert (await everyone.cids.GetCid(request, metadata=everyone.metadata)).record == foreign
            assert reason_of(await failure_of(own.cids.GetCid(request, metadata=own.metadata))) == "CID_NOT_FOUND"
        assert len((await everyone.cids.BatchGetCids(many, metadata=everyone.metadata)).records) == 2
        found = await own.cids.BatchGetCids(many, metadata=own.metadata)
        assert (list(found.records), list(found.missing)) == ([mine], [foreign.cid])
