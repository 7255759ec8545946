"""Redis fails over, with Sentinel and in a cluster: calls stay right, and the cache comes back on the new master."""

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
from vsyncd.observability.metrics import CACHE

from tests.harness.cids import ISPB, Stub, a_record, a_request_id, create
from tests.harness.clusters import Database
from tests.harness.reads import Register, Step
from tests.harness.valkey import ValkeyServer, free_port
from tests.integration.cache.instances import believed
from tests.resilience.conftest import cids_of, settings_of

pytestmark = pytest.mark.soak

# Seconds: that of docs/cache.md; and what an election may take on a machine that is busy.
PROMISE = 5.0
ELECTION = 60.0
SLOTS = (range(5_461), range(5_461, 10_923), range(10_923, 16_384))


class Group:
    """Servers that elect a master. `master` asks those that live for the port of the one that has our keys."""

    def __init__(self, url: str, servers: list[ValkeyServer], master: Callable[[], int]) -> None:
        self.url = url
        self._servers = servers
        self._ask = master

    def master(self) -> ValkeyServer | None:
        """None while nobody knows, or it does not live."""
        with contextlib.suppress(RedisError, OSError):
            port = self._ask()
            return next((each for each in self._servers if each.port == port and each.running), None)
        return None

    async def fail_over(self) -> tuple[ValkeyServer, ValkeyServer]:
        """Kill the master, and wait for the next one; both."""
        old = self.master()
        assert old is not None
        old.stop()
        await _when(lambda: self.master() is not None)
        new = self.master()
        assert new is not None
        return old, new


@contextlib.asynccontextmanager
async def sentinel(folder: Path) -> AsyncIterator[Group]:
    """A master, a replica, and a sentinel that needs nobody's vote."""
    master, replica, watcher = ValkeyServer(folder), ValkeyServer(folder), ValkeyServer(folder)
    config = folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor ours 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds ours 500\n"
        "sentinel failover-timeout ours 2000\n"
    )
    try:
        master.start()
        replica.start("--replicaof", "127.0.0.1", str(master.port))
        watcher.start_sentinel(config)
        with watcher.client() as asking:
            await _when(lambda: asking.sentinel_master("ours")["num-slaves"] == 1)
            url = f"redis+sentinel://127.0.0.1:{watcher.port}/ours"
            servers = [master, replica]
            yield Group(url, servers, lambda: int(asking.sentinel_get_master_addr_by_name("ours")[1]))
    finally:
        for server in (master, replica, watcher):
            server.stop()


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Group]:
    """Three masters, and a replica of the one that has our keys."""
    servers, buses = [], []
    for number in range(4):
        buses.append(free_port())
        settings = {"cluster_enabled": "yes", "cluster_port": str(buses[-1]), "cluster_node_timeout": "1000"}
        servers.append(ValkeyServer(folder, cluster_config_file=f"nodes-{number}.conf", **settings))
    try:
        for server in servers:
            server.start()
        for server, slots in zip(servers, SLOTS, strict=False):
            _ask(server, "CLUSTER ADDSLOTSRANGE", slots.start, slots.stop - 1)
        for server, bus in zip(servers[1:], buses[1:], strict=True):
            _ask(servers[0], "CLUSTER MEET", "127.0.0.1", server.port, bus)
        slot = int(_ask(servers[0], "CLUSTER KEYSLOT", "{vsync}:feed"))
        owner = next(server for server, slots in zip(servers, SLOTS, strict=False) if slot in slots)
        identity = _ask(owner, "CLUSTER MYID")
        await _when(lambda: _ask(servers[3], "CLUSTER REPLICATE", identity) is not None)
        await _when(lambda: _ask(servers[3], "INFO", "replication")["master_link_status"] == "up")

        def master() -> int:
            """As all who live have it."""
            owners = {_owner(server, slot) for server in servers if server.running}
            return owners.pop() if len(owners) == 1 else 0

        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        group = Group(f"redis+cluster://{hosts}", servers, master)
        await _when(lambda: group.master() is owner)
        yield group
    finally:
        for server in servers:
            server.stop()


def _ask(server: ValkeyServer, *command: str | int) -> Any:
    with server.client(decode_responses=True) as client:
        return client.execute_command(*command)


def _owner(server: ValkeyServer, slot: int) -> int:
    """The port of the one that has a slot, as a server has it; 0 when it knows of none that serves."""
    if _ask(server, "CLUSTER INFO")["cluster_state"] != "ok":
        return 0
    ranges = _ask(server, "CLUSTER SLOTS")  # each: first, last, the master, replicas
    return next((int(master[1]) for first, last, master, *_ in ranges if first <= slot <= last), 0)


async def _when(condition: Callable[[], object]) -> None:
    """Ask again and again until it holds; who does not answer yet is asked again."""
    async with asyncio.timeout(ELECTION):
        while True:
            with contextlib.suppress(RedisError):
                if condition():
                    return
            await asyncio.sleep(0.05)


class Traffic:
    """A record that is changed and read all the time, and what was read of it."""

    def __init__(self, cids: Stub) -> None:
        self._cids = cids
        self.register = Register()
        self._over = False

    async def read(self) -> None:
        """No read fails, whatever happens to Redis."""
        request = pb.GetCidRequest(key=pb.CidKey(key_value=a_record(1).key_value, ispb=ISPB))
        while not self._over:
            begun = time.monotonic()
            record = (await self._cids.GetCid(request)).record
            self.register.reads.append(Step(int(record.account_number), begun, time.monotonic()))
            await asyncio.sleep(0.01)

    async def write(self) -> None:
        """Then and when, so that there is something to be behind by."""
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
            begun = time.monotonic()
            await self._cids.UpdateCid(update)
            self.register.writes.append(Step(version, begun, time.monotonic()))
            await asyncio.sleep(0.3)

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """For as long as the block lasts."""
        await create(self._cids, [1])
        self.register.writes.append(Step(1, 0.0, time.monotonic()))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.read())
            group.create_task(self.write())
            try:
                yield
            finally:
                self._over = True


@pytest.mark.parametrize("place", [sentinel, cluster])
async def test_calls_stay_right_and_the_cache_comes_back_on_the_new_master(
    place: Callable[[Path], contextlib.AbstractAsyncContextManager[Group]], database: Database, tmp_path: Path
) -> None:
    async with place(tmp_path) as group:
        settings = settings_of(database.service_url, redis_url=group.url, redis_breaker_reset=0.3)
        async with Application(settings) as application, cids_of(application) as cids:
            await believed(application)
            traffic = Traffic(cids)
            async with traffic.flowing():
                await _hits()
                old, new = await group.fail_over()
                await _in_use(application)
                await _hits()
                with new.client() as client:
                    assert client.keys("*:feed:*")
                # The old one comes back and obeys the new one.
                old.start()
                await _when(lambda: _ask(old, "INFO", "replication")["role"] == "slave")
                await _in_use(application)
                await _hits()
            assert max(map(traffic.register.lag, traffic.register.reads)) <= PROMISE


async def _in_use(application: Application) -> None:
    cache = application.cache
    assert cache is not None
    await _when(lambda: cache.follower.current and cache.breaker.closed)


async def _hits() -> None:
    """Wait until reads are answered from the cache."""
    before = CACHE.lookup_count("key", "hit")
    await _when(lambda: CACHE.lookup_count("key", "hit") > before + 5)
