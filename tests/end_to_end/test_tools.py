"""Third-party tools for inspection, probes and load: grpcurl, grpc_health_probe and ghz.

`make soak` fails if a tool is missing. Other tests that use a tool are skipped then.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts.descriptor_set import descriptor_set
from tests.harness.clusters import Database
from tests.harness.processes import ServerProcess, server_process
from tests.harness.secure_server import SERVER_NAME, secure_server

pytestmark = pytest.mark.soak


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[ServerProcess]:
    """A ready server for this test only."""
    with server_process(database, tmp_path / "server.log") as server:
        with grpc.insecure_channel(server.target) as channel:
            wait_until_serving(channel)
        yield server


def wait_until_serving(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert any(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in watch)


def run(*names: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs the tool with one of these names."""
    program = next(filter(None, map(shutil.which, names)), None)
    assert program is not None, f"this test needs {names[0]} on the PATH"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_grpcurl_works_with_reflection(server: ServerProcess) -> None:
    listed = run("grpcurl", arguments=["-plaintext", server.target, "list"])
    assert "vsync.v1.CidService" in listed.stdout.split(), listed.stderr
    called = run("grpcurl", arguments=["-plaintext", "-d", "{}", server.target, "vsync.v1.ServerService/GetServerInfo"])
    assert json.loads(called.stdout)["info"]["version"]


def test_grpcurl_works_with_the_descriptor_set(database: Database, tmp_path: Path) -> None:
    protoset = tmp_path / "vsyncd.protoset"
    protoset.write_bytes(descriptor_set())
    with server_process(database, tmp_path / "server.log", GRPC_REFLECTION="false") as server:
        method = "vsync.v1.ServerService/GetServerInfo"
        assert run("grpcurl", arguments=["-plaintext", "-d", "{}", server.target, method]).returncode != 0
        called = run("grpcurl", arguments=["-protoset", str(protoset), "-plaintext", "-d", "{}", server.target, method])
    assert json.loads(called.stdout)["info"]["version"], called.stderr


def probe(target: str, *arguments: str) -> int:
    """Returns the exit code of grpc_health_probe: 0 serving, 2 not connected, 3 the call failed, 4 not serving."""
    # Released binaries have underscores in their name, `go install` creates hyphens.
    patient = [f"-addr={target}", "-connect-timeout=60s", "-rpc-timeout=60s"]
    return run("grpc_health_probe", "grpc-health-probe", arguments=[*patient, *arguments]).returncode


def test_grpc_health_probe_reports_liveness_and_readiness(server: ServerProcess) -> None:
    assert probe(server.target) == 0
    assert probe(server.target, "-service=liveness") == 0
    assert probe(server.target, "-service=nothing") == 3


def test_grpc_health_probe_works_on_every_listener(database: Database, folder: Path) -> None:
    tls = ["-tls", f"-tls-ca-cert={folder / 'authority.pem'}", f"-tls-server-name={SERVER_NAME}"]
    certificate = [f"-tls-client-cert={folder / 'stranger.pem'}", f"-tls-client-key={folder / 'stranger.key'}"]
    with secure_server(database, folder) as server:
        with grpc.secure_channel(server.token_target, server.credentials(), options=server.options) as channel:
            wait_until_serving(channel)
        # Health is public: a caller without roles may ask for it.
        assert probe(server.target, *tls, *certificate) == 0
        assert probe(server.token_target, *tls) == 0
        assert probe(server.health_target) == 0
        # Without a certificate or without TLS the handshake fails.
        few = "-connect-timeout=5s"
        assert probe(server.target, *tls, few) == 2
        assert probe(server.target, few) == 2
        assert probe(server.token_target, few) == 2
        # The listener for health serves nothing else.
        listed = run(
            "grpcurl",
            arguments=["-plaintext", "-d", "{}", server.health_target, "vsync.v1.ServerService/GetServerInfo"],
        )
        assert listed.returncode != 0


def test_ghz_causes_no_errors(server: ServerProcess) -> None:
    arguments = ["--insecure", "--call=vsync.v1.CidService/CountCids", "--data={}", "--total=2000", "--concurrency=50"]
    loaded = run("ghz", arguments=[*arguments, "--timeout=60s", "--format=json", server.target])
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)["statusCodeDistribution"] == {"OK": 2000}, loaded.stdout
