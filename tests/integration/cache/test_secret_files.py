"""Secrets of the cache that change while the server runs."""

import base64
from functools import partial
from pathlib import Path

import pytest
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.observability.metrics import CACHE_LOOKUPS, REGISTRY

from tests.harness.cids import cid_of, create, until
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import instance, invalidated, looked_up

pytestmark = pytest.mark.usefixtures("unhurried")

FIRST, SECOND = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def put_account(valkey: ValkeyServer, password: str) -> None:
    """Sets the only password of the user `vsync`, and closes its connections."""
    with valkey.client() as client:
        commands = ("RESET", "ON", f">{password}", "~*", "&*", "+@all")
        client.execute_command("ACL", "SETUSER", "vsync", *commands)
        client.execute_command("CLIENT", "KILL", "USER", "vsync")


async def read_again(application: Application) -> None:
    """Makes the application read its files, and waits until it has used a new version."""
    labels = {"setting": "CACHE_ENCRYPTION_KEY_FILE", "result": "succeeded"}

    def reloads() -> float:
        return REGISTRY.get_sample_value("vsyncd_reloads_total", labels) or 0

    before = reloads()
    application.reload()
    await until(lambda: reloads() > before)


async def test_the_password_of_redis_and_the_encryption_key_change_without_a_restart(
    settings: Settings, valkey: ValkeyServer, tmp_path: Path
) -> None:
    url, keys = tmp_path / "url", tmp_path / "keys"
    put_account(valkey, "one")
    address = f"127.0.0.1:{valkey.port}"
    url.write_text(f"redis://vsync:one@{address}\n")
    keys.write_text(f"{FIRST}\n")
    files = {"redis_url": None, "redis_url_file": str(url), "cache_encryption_key_file": str(keys)}
    async with instance(settings, **files) as (application, cids):
        await create(cids, [1])
        await invalidated(application)
        read = partial(cids.GetCid, pb.GetCidRequest(cid=cid_of(1)))
        await looked_up("hit", read)

        url.write_text(f"redis://vsync:two@{address}\n")
        put_account(valkey, "two")
        await looked_up("hit", read)

        for content, result in ((f"{SECOND},{FIRST}", "hit"), (SECOND, "miss"), (f"{FIRST},{SECOND}", "hit")):
            before = CACHE_LOOKUPS.value("cid", "miss")
            keys.write_text(content)
            await read_again(application)
            await looked_up(result, read)
            assert CACHE_LOOKUPS.value("cid", "miss") - before == (result == "miss")
            await looked_up("hit", read)
