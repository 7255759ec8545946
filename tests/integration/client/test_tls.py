"""The client over TLS: the servers that it trusts, and its principal in the audit trail and in request ids."""

import asyncio
import json
import subprocess
import uuid
from pathlib import Path

import grpc
import pytest
import trustme
import vsync
from cryptography import x509
from vsync.sample import entries
from vsync.v1 import audit_pb2, cid_pb2, server_pb2
from vsyncd.app import Application
from vsyncd.config import Settings

from tests.harness.access import ROLES, key_of, key_settings, write_policy
from tests.harness.processes import SCRIPTS
from tests.harness.tls import Authority


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
    """The settings for mutual TLS. Every caller may call every method."""
    write_policy(pems / "authz.yaml", dict.fromkeys(("dns:*", "spiffe://*"), ROLES))
    return settings.model_copy(
        update={
            "tls_cert_file": pems / "server.pem",
            "tls_key_file": pems / "server.key",
            "tls_client_ca_file": pems / "authority.pem",
            "authn_methods": "mtls",
            "authz_file": pems / "authz.yaml",
        }
    )


def tls_of(pems: Path, name: str) -> vsync.Tls:
    """The certificate of this client."""
    return vsync.Tls(
        ca=pems / "authority.pem",
        certificate=pems / f"{name}.pem",
        key=(pems / f"{name}.key").read_bytes(),
        server_name="vsyncd.test",
    )


@pytest.fixture
def principals(tls_settings: Settings, pems: Path) -> Settings:
    """Mutual TLS with an authority of which `a`, `b` and `renewed`, the successor of `a`, have no subject but a SPIFFE
    ID, and `nameless` has neither."""
    authority = Authority()
    authority.write_to(pems, "clients")
    ids = {"a": "a", "b": "b", "renewed": "a", "nameless": None}
    for name, principal in ids.items():
        names = [x509.UniformResourceIdentifier(f"spiffe://bank.test/{principal}")] if principal else []
        authority.issue(x509.Name([]), names).write_to(pems, name)
    return tls_settings.model_copy(update={"tls_client_ca_file": pems / "clients.pem"})


async def test_the_principal_of_the_certificate_is_the_actor(tls_settings: Settings, pems: Path) -> None:
    (record,) = entries(1)
    async with (
        Application(tls_settings) as application,
        vsync.connect(f"127.0.0.1:{application.port}", tls=tls_of(pems, "worker-7")) as client,
    ):
        await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=record))
        logs = (await client.audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(cid=record.cid))).logs
    assert [log.actor for log in logs] == ["dns:worker-7.vsyncd.test"]


async def test_callers_without_a_common_name_do_not_share_request_ids(principals: Settings, pems: Path) -> None:
    records = list(entries(2))
    request_id = str(uuid.uuid4())
    created = {}
    async with Application(principals) as application:
        for name, record in (("a", records[0]), ("b", records[1]), ("renewed", records[0])):
            async with vsync.connect(f"127.0.0.1:{application.port}", tls=tls_of(pems, name)) as client:
                request = cid_pb2.CreateCidRequest(record=record, request_id=request_id)
                created[name] = (await client.cids.CreateCid(request)).record
                logs = (await client.audit.ListAuditLogs(audit_pb2.ListAuditLogsRequest(cid=record.cid))).logs
                actor = "a" if name == "renewed" else name
                assert [log.actor for log in logs] == [f"spiffe://bank.test/{actor}"]
    assert created["b"].cid == records[1].cid
    assert created["renewed"] == created["a"]


async def test_a_certificate_without_a_name_is_rejected(principals: Settings, pems: Path) -> None:
    async with (
        Application(principals) as application,
        vsync.connect(f"127.0.0.1:{application.port}", tls=tls_of(pems, "nameless")) as client,
    ):
        with pytest.raises(vsync.CallError) as refused:
            await client.cids.CreateCid(cid_pb2.CreateCidRequest(record=next(iter(entries(1)))))
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_an_untrusted_server_receives_no_call(tls_settings: Settings, pems: Path) -> None:
    async with Application(tls_settings) as application:
        target = f"127.0.0.1:{application.port}"
        for tls in (vsync.Tls(ca=pems / "stranger.pem", server_name="vsyncd.test"), None):
            async with vsync.connect(target, tls=tls, timeout=2) as client:
                with pytest.raises((vsync.UnavailableError, vsync.DeadlineExceededError)):
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


async def test_a_client_and_the_command_send_their_key(settings: Settings, tmp_path: Path) -> None:
    with_keys = settings.model_copy(update=key_settings(tmp_path, {"a": ["reader"], "b": ["writer"]}))
    path = tmp_path / "token"
    path.write_text(key_of("a"))
    count = cid_pb2.CountCidsRequest(ispb="10203040")
    async with Application(with_keys) as application:
        target = f"127.0.0.1:{application.port}"
        async with vsync.connect(target) as anonymous, vsync.connect(target, token_file=path) as client:
            with pytest.raises(vsync.UnauthenticatedError, match="CREDENTIALS_MISSING"):
                await anonymous.cids.CountCids(count)
            await client.cids.CountCids(count)
            path.write_text(key_of("b") + "\n")
            with pytest.raises(vsync.PermissionDeniedError, match="METHOD_DENIED"):
                await client.cids.CountCids(count)
        async with vsync.connect(target, token=key_of("a")) as client:
            await client.cids.CountCids(count)
        command = [str(SCRIPTS / "vsync"), "get", "--cid", "0" * 64, "--target", target, "--token-file", str(path)]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        _, error = await process.communicate()
        assert b"METHOD_DENIED" in error
