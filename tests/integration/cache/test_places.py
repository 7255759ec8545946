"""Every kind of REDIS_URL, each with a real server."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings
from vsyncd.observability.metrics import CACHE_LOOKUPS

from tests.harness.cids import cid_of, create, until
from tests.harness.clusters import Database
from tests.harness.logs import captured_logs
from tests.harness.ports import free_port
from tests.harness.tls import TlsFront, certificate_for
from tests.harness.valkey import ValkeyServer, valkey_server
from tests.integration.cache.instances import eventually, instance, invalidated


@contextlib.asynccontextmanager
async def password(folder: Path) -> AsyncIterator[str]:
    with valkey_server(folder) as server, server.client() as client:
        client.config_set("requirepass", "hush")
        yield f"redis://:hush@127.0.0.1:{server.port}/3"


@contextlib.asynccontextmanager
async def tls(folder: Path) -> AsyncIterator[str]:
    """The wheel's Valkey lacks TLS, so a proxy in front of it terminates TLS."""
    certificate = certificate_for(IPv4Address("127.0.0.1"), folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with valkey_server(folder) as server:
        async with TlsFront(server.socket, context) as front:
            yield f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={certificate}"


@contextlib.asynccontextmanager
async def socket(folder: Path) -> AsyncIterator[str]:
    with valkey_server(folder) as server:
        yield f"unix://{server.socket}"


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[str]:
    """A cluster of one node with every slot."""
    with (
        valkey_server(folder, cluster_enabled="yes", cluster_port=str(free_port())) as server,
        server.client() as client,
    ):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield f"redis+cluster://127.0.0.1:{server.port}"


@contextlib.asynccontextmanager
async def sentinel(folder: Path) -> AsyncIterator[str]:
    with valkey_server(folder) as server:
        config = folder / "sentinel.conf"
        config.write_text(f"sentinel monitor ours 127.0.0.1 {server.port} 1\n")
        watcher = ValkeyServer(folder)
        watcher.start_sentinel(config)
        try:
            yield f"redis+sentinel://127.0.0.1:{watcher.port}/ours"
        finally:
            watcher.stop()


@pytest.mark.parametrize("server", [password, tls, socket, cluster, sentinel])
async def test_records_are_cached_and_health_is_shared(
    server: Callable[[Path], contextlib.AbstractAsyncContextManager[str]], database: Database, tmp_path: Path
) -> None:
    given: dict[str, str] = {"database_url": database.service_url, "grpc_listen": "127.0.0.1:0"}
    async with server(tmp_path) as url:
        settings = load_settings(
            **given,
            http_listen="127.0.0.1:0",
            db_auto_migrate=False,
            db_connect_timeout=20,
            db_acquire_timeout=20,
            db_ping_timeout=20,
            health_check_timeout=10,
            shutdown_grace=1,
            redis_url=url,
        )
        async with instance(settings) as (first, cids), instance(settings) as (second, _):
            await create(cids, [1])
            await invalidated(first, second)
            hits = CACHE_LOOKUPS.value("cid", "hit")

            async def hit() -> bool:
                await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))
                return CACHE_LOOKUPS.value("cid", "hit") > hits

            await eventually(hit)
            sharing = first._health.sharing
            assert sharing is not None
            await until(lambda: sharing.instances == 2)
            report = {each.name: each for each in await first._health.monitor._registry.observe(force=True)}
            assert report["redis-cache"].status.name == "HEALTHY"


@pytest.mark.parametrize(
    ("url", "key", "warning"),
    [
        ("redis://redis.invalid", None, "records are sent to Redis unencrypted over the network"),
        ("rediss://redis.invalid", None, "records are stored in Redis unencrypted"),
        ("redis://redis.invalid", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", ""),
    ],
)
async def test_the_start_warns_if_another_machine_gets_records_unencrypted(
    settings: Settings, url: str, key: str | None, warning: str
) -> None:
    given = settings.model_dump() | {"redis_url": url, "cache_encryption_key": key}
    with captured_logs() as lines:
        async with Application(load_settings(**given)):
            pass
    found = [line["event"] for line in lines.events if str(line["event"]).startswith("records are ")]
    assert found == ([warning] if warning else [])
