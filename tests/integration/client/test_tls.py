"""The client over TLS: it trusts whom it is told to, and its certificate's name is the actor in the audit trail."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
import trustme
import vsync
from vsync.sample import entries
from vsync.v1 import audit_pb2, cid_pb2, server_pb2
from vsyncd.app import Application
from vsyncd.config import Settings

from tests.harness.processes import SCRIPTS


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """A folder with the certificates of an authority, a server, a client, and a stranger."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    for name, issued in {
        "server": authority.issue_cert("vsyncd.test"),
        "worker-7": authority.issue_cert("worker-7.vsyncd.test", common_name="worker-7"),
    }.items():
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    return tmp_path


@pytest.fixture
def tls_settings(settings: Settings, pems: Path) -> Settings:
    """Mutual TLS."""
    return settings.model_copy(
        update={
            "tls_cert_file": pems / "server.pem",
            "tls_key_file": pems / "server.key",
            "tls_client_ca_file": pems / "authority.pem",
        }
    )


async def test_a_certificates_name_is_the_actor(tls_settings: Settings, pems: Path) -> None:
    (record,) = entries(1)
    tls = vsync.Tls(
        ca=pems / "authority.pem",
        certificate=pems / "worker-7.pem",
        key=(pems / "worker-7.key").read_bytes(),
        server_name="vsyncd.test",
    )
    async with (
        Application(tls_settings) as application,
        vsync.connect(f"127.0.0.1:{application.port}", tls=tls) as client,
    ):
        await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=record))
        logs = (await client.audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(cid=record.cid))).logs
    assert [log.actor for log in logs] == ["worker-7"]


async def test_a_server_that_is_not_trusted_is_not_spoken_with(tls_settings: Settings, pems: Path) -> None:
    async with Application(tls_settings) as application:
        target = f"127.0.0.1:{application.port}"
        for tls in (vsync.Tls(ca=pems / "stranger.pem", server_name="vsyncd.test"), None):
            async with vsync.connect(target, tls=tls, timeout=2) as client:
                with pytest.raises((vsync.Unavailable, vsync.DeadlineExceeded)):
                    await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())


async def test_the_command_over_tls(tls_settings: Settings, pems: Path) -> None:
    async with Application(tls_settings) as application:
        process = await asyncio.create_subprocess_exec(
            *(str(SCRIPTS / "vsync"), "health", "--json", "--target", f"127.0.0.1:{application.port}"),
            *("--tls-ca", "authority.pem", "--tls-cert", "worker-7.pem", "--tls-key", "worker-7.key"),
            *("--tls-server-name", "vsyncd.test"),
            cwd=pems,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out)["status"] == "HEALTHY"
