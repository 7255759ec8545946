"""Whatever happens to Redis and to the instances: no read is behind by more than what is promised."""

import asyncio
import contextlib
import itertools
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc

from tests.harness.cids import ISPB, Stub, a_record, a_request_id, cid_of, execute, rows
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.http import scrape
from tests.harness.processes import ServerProcess
from tests.harness.reads import ABSENT, Reads, Step
from tests.harness.valkey import ValkeyServer, valkey_server

# Seconds: that of docs/cache.md.
PROMISE = 5.0
RECORDS = 20
# Records that stay, beside those that come and go: read by cid, by id and through BatchGetCids. Registers from here on.
STEADY = range(1_000, 1_010)
# A run that found something is tried again with its seed; what the machine does in between is not.
SEED = "VSYNC_TEST_SEED"
_STRONG = (("x-consistency", "strong"),)


class Scene:
    """Two vsyncd over one database and one Valkey, each with a network of its own to it, and what happens to them."""

    def __init__(
        self, database: Database, valkey: ValkeyServer, servers: list[ServerProcess], proxies: list[FaultProxy]
    ) -> None:
        self.history = Reads()
        self.happened: dict[str, int] = {}
        self.uses = 0
        self._database = database
        self._valkey = valkey
        self._servers = servers
        self._proxies = proxies
        self._channels = [grpc.aio.insecure_channel(server.target) for server in servers]
        self._stubs: list[Stub] = [cid_pb2_grpc.CidServiceStub(channel) for channel in self._channels]
        self.seed = int(os.environ.get(SEED) or secrets.randbits(32))
        logging.getLogger(__name__).warning("%s=%d", SEED, self.seed)  # pytest shows it when the test fails
        self._random = random.Random(self.seed)  # noqa: S311  faults need no secrets
        self._version = ABSENT
        self._ids: dict[int, str] = {}
        self._until = 0.0

    def __repr__(self) -> str:
        return f"{SEED}={self.seed}: {self.happened}, each time in use before: {self.uses}"

    async def run(self, seconds: float, *, troubled: bool = True, enough: Callable[[], bool] = lambda: False) -> None:
        """Write, read, and, if `troubled`, have something happen, all at once; for so long, or until it is `enough`."""
        self._until = time.monotonic() + seconds
        await self._create_steady()
        async with asyncio.TaskGroup() as group:
            for number in STEADY:
                group.create_task(self._write_steady(number))
                for stub in self._stubs:
                    group.create_task(self._read_steady(number, stub))
            for stub in self._stubs:
                group.create_task(self._read_batches(stub))
            for number in range(RECORDS):
                group.create_task(self._write(number))
                for stub in self._stubs:
                    group.create_task(self._read(number, stub))
            if troubled:
                group.create_task(self._trouble())
            while not self._over and not enough():  # noqa: ASYNC110  what is awaited is a history, which announces nothing
                await asyncio.sleep(0.1)
            self._until = 0.0
        for channel in self._channels:
            await channel.close()

    @property
    def _over(self) -> bool:
        return time.monotonic() > self._until

    async def _write(self, number: int) -> None:
        writes = self.history.registers[number].writes
        while not self._over:
            self._version += 1
            version, begun = self._version, time.monotonic()
            try:
                version = await self._change(number, version, there=writes[-1].version != ABSENT)
            except grpc.aio.AioRpcError:
                # Perhaps it was done, perhaps not, perhaps it will be in a moment.
                await asyncio.sleep(0.5)
                version = await self._look(number)
            writes.append(Step(version, begun, time.monotonic()))
            # A few at once, and then so long nothing that whatever was left behind would be read for too long.
            last = self._random.random() < 0.2
            await asyncio.sleep(self._random.uniform(1.2, 1.6) * PROMISE if last else self._random.uniform(0, 0.05))

    async def _change(self, number: int, version: int, *, there: bool) -> int:
        """Through an instance, or past them all; the version then."""
        stub = self._random.choice(self._stubs)
        record = a_record(number, cid=sha256(b"%d" % version).hexdigest(), account_number=str(version))
        key = pb.CidKey(key_value=record.key_value, ispb=ISPB)
        if not there:
            await stub.CreateCid(pb.CreateCidRequest(record=record, request_id=a_request_id()))
            return version
        how = self._random.random()
        if how < 0.3:
            await stub.DeleteCid(pb.DeleteCidRequest(key=key, request_id=a_request_id()))
            return ABSENT
        if how < 0.5:
            statement = "UPDATE vsync.cids SET account_number = %s WHERE key_value = %s"
            await asyncio.to_thread(execute, self._database, statement, str(version), record.key_value)
            return version
        changed = pb.CidUpdate(cid=record.cid, account_number=record.account_number)
        update = pb.UpdateCidRequest(key=key, update=changed, request_id=a_request_id())
        update.update_mask.paths.extend(("cid", "account_number"))
        await stub.UpdateCid(update)
        return version

    async def _look(self, number: int) -> int:
        """What is there, past the cache."""
        while True:
            for stub in self._stubs:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return await self._get(number, stub, _STRONG)
            await asyncio.sleep(0.1)

    async def _read(self, number: int, stub: Stub) -> None:
        reads = self.history.registers[number].reads
        while not self._over:
            begun = time.monotonic()
            with contextlib.suppress(grpc.aio.AioRpcError):
                version = await self._get(number, stub)
                reads.append(Step(version, begun, time.monotonic()))
            await asyncio.sleep(self._random.uniform(0.01, 0.1))

    async def _create_steady(self) -> None:
        for number in STEADY:
            request = pb.CreateCidRequest(record=a_record(number), request_id=a_request_id())
            self._ids[number] = (await self._stubs[0].CreateCid(request)).record.id

    async def _write_steady(self, number: int) -> None:
        """What changes is the error of its synchronisation: cid and id stay."""
        writes = self.history.registers[number].writes
        while not self._over:
            self._version += 1
            version, begun = self._version, time.monotonic()
            if self._random.random() < 0.5:
                statement = "UPDATE vsync.cids SET sync_status = 3, last_error = %s WHERE cid = %s"
                parameters = (str(version), bytes.fromhex(cid_of(number)))
                await asyncio.to_thread(execute, self._database, statement, *parameters)
            else:
                change = pb.UpdateSyncStatusRequest(
                    cids=[cid_of(number)],
                    sync_status=pb.SYNC_STATUS_FAILED,
                    error=str(version),
                    request_id=a_request_id(),
                )
                try:
                    await self._random.choice(self._stubs).UpdateSyncStatus(change)
                except grpc.aio.AioRpcError:
                    # Perhaps it was done, perhaps not, perhaps it will be in a moment.
                    await asyncio.sleep(0.5)
                    (row,) = await asyncio.to_thread(self._rows, number)
                    version = _version_of(row["last_error"])
            writes.append(Step(version, begun, time.monotonic()))
            last = self._random.random() < 0.2
            await asyncio.sleep(self._random.uniform(1.2, 1.6) * PROMISE if last else self._random.uniform(0, 0.2))

    def _rows(self, number: int) -> list[dict[str, Any]]:
        query = "SELECT last_error FROM vsync.cids WHERE cid = %s"
        return rows(self._database, query, bytes.fromhex(cid_of(number)))

    async def _read_steady(self, number: int, stub: Stub) -> None:
        """By cid and by id in turns."""
        requests = itertools.cycle((pb.GetCidRequest(cid=cid_of(number)), pb.GetCidRequest(id=self._ids[number])))
        while not self._over:
            begun = time.monotonic()
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.GetCid(next(requests), timeout=5)
                self._saw(number, answer.record, begun)
            await asyncio.sleep(self._random.uniform(0.01, 0.1))

    async def _read_batches(self, stub: Stub) -> None:
        cids = {cid_of(number): number for number in STEADY}
        while not self._over:
            begun = time.monotonic()
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.BatchGetCids(pb.BatchGetCidsRequest(cids=list(cids)), timeout=5)
                assert not answer.missing
                for record in answer.records:
                    self._saw(cids[record.cid], record, begun)
            await asyncio.sleep(self._random.uniform(0.05, 0.2))

    def _saw(self, number: int, record: pb.CidRecord, begun: float) -> None:
        step = Step(_version_of(record.last_error), begun, time.monotonic())
        self.history.registers[number].reads.append(step)

    @staticmethod
    async def _get(number: int, stub: Stub, metadata: tuple[tuple[str, str], ...] = ()) -> int:
        key = pb.CidKey(key_value=a_record(number).key_value, ispb=ISPB)
        try:
            answer = await stub.GetCid(pb.GetCidRequest(key=key), metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return ABSENT
        return int(answer.record.account_number)

    async def _trouble(self) -> None:
        """One fault after the other, each upon a cache that answers in both instances."""
        faults = self._faults
        self._random.shuffle(faults)
        for fault in itertools.cycle(faults):
            await asyncio.sleep(self._random.uniform(0.0, 0.5))
            if not await self._in_use():
                return
            await fault()
            self.happened[fault.__name__] = self.happened.get(fault.__name__, 0) + 1

    @property
    def _faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self._restart_empty,
            self._freeze,
            self._go_back,
            self._empty,
            self._partition,
            self._cut,
            self._lose_the_feed,
            self._kill_an_instance,
        ]

    @property
    def everything_happened(self) -> bool:
        """Whether there was each fault, and the cache answered before each of them and after the last."""
        return len(self.happened) == len(self._faults) and self.uses > len(self._faults)

    async def _in_use(self) -> bool:
        """Wait until each instance has answered more reads of each kind from the cache; False: it is over."""
        before = [await self._hits(server) for server in self._servers]
        for server, known in zip(self._servers, before, strict=True):
            while not all(now > then for now, then in zip(await self._hits(server), known, strict=True)):
                if self._over:
                    return False
                await asyncio.sleep(0.05)
        self.uses += 1
        return not self._over

    @staticmethod
    async def _hits(server: ServerProcess) -> list[float]:
        samples = await scrape(server.http_port)
        return [samples.of("vsyncd_cache_lookups_total", kind=kind, result="hit") for kind in ("key", "cid", "id")]

    async def _restart_empty(self) -> None:
        await asyncio.to_thread(self._valkey.stop)
        (self._valkey.folder / "dump.rdb").unlink(missing_ok=True)
        await asyncio.sleep(self._random.uniform(0, 0.5))
        await asyncio.to_thread(self._valkey.start)

    async def _go_back(self) -> None:
        """As a failover to a replica that lags does, or a restart from an old dump."""
        await asyncio.to_thread(self._ask, "SAVE")
        await asyncio.sleep(self._random.uniform(0.5, 2.0))
        await asyncio.to_thread(self._valkey.stop)
        await asyncio.to_thread(self._valkey.start)

    async def _freeze(self) -> None:
        self._valkey.freeze()
        await asyncio.sleep(self._random.uniform(0.05, 1.5))
        self._valkey.thaw()

    async def _empty(self) -> None:
        await asyncio.to_thread(self._ask, "FLUSHALL")

    async def _lose_the_feed(self) -> None:
        """As eviction does: one key is gone, and the entries stay."""
        for name in await asyncio.to_thread(self._ask, "KEYS", "vsync:feed:*"):
            await asyncio.to_thread(self._ask, "DEL", name)

    async def _partition(self) -> None:
        """One instance reaches Redis, the other one does not."""
        proxy = self._random.choice(self._proxies)
        proxy.hang()
        await asyncio.sleep(self._random.uniform(0.5, 3.0))
        if self._random.random() < 0.5:
            proxy.cut()
        proxy.flow()

    async def _cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    async def _kill_an_instance(self) -> None:
        server = self._random.choice(self._servers)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    def _ask(self, *command: str) -> Any:
        with self._valkey.client() as client:
            return client.execute_command(*command)


