"""Whatever happens to Redis and to the instances: no read is behind by more than what is promised."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc

from tests.harness.cids import ISPB, Stub, a_record, a_request_id, execute
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.processes import ServerProcess
from tests.harness.reads import ABSENT, Reads, Step
from tests.harness.valkey import ValkeyServer, valkey_server

# Seconds: that of docs/cache.md.
PROMISE = 5.0
RECORDS = 20
_STRONG = (("x-consistency", "strong"),)


class Scene:
    """Two vsyncd over one database and one Valkey, each with a network of its own to it, and what happens to them."""

    def __init__(
        self, database: Database, valkey: ValkeyServer, servers: list[ServerProcess], proxies: list[FaultProxy]
    ) -> None:
        self.history = Reads()
        self.happened: dict[str, int] = {}
        self._database = database
        self._valkey = valkey
        self._servers = servers
        self._proxies = proxies
        self._channels = [grpc.aio.insecure_channel(server.target) for server in servers]
        self._stubs: list[Stub] = [cid_pb2_grpc.CidServiceStub(channel) for channel in self._channels]
        self._random = random.Random()  # noqa: S311  faults need no secrets
        self._version = ABSENT
        self._until = 0.0

    async def run(self, seconds: float, *, troubled: bool = True, enough: Callable[[], bool] = lambda: False) -> None:
        """Write, read, and, if `troubled`, have something happen, all at once; for so long, or until it is `enough`."""
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
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
        faults: list[Callable[[], Awaitable[None]]] = [
            self._restart_empty,
            self._freeze,
            self._go_back,
            self._empty,
            self._partition,
            self._cut,
            self._lose_the_feed,
            self._kill_an_instance,
        ]
        self._random.shuffle(faults)
        while not self._over:
            for fault in faults:
                await asyncio.sleep(self._random.uniform(0.2, 1.2))
                if self._over:
                    return
                await fault()
                self.happened[fault.__name__] = self.happened.get(fault.__name__, 0) + 1

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


async def test_no_read_is_behind_by_more_than_is_promised(scene: Scene) -> None:
    await scene.run(14)
    assert scene.history.count > 200
    assert scene.history.writes > 10
    assert scene.history.worst() <= PROMISE, scene.happened


async def test_a_cache_that_is_told_of_nothing_is_found_out(scene: Scene, database: Database) -> None:
    """The check itself: what keeps the cache from being out of date is taken away, and it says so."""
    for trigger in ("cids_note_added", "cids_note_removed", "cids_note_updated"):
        execute(database, f"ALTER TABLE vsync.cids DISABLE TRIGGER {trigger}")
    history = scene.history
    await scene.run(60, troubled=False, enough=lambda: history.count > 0 and history.worst() > PROMISE)
    assert history.worst() > PROMISE


@pytest.mark.soak
async def test_no_read_is_behind_for_a_long_time(scene: Scene) -> None:
    await scene.run(300)
    assert scene.history.worst() <= PROMISE, scene.happened
