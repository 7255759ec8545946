"""GetCid and BatchGetCids through the cache."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.cache.encoding import CID
from vsyncd.cache.lookups import Lookup
from vsyncd.cache.read_through import Loaded
from vsyncd.config import Settings
from vsyncd.observability.metrics import CACHE_LOOKUPS

from tests.harness.cids import ISPB, Stub, a_record, cid_of, create, execute, failure_of, info_of, until
from tests.harness.clusters import Database
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import (
    eventually,
    instance,
    invalidated,
    looked_up,
    server_of,
    stored,
)

Entries = Callable[[], int]
unhurried = pytest.mark.usefixtures("unhurried")


def counted(result: str, kind: str = "cid") -> float:
    return CACHE_LOOKUPS.value(kind, result)


def by_key(record: pb.CidRecord) -> pb.GetCidRequest:
    return pb.GetCidRequest(key=pb.CidKey(key_value=record.key_value, ispb=ISPB))


async def cached(entries: Entries, count: int) -> None:
    """Waits until this number of records is in Redis."""
    await until(lambda: entries() == count)


async def read_revision(cids: Stub, cid: str, revision: int) -> None:
    """Waits until GetCid, through the cache, returns this revision."""

    async def read() -> bool:
        return (await cids.GetCid(pb.GetCidRequest(cid=cid))).record.revision == revision

    await eventually(read)


async def created(application: Application, cids: Stub, numbers: Iterable[int]) -> list[pb.CidRecord]:
    """Creates records, and waits until the changes are invalidated."""
    records = await create(cids, numbers)
    await invalidated(application)
    return records


@unhurried
async def test_a_record_is_loaded_once_and_then_comes_from_the_cache(
    application: Application, cids: Stub, entries: Entries
) -> None:
    record = (await created(application, cids, [1]))[0]
    for count, kind, request in (
        (1, "cid", pb.GetCidRequest(cid=record.cid)),
        (2, "id", pb.GetCidRequest(id=record.id)),
        (3, "key", by_key(record)),
    ):

        async def read(request: pb.GetCidRequest = request) -> None:
            assert (await cids.GetCid(request)).record == record

        await stored(count, entries, read)
        await looked_up("hit", read, kind)


@unhurried
async def test_the_absence_of_a_record_is_cached_until_it_is_created(cids: Stub, entries: Entries) -> None:
    async def read_absent() -> None:
        error = await failure_of(cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "CID_NOT_FOUND")

    await stored(1, entries, read_absent)
    await looked_up("absent", read_absent)
    await stored(2, entries, lambda: failure_of(cids.GetCid(by_key(a_record(1)))))
    record = (await cids.CreateCid(pb.CreateCidRequest(record=a_record(1)))).record
    await cached(entries, 0)
    assert (await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record == record
    assert (await cids.GetCid(by_key(record))).record == record


@unhurried
async def test_the_absence_of_an_id_is_not_cached(cids: Stub, entries: Entries) -> None:
    missing = "01020304-0506-7708-890a-0b0c0d0e0f10"
    assert (await failure_of(cids.GetCid(pb.GetCidRequest(id=missing)))).code() is grpc.StatusCode.NOT_FOUND
    await cids.CreateCid(pb.CreateCidRequest(record=a_record(1)))
    await stored(1, entries, lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))


@unhurried
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vsync.cids SET branch = '7', revision = revision + 1",
        "DELETE FROM vsync.cids",
        "UPDATE vsync.cids SET cid = sha256(cid), revision = revision + 1",
        "UPDATE vsync.cids SET key_value = '99999999999', revision = revision + 1",
    ],
)
async def test_a_manual_change_deletes_every_entry_of_its_record(
    application: Application, cids: Stub, entries: Entries, database: Database, statement: str
) -> None:
    record, other = await created(application, cids, [1, 2])
    requests = (pb.GetCidRequest(cid=record.cid), pb.GetCidRequest(id=record.id), by_key(record))
    request_of_other = pb.GetCidRequest(cid=other.cid)
    for count, request in enumerate((*requests, request_of_other), 1):
        await stored(count, entries, partial(cids.GetCid, request))
    execute(database, f"{statement} WHERE key_value = '{record.key_value}'")
    await cached(entries, 1)  # the other record's entry remains


@unhurried
async def test_a_bulk_creation_invalidates_absences_but_no_records(
    application: Application, cids: Stub, entries: Entries
) -> None:
    await created(application, cids, [1])
    await stored(1, entries, lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))
    await stored(2, entries, lambda: failure_of(cids.GetCid(pb.GetCidRequest(cid=cid_of(50)))))
    misses = counted("miss")
    await create(cids, range(40, 60))

    async def created_record_found() -> bool:
        return not (await cids.BatchGetCids(pb.BatchGetCidsRequest(cids=[cid_of(50)]))).missing

    await eventually(created_record_found)
    await invalidated(application)
    await looked_up("hit", lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))
    assert counted("miss") <= misses + 1, "only the absence was invalidated"


@unhurried
async def test_a_statement_that_changes_too_many_records_to_name_invalidates_every_entry(
    application: Application, cids: Stub, database: Database
) -> None:
    await created(application, cids, [1])
    await looked_up("hit", lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))
    execute(database, "INSERT INTO vsync.cid_changes (added) VALUES (false)")
    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER cids_note_updated")
    execute(database, "UPDATE vsync.cids SET revision = 9")
    await read_revision(cids, cid_of(1), 9)


@unhurried
async def test_a_batch_uses_cached_records_and_loads_the_rest(
    application: Application, cids: Stub, entries: Entries
) -> None:
    records = await created(application, cids, range(4))
    await stored(1, entries, lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(0))))
    request = pb.BatchGetCidsRequest(cids=[cid_of(number) for number in range(6)])

    async def read() -> None:
        answer = await cids.BatchGetCids(request)
        assert list(answer.records) == records
        assert list(answer.missing) == [cid_of(4), cid_of(5)]

    hits = counted("hit")
    await stored(6, entries, read)
    assert counted("hit") > hits, "the cached record was not loaded again"
    hits, absent, misses = counted("hit"), counted("absent"), counted("miss")
    await looked_up("absent", read)
    assert (counted("hit") - hits, counted("absent") - absent, counted("miss") - misses) == (4, 2, 0)


@unhurried
async def test_strong_consistency_and_a_token_bypass_the_cache(
    application: Application, cids: Stub, entries: Entries, database: Database
) -> None:
    await created(application, cids, [1])
    request = pb.GetCidRequest(cid=cid_of(1))
    await stored(1, entries, lambda: cids.GetCid(request))
    execute(database, "ALTER TABLE vsync.cids DISABLE TRIGGER cids_note_updated")
    status = pb.UpdateSyncStatusRequest(cids=[cid_of(1)], sync_status=pb.SYNC_STATUS_SYNCED)
    call = cids.UpdateSyncStatus(status)
    await call
    token = dict(await call.trailing_metadata() or ())["x-consistency-token"]
    await read_revision(cids, cid_of(1), 1)  # the change is not in the feed
    for metadata in ((("x-consistency", "strong"),), (("x-consistency-token", token),)):
        assert (await cids.GetCid(request, metadata=metadata)).record.revision == 2


@unhurried
async def test_concurrent_reads_of_a_record_share_one_load_across_instances(
    application: Application, settings: Settings
) -> None:
    async with instance(settings) as (other, _):
        assert application.cache is not None
        assert other.cache is not None
        both = (application.cache.records, other.cache.records)
        loads = 0

        async def load(_digests: Sequence[bytes]) -> list[Loaded]:
            nonlocal loads
            loads += 1
            return [Loaded(b"record", server_of(application))]

        async def all_served() -> bool:
            """False if Redis was too slow for some of them."""
            nonlocal loads
            loads = 0
            lookup = Lookup(CID, secrets.token_bytes(32))
            answers = await asyncio.gather(*(records.get(lookup, load) for _ in range(20) for records in both))
            return set(answers) == {b"record"}

        await eventually(all_served)
        assert 1 <= loads <= 2


@unhurried
async def test_concurrent_batches_share_one_load_of_each_record(application: Application, settings: Settings) -> None:
    async with instance(settings) as (other, _):
        assert application.cache is not None
        assert other.cache is not None
        both = (application.cache.records, other.cache.records)
        loads: Counter[bytes] = Counter()
        expected_lookups = 0.0

        async def load(digests: Sequence[bytes]) -> list[Loaded]:
            loads.update(digests)
            while sum(map(counted, ("hit", "miss", "bypass"))) < expected_lookups:  # noqa: ASYNC110  nothing announces it
                await asyncio.sleep(0)
            return [Loaded(digest[:4], server_of(application)) for digest in digests]

        async def all_served() -> bool:
            """False if Redis was too slow for some of them."""
            nonlocal expected_lookups
            loads.clear()
            digests = [secrets.token_bytes(32) for _ in range(50)]
            asked = [some for some in (digests[:30], digests[20:], digests) for _ in range(5)]
            expected_lookups = sum(map(counted, ("hit", "miss", "bypass"))) + len(both) * sum(map(len, asked))
            answers = await asyncio.gather(*(records.get_many(CID, some, load) for some in asked for records in both))
            expected = [[digest[:4] for digest in some] for some in asked for _ in both]
            return answers == expected

        await eventually(all_served)
        assert len(loads) == 50
        assert max(loads.values()) <= 2


async def test_a_claim_of_a_dead_instance_delays_a_read_only_briefly(
    application: Application, valkey: ValkeyServer
) -> None:
    assert application.cache is not None
    services = application.cache

    async def load(_digests: Sequence[bytes]) -> list[Loaded]:
        return [Loaded(b"record", server_of(application))]

    with valkey.client() as client:

        def lookups() -> int:
            return int(client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])

        async def loaded() -> bool:
            lookup = Lookup(CID, secrets.token_bytes(32))
            key = services.keys.record(CID, lookup.digest, services.invalidator.secret)
            client.set(services.keys.claim(key), b"1", px=60_000)
            before = lookups()
            answer = await services.records.get(lookup, load)
            assert lookups() - before <= 3, "the lookup timeout allows no more"
            return answer == b"record"

        await eventually(loaded)


@unhurried
async def test_keys_and_values_reveal_no_data_and_swapped_entries_are_misses(
    valkey: ValkeyServer, settings: Settings
) -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    async with instance(settings, cache_encryption_key=key) as (application, cids):
        first, second = await created(application, cids, [1, 2])
        for record in (first, second):
            await looked_up("hit", partial(cids.GetCid, by_key(record)), "key")
        with valkey.client() as client:
            await until(lambda: len(client.keys("vsync:key:*")) == 2)
            everything = b"".join(name + (client.get(name) or b"") for name in client.keys("vsync:[ck]*"))
            for record in (first, second):
                assert record.key_value.encode() not in everything
                assert bytes.fromhex(record.cid) not in everything
                assert record.cid.encode() not in everything
            one, two = client.keys("vsync:key:*")
            swapped = client.get(one), client.get(two)
            client.set(one, swapped[1] or b"")
            client.set(two, swapped[0] or b"")
        for record in (first, second):
            assert (await cids.GetCid(by_key(record))).record == record


@unhurried
async def test_damaged_entries_and_other_versions_are_misses(
    application: Application, cids: Stub, entries: Entries, valkey: ValkeyServer
) -> None:
    record = (await created(application, cids, [1]))[0]
    request = pb.GetCidRequest(cid=cid_of(1))
    damages: list[Callable[[bytes], bytes]] = [
        lambda _: b"",
        lambda good: good[:1],
        lambda good: bytes((good[0] + 1,)) + good[1:],
        lambda good: good[:26] + b"\xff\xff\xff\xff",  # header and content do not match
        lambda good: good[:-1] + bytes((good[-1] ^ 1,)),
        lambda _: b"not an envelope",
    ]
    for damage in damages:
        await stored(1, entries, lambda: cids.GetCid(request))
        with valkey.client() as client:
            key = client.keys("vsync:cid:*")[0]
            good = client.get(key) or b""
            client.set(key, damage(good))

            async def replaced(key: bytes = key, good: bytes | None = good) -> bool:
                assert (await cids.GetCid(request)).record == record
                return bool(client.get(key) == good)

            await eventually(replaced)
