"""Failovers of Redis, with Sentinel and in a cluster."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.observability.metrics import CACHE_LOOKUPS

from tests.harness.cids import ISPB, Stub, a_record, a_request_id, create
from tests.harness.clusters import Database
from tests.harness.histories import Operation, RecordHistory
from tests.harness.ports import free_port
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import cache_in_use
from tests.resilience.conftest import cids_of, settings_of

pytestmark = pytest.mark.soak

# The bound of docs/cache.md.
MAX_STALENESS_S = 5.0
# Generous, for a busy machine.
ELECTION_TIMEOUT_S = 60.0
SLOTS = (range(5_461), range(5_461, 10_923), range(10_923, 16_384))


class Group:
    """Servers that elect a master. `master` returns the port of the running server that has our keys."""

    def __init__(self, url: str, servers: list[ValkeyServer], master: Callable[[], int]) -> None:
        self.url = url
        self._servers = servers
        self._master_port = master

    def master(self) -> ValkeyServer | None:
        """Returns the master, or None if it is unknown or not running."""
        with contextlib.suppress(RedisError, OSError):
            port = self._master_port()
            return next((each for each in self._servers if each.port == port and each.running), None)
        return None

    async def fail_over(self) -> tuple[ValkeyServer, ValkeyServer]:
        """Kills the master and waits for the next one. Returns both."""
        old = self.master()
        assert old is not None
        old.stop()
        await _eventually(lambda: self.master() is not None)
        new = self.master()
        assert new is not None
        return old, new


@contextlib.asynccontextmanager
async def sentinel(folder: Path) -> AsyncIterator[Group]:
    """A master, a replica, and a sentinel with a quorum of one."""
    master, replica, sentinel_server = ValkeyServer(folder), ValkeyServer(folder), ValkeyServer(folder)
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor ours 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds ours 500\n"
        "sentinel failover-timeout ours 2000\n"
    )
    try:
        master.start()
        replica.start("--replicaof", "127.0.0.1", str(master.port))
        sentinel_server.start_sentinel(config)
        with sentinel_server.client() as client:
            await _eventually(lambda: client.sentinel_master("ours")["num-slaves"] == 1)
            url = f"redis+sentinel://127.0.0.1:{sentinel_server.port}/ours"
            servers = [master, replica]
            yield Group(url, servers, lambda: int(client.sentinel_get_master_addr_by_name("ours")[1]))
    finally:
        for server in (master, replica, sentinel_server):
            server.stop()


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Group]:
    """Three masters, and a replica of the master that has our keys."""
    servers, buses = [], []
    for number in range(4):
        buses.append(free_port())
        settings = {"cluster_enabled": "yes", "cluster_port": str(buses[-1]), "cluster_node_timeout": "1000"}
        servers.append(ValkeyServer(folder, cluster_config_file=f"nodes-{number}.conf", **settings))
    try:
        for server in servers:
            server.start()
        for server, slots in zip(servers, SLOTS, strict=False):
            _command(server, "CLUSTER ADDSLOTSRANGE", slots.start, slots.stop - 1)
        for server, bus in zip(servers[1:], buses[1:], strict=True):
            _command(servers[0], "CLUSTER MEET", "127.0.0.1", server.port, bus)
        slot = int(_command(servers[0], "CLUSTER KEYSLOT", "{vsync}:feed"))
        owner = next(server for server, slots in zip(servers, SLOTS, strict=False) if slot in slots)
        identity = _command(owner, "CLUSTER MYID")
        await _eventually(lambda: _command(servers[3], "CLUSTER REPLICATE", identity) is not None)
        await _eventually(lambda: _command(servers[3], "INFO", "replication")["master_link_status"] == "up")

        def master() -> int:
            """The owner of our keys, if all running servers agree."""
            owners = {_owner(server, slot) for server in servers if server.running}
            return owners.pop() if len(owners) == 1 else 0

        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        group = Group(f"redis+cluster://{hosts}", servers, master)
        await _eventually(lambda: group.master() is owner)
        yield group
    finally:
        for server in servers:
            server.stop()


def _command(server: ValkeyServer, *command: str | int) -> Any:
    with server.client(decode_responses=True) as client:
        return client.execute_command(*command)


def _owner(server: ValkeyServer, slot: int) -> int:
    """Returns the port of a slot's owner according to a server, or 0 if it knows of none."""
    if _command(server, "CLUSTER INFO")["cluster_state"] != "ok":
        return 0
    ranges = _command(server, "CLUSTER SLOTS")  # each: first, last, master, replicas
    return next((int(master[1]) for first, last, master, *_ in ranges if first <= slot <= last), 0)