def _version_of(error: str | None) -> int:
    return int(error or ABSENT)


@pytest.fixture
async def scene(database: Database, tmp_path: Path) -> AsyncIterator[Scene]:
    """Both instances running."""
    with valkey_server(tmp_path) as valkey:
        async with FaultProxy(valkey.socket) as one, FaultProxy(valkey.socket) as other:
            servers = [
                ServerProcess(database, tmp_path / f"{proxy.port}.log", REDIS_URL=f"redis://127.0.0.1:{proxy.port}")
                for proxy in (one, other)
            ]
            try:
                await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
                one.delay = 0.003
                yield Scene(database, valkey, servers, [one, other])
            finally:
                # Beside the loop, which has to pass on what they say to Valkey at their end.
                await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))


@pytest.mark.timeout(600)
async def test_no_read_is_behind_by_more_than_is_promised(scene: Scene) -> None:
    await scene.run(500, enough=lambda: scene.everything_happened)
    assert scene.everything_happened, scene
    assert scene.history.count > 200
    assert scene.history.writes > 10
    assert scene.history.worst() <= PROMISE, scene


async def test_a_cache_that_is_told_of_nothing_is_found_out(scene: Scene, database: Database) -> None:
    """The check itself: what keeps the cache from being out of date is taken away, and it says so."""
    for trigger in ("cids_note_added", "cids_note_removed", "cids_note_updated"):
        execute(database, f"ALTER TABLE vsync.cids DISABLE TRIGGER {trigger}")
    history = scene.history
    await scene.run(60, troubled=False, enough=lambda: history.worst_so_far() > PROMISE)
    assert history.worst() > PROMISE


@pytest.mark.soak
async def test_no_read_is_behind_for_a_long_time(scene: Scene) -> None:
    await scene.run(300)
    assert scene.everything_happened, scene
    assert scene.history.worst() <= PROMISE, scene
