"""Callers with certificates and with keys, their roles, and files that change while the server runs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.protobuf import descriptor_pool
from vsync.health.v1 import health_pb2, health_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import ConfigError, Settings
from vsyncd.observability.metrics import REGISTRY

from tests.harness.access import bearer, key_of, outcome, write_keys, write_policy
from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.tls import Authority

GET_CID = descriptor_pool.Default().FindMethodByName("vsync.v1.CidService.GetCid")
CREATE_CID = descriptor_pool.Default().FindMethodByName("vsync.v1.CidService.CreateCid")
GET_LIVENESS = descriptor_pool.Default().FindMethodByName("vsync.health.v1.Health.GetLiveness")
PERMITTED = grpc.StatusCode.INVALID_ARGUMENT  # the requests are empty
Connect = Callable[..., AbstractAsyncContextManager[grpc.aio.Channel]]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def pems(tmp_path: Path, authority: Authority) -> Path:
    """A folder with the certificates of a server, of the callers `reader` and `stranger`, and the other files."""
    authority.write_to(tmp_path, "authority")
    Authority().issue(x509.Name([]), [x509.DNSName("reader")]).write_to(tmp_path, "untrusted")
    authority.issue(x509.Name([]), [x509.DNSName("vsyncd.test")]).write_to(tmp_path, "server")
    for name in ("reader", "stranger"):
        authority.issue(x509.Name([]), [x509.DNSName(name)]).write_to(tmp_path, name)
    write_keys(tmp_path / "keys.yaml", ["writer", "operator"])
    roles = {"dns:reader": ["reader"], "key:writer": ["writer"], "key:operator": ["operator"]}
    write_policy(tmp_path / "authz.yaml", roles)
    (tmp_path / "crl.pem").write_bytes(authority.revocations())
    return tmp_path


@pytest.fixture
def overrides(pems: Path) -> dict[str, Any]:
    return {
        "tls_cert_file": str(pems / "server.pem"),
        "tls_key_file": str(pems / "server.key"),
        "tls_client_ca_file": str(pems / "authority.pem"),
        "tls_crl_file": str(pems / "crl.pem"),
        "authn_methods": "mtls,key",
        "authn_keys_file": str(pems / "keys.yaml"),
        "authz_file": str(pems / "authz.yaml"),
        "grpc_token_listen": "127.0.0.1:0",
    }


@pytest.fixture
def connect(application: Application, pems: Path) -> Connect:
    """Connects with the certificate of a name, or to the listener for tokens."""

    @asynccontextmanager
    async def connected(name: str = "") -> AsyncIterator[grpc.aio.Channel]:
        own = (pems / f"{name}.key", pems / f"{name}.pem") if name else ()
        credentials = grpc.ssl_channel_credentials(
            (pems / "authority.pem").read_bytes(), *(path.read_bytes() for path in own)
        )
        options = (("grpc.ssl_target_name_override", "vsyncd.test"), ("grpc.use_local_subchannel_pool", 1))
        port = application.port if name else application.token_port
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            yield channel

    return connected


async def access_status(channel: grpc.aio.Channel) -> tuple[str, str]:
    """Returns the status and the message of access control in the health report."""
    stub = health_pb2_grpc.HealthStub(channel)
    report = await stub.GetHealth(health_pb2.HealthRequest(dependency_filter=["access-control"]))
    (found,) = report.dependencies
    return health_pb2.ServiceStatus.Name(found.status), found.message


async def test_callers_have_the_roles_of_their_certificate_or_key(
    connect: Connect, database: Database, application: Application
) -> None:
    async with connect("reader") as reader, connect("stranger") as stranger, connect() as tokens:
        assert await outcome(reader, GET_CID) is PERMITTED
        assert await outcome(reader, CREATE_CID) is grpc.StatusCode.PERMISSION_DENIED
        # On the listener for certificates a token changes nothing.
        assert await outcome(reader, CREATE_CID, bearer("writer")) is grpc.StatusCode.PERMISSION_DENIED
        assert await outcome(stranger, GET_CID) is grpc.StatusCode.PERMISSION_DENIED
        assert await outcome(tokens, CREATE_CID, bearer("writer")) is PERMITTED
        assert await outcome(tokens, GET_CID, bearer("writer")) is grpc.StatusCode.PERMISSION_DENIED
        for header in ("", "Basic d3JpdGVy", "Bearer ", f"Bearer {key_of('impostor')}"):
            metadata = [("authorization", header)] if header else []
            assert await outcome(tokens, GET_CID, metadata) is grpc.StatusCode.UNAUTHENTICATED
        assert await outcome(tokens, GET_LIVENESS) is grpc.StatusCode.OK
        assert await access_status(tokens) == ("HEALTHY", "enforced")
    async with connect("untrusted") as channel:
        assert await outcome(channel, GET_LIVENESS) is grpc.StatusCode.UNAVAILABLE
    await application.stop()
    denied = "SELECT recorded_by, resource, payload FROM vsync.audit_logs WHERE action = 'vsync.access/METHOD_DENIED'"
    recorded: dict[tuple[str, str], int] = {}
    for row in rows(database, denied):
        key = (row["recorded_by"], row["resource"])
        recorded[key] = recorded.get(key, 0) + row["payload"]["count"]
    assert recorded == {
        ("dns:reader", "vsync.v1.CidService/CreateCid"): 2,
        ("dns:stranger", "vsync.v1.CidService/GetCid"): 1,
        ("key:writer", "vsync.v1.CidService/GetCid"): 1,
    }


async def is_degraded(channel: grpc.aio.Channel, problem: str) -> bool:
    status, message = await access_status(channel)
    return status == "DEGRADED" and problem in message


async def becomes(check: Callable[[], Any], expected: object) -> None:
    """Waits until a check has the expected result."""
    async with asyncio.timeout(60):
        while await check() != expected:  # noqa: ASYNC110  the server sends no event
            await asyncio.sleep(0.02)


async def test_only_operators_see_hosts_and_versions_in_health(
    connect: Connect, application: Application, pems: Path
) -> None:
    async def configs(channel: grpc.aio.Channel, metadata: Any = ()) -> list[health_pb2.DependencyConfig]:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthRequest(include_details=True)
        watched: Any = stub.WatchHealth(request, metadata=metadata, timeout=60)
        reports = (await stub.GetHealth(request, metadata=metadata), await watched.read())
        watched.cancel()
        assert all(report.dependencies for report in reports)
        return [each.config for report in reports for each in report.dependencies if each.HasField("config")]

    async with connect("reader") as reader, connect() as tokens:
        assert await configs(tokens, bearer("operator"))
        for metadata in ((), bearer("writer"), bearer("impostor")):
            assert await configs(tokens, metadata) == []
        assert await configs(reader) == []
        write_policy(pems / "authz.yaml", {"dns:reader": ["operator"]})
        application.reload()

        async def is_shown() -> bool:
            return bool(await configs(reader))

        await becomes(is_shown, True)


async def test_files_are_used_when_they_change(
    connect: Connect, application: Application, pems: Path, authority: Authority
) -> None:
    async with connect("reader") as reader, connect() as tokens:
        assert await outcome(reader, GET_CID) is PERMITTED
        write_policy(pems / "authz.yaml", {"dns:reader": ["writer"], "key:writer": ["reader"]})
        application.reload()
        await becomes(lambda: outcome(reader, CREATE_CID), PERMITTED)
        assert await outcome(tokens, GET_CID, bearer("writer")) is PERMITTED

        write_keys(pems / "keys.yaml", ["other"])
        application.reload()
        await becomes(lambda: outcome(tokens, GET_CID, bearer("writer")), grpc.StatusCode.UNAUTHENTICATED)

        certificate = x509.load_pem_x509_certificate((pems / "reader.pem").read_bytes())
        (pems / "crl.pem").write_bytes(authority.revocations(certificate))
        application.reload()
        await becomes(lambda: outcome(reader, CREATE_CID), grpc.StatusCode.UNAUTHENTICATED)
        async with connect("stranger") as stranger:
            assert await outcome(stranger, GET_CID) is grpc.StatusCode.PERMISSION_DENIED


async def test_new_handshakes_use_the_new_certificate_and_open_connections_continue(
    connect: Connect, application: Application, pems: Path
) -> None:
    async with connect("reader") as before:
        assert await outcome(before, GET_CID) is PERMITTED
        successor = Authority()
        successor.issue(x509.Name([]), [x509.DNSName("vsyncd.test")], expires_in=timedelta(hours=9)).write_to(
            pems, "server"
        )
        successor.write_to(pems, "authority")
        successor.issue(x509.Name([]), [x509.DNSName("reader")]).write_to(pems, "renewed")
        (pems / "crl.pem").write_bytes(successor.revocations())
        application.reload()

        async def renewed() -> grpc.StatusCode:
            async with connect("renewed") as channel:
                return await outcome(channel, GET_CID)

        await becomes(renewed, PERMITTED)
        assert await outcome(before, GET_CID) is PERMITTED
    expiry = REGISTRY.get_sample_value("vsyncd_tls_certificate_expiry_timestamp_seconds")
    assert expiry is not None
    assert expiry > datetime.now(UTC).timestamp() + 8 * 3600


async def test_an_invalid_version_leaves_the_previous_one_in_force(
    connect: Connect, application: Application, pems: Path
) -> None:
    good = {name: (pems / name).read_bytes() for name in ("authz.yaml", "keys.yaml", "server.key", "crl.pem")}
    bad = {
        "authz.yaml": (b"principals: [{principal: 'dns:reader', roles: [x], ispbs: '*'}]", "AUTHZ_FILE: principals[0]"),
        "keys.yaml": (b"keys: 1", "AUTHN_KEYS_FILE: keys"),
        "server.key": (b"no key", "TLS_KEY_FILE: "),
        "crl.pem": (Authority().revocations(), "TLS_CRL_FILE: list 1 is not signed"),
    }
    async with connect("reader") as reader, connect() as tokens:
        for name, (contents, problem) in bad.items():
            (pems / name).write_bytes(contents)
            application.reload()
            await becomes(partial(is_degraded, tokens, problem), expected=True)
            setting = problem.partition(":")[0].replace("TLS_KEY_FILE", "TLS_CERT_FILE")
            assert REGISTRY.get_sample_value("vsyncd_reload_invalid", {"setting": setting}) == 1
            assert await outcome(reader, GET_CID) is PERMITTED
            assert await outcome(tokens, CREATE_CID, bearer("writer")) is PERMITTED
            (pems / name).write_bytes(good[name])
            application.reload()
            await becomes(lambda: access_status(tokens), ("HEALTHY", "enforced"))
            assert REGISTRY.get_sample_value("vsyncd_reload_invalid", {"setting": setting}) == 0


async def test_an_expired_server_certificate_and_an_outdated_list_show_in_health(
    settings: Settings, pems: Path, authority: Authority
) -> None:
    name, expired = [x509.DNSName("vsyncd.test")], timedelta(hours=-1)
    authority.issue(x509.Name([]), name, expires_in=expired).write_to(pems, "server")
    (pems / "crl.pem").write_bytes(authority.revocations(next_update_in=expired))
    application = Application(settings)
    warnings = application.access.warnings()
    assert warnings == ["TLS_CERT_FILE: the certificate has expired", "TLS_CRL_FILE: a list is out of date"]


async def test_an_invalid_file_stops_the_start(settings: Settings, pems: Path) -> None:
    entry = {"principal": "dns:a", "roles": ["reader"], "ispbs": ["1"]}
    (pems / "authz.yaml").write_text(json.dumps({"principals": [entry]}))
    with pytest.raises(ConfigError, match=r"^AUTHZ_FILE: principals\[0\]: ispbs: '1' is not an ISPB"):
        Application(settings)