async def _eventually(condition: Callable[[], object]) -> None:
    """Checks the condition repeatedly until it holds, also while servers do not answer."""
    async with asyncio.timeout(ELECTION_TIMEOUT_S):
        while True:
            with contextlib.suppress(RedisError):
                if condition():
                    return
            await asyncio.sleep(0.05)


class Traffic:
    """Changes and reads one record continuously, and records its history."""

    def __init__(self, cids: Stub) -> None:
        self._cids = cids
        self.history = RecordHistory()
        self._over = False

    async def read(self) -> None:
        """Reads continuously. No read fails."""
        request = pb.GetCidRequest(key=pb.CidKey(key_value=a_record(1).key_value, ispb=ISPB))
        while not self._over:
            started = time.monotonic()
            record = (await self._cids.GetCid(request)).record
            self.history.reads.append(Operation(int(record.account_number), started, time.monotonic()))
            await asyncio.sleep(0.01)

    async def write(self) -> None:
        """Changes the record about three times a second."""
        version = 1
        while not self._over:
            version += 1
            record = a_record(1, cid=sha256(b"%d" % version).hexdigest(), account_number=str(version))
            update = pb.UpdateCidRequest(
                key=pb.CidKey(key_value=record.key_value, ispb=ISPB),
                update=pb.CidUpdate(cid=record.cid, account_number=record.account_number),
                request_id=a_request_id(),
            )
            update.update_mask.paths.extend(("cid", "account_number"))
            started = time.monotonic()
            await self._cids.UpdateCid(update)
            self.history.writes.append(Operation(version, started, time.monotonic()))
            await asyncio.sleep(0.3)

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Reads and writes until the end of the block."""
        await create(self._cids, [1])
        self.history.writes.append(Operation(1, 0.0, time.monotonic()))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.read())
            group.create_task(self.write())
            try:
                yield
            finally:
                self._over = True


@pytest.mark.parametrize("servers", [sentinel, cluster])
async def test_no_call_fails_during_a_failover_and_the_cache_works_on_the_new_master(
    servers: Callable[[Path], contextlib.AbstractAsyncContextManager[Group]], database: Database, tmp_path: Path
) -> None:
    async with servers(tmp_path) as group:
        settings = settings_of(database.service_url, redis_url=group.url, redis_breaker_reset=0.3)
        async with Application(settings) as application, cids_of(application) as cids:
            await cache_in_use(application)
            traffic = Traffic(cids)
            async with traffic.flowing():
                await _hits()
                old, new = await group.fail_over()
                await _in_use(application)
                await _hits()
                with new.client() as client:
                    assert client.keys("*:feed:*")
                # The old master returns as a replica of the new one.
                old.start()
                await _eventually(lambda: _command(old, "INFO", "replication")["role"] == "slave")
                await _in_use(application)
                await _hits()
            assert max(map(traffic.history.staleness, traffic.history.reads)) <= MAX_STALENESS_S


async def _in_use(application: Application) -> None:
    cache = application.cache
    assert cache is not None
    await _eventually(lambda: cache.invalidator.is_current and cache.breaker.closed)


async def _hits() -> None:
    """Waits until reads are answered from the cache."""
    before = CACHE_LOOKUPS.value("key", "hit")
    await _eventually(lambda: CACHE_LOOKUPS.value("key", "hit") > before + 5)
