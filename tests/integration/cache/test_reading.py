"""GetCid and BatchGetCids through the cache."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.metrics import CACHE

from tests.harness.cids import ISPB, Stub, a_record, cid_of, create, execute, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.valkey import ValkeyServer

Entries = Callable[[], int]


def counted(result: str, kind: str = "cid") -> float:
    return CACHE._lookups.get((kind, result), 0)


async def test_a_record_is_loaded_once_and_then_comes_from_the_cache(
    application: Application, cids: Stub, entries: Entries
) -> None:
    record = (await create(cids, [1]))[0]
    for request, kind in (
        (pb.GetCidRequest(cid=record.cid), "cid"),
        (pb.GetCidRequest(id=record.id), "id"),
        (pb.GetCidRequest(key=pb.CidKey(key_value=record.key_value, ispb=ISPB)), "key"),
    ):
        before = entries()
        assert (await cids.GetCid(request)).record == record
        await until(lambda before=before: entries() == before + 1)  # type: ignore[misc]  # as above
        hits = counted("hit", kind)
        assert (await cids.GetCid(request)).record == record
        assert counted("hit", kind) == hits + 1
