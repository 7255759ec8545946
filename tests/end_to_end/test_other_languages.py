"""The clients in clients/ call vsyncd with certificates and keys and decode its errors.

Go, Maven and npm download packages. A test is skipped if the programs of its language are missing.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scripts.descriptor_set import descriptor_set
from tests.harness.access import key_of
from tests.harness.clusters import Database
from tests.harness.processes import SCRIPTS
from tests.harness.secure_server import OWN_ISPB, SERVER_NAME, SecureServer, secure_server

ROOT = Path(__file__).parents[2]
OTHER_ISPB = "20000001"
GENERATED = ("vsync", "target", "node_modules", "*.protoset")

pytestmark = pytest.mark.soak


@dataclass(frozen=True)
class Language:
    """How to build and run the client of a language, in its folder."""

    needs: Sequence[str]
    build: Sequence[str]
    run: Sequence[str]


LANGUAGES: Mapping[str, Language] = {
    "go": Language(["go"], ["go generate", "go vet", "go build -o client"], ["./client"]),
    "java": Language(
        ["java", "mvn"],
        ["mvn --quiet --batch-mode package"],
        ["java", "-cp", "target/client.jar:target/dependency/*", "client.Main"],
    ),
    "node": Language(["node", "npm"], ["npm ci --ignore-scripts --no-audit --no-fund"], ["node", "main.js"]),
}
Build = Callable[[str], Path]


def execute(command: Sequence[str], folder: Path, path: Path = SCRIPTS) -> None:
    """Runs a command whose plugins are in the folder `path`."""
    environment = os.environ | {"PATH": os.pathsep.join([str(path), str(SCRIPTS), os.environ["PATH"]])}
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a language's client as its page in docs/ says, in a copy of the source tree. Returns its folder."""
    built: dict[str, Path] = {}

    def build_once(name: str) -> Path:
        language = LANGUAGES[name]
        for program in language.needs:
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed, or not on the PATH")
        if name not in built:
            tree = tmp_path_factory.mktemp(name)
            shutil.copytree(ROOT / "clients", tree / "clients", ignore=shutil.ignore_patterns(*GENERATED))
            shutil.copytree(ROOT / "protos", tree / "protos")
            for file in ("buf.yaml", "buf.gen.yaml"):
                shutil.copy(ROOT / file, tree)
            (tree / "clients/node/vsyncd.protoset").write_bytes(descriptor_set())
            for command in language.build:
                execute(command.split(), tree / "clients" / name)
            built[name] = tree / "clients" / name
        return built[name]

    return build_once


class Caller:
    """Runs a client with the credentials of a caller."""

    def __init__(self, command: Sequence[str], folder: Path, server: SecureServer) -> None:
        self._command = command
        self._folder = folder
        self._server = server

    def with_certificate(self, name: str, ispb: str = OTHER_ISPB, phone: str = "+5511987654321") -> list[str]:
        """Returns the lines that the client prints. Without a name it sends no certificate."""
        file = self._server.folder / name
        own = {"VSYNC_TLS_CERT": f"{file}.pem", "VSYNC_TLS_KEY": f"{file}.key"} if name else {}
        return self._run(self._server.target, own, ispb, phone)

    def with_key(self, name: str, ispb: str = OWN_ISPB, phone: str = "+5511987654322") -> list[str]:
        """Returns the lines that the client prints. Without a name it sends no key."""
        file = self._server.folder / "token"
        file.write_text(key_of(name))
        return self._run(self._server.token_target, {"VSYNC_TOKEN_FILE": str(file)} if name else {}, ispb, phone)

    def _run(self, target: str, credentials: dict[str, str], ispb: str, phone: str) -> list[str]:
        given = {"VSYNC_TARGET": target, "VSYNC_TLS_CA": str(self._server.folder / "authority.pem")}
        environment = os.environ | given | credentials | {"VSYNC_TLS_SERVER_NAME": SERVER_NAME}
        command = [*self._command, ispb, phone]
        ran = subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        # A failed call prints the error only.
        assert (ran.stdout == "") == bool(ran.returncode), ran.stdout + ran.stderr
        return (ran.stdout or ran.stderr).splitlines()


def assert_error(lines: list[str], code: str, *details: str) -> None:
    """Checks the code, which each language spells in its own way, and the beginnings of other lines."""
    assert code in lines[0].replace("_", "").upper(), lines
    assert [text for text in details if not any(line.startswith(text) for line in lines[1:])] == [], lines


def wait_until_ready(server: SecureServer) -> None:
    """Waits for readiness, which the clients' service config checks."""
    with grpc.insecure_channel(server.health_target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=60)
        assert any(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in watch)


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_client_processes_a_batch_and_decodes_errors(
    name: str, build: Build, database: Database, folder: Path
) -> None:
    program = build(name)
    with secure_server(database, folder) as server:
        wait_until_ready(server)
        caller = Caller(LANGUAGES[name].run, program, server)
        for processed in (caller.with_certificate("all"), caller.with_key("own")):
            assert processed[0].startswith("created "), processed
            assert processed[1:] == ["claimed 1 of 1", "SYNC_BATCH_STATUS_COMPLETED synced 1"]
        assert_error(caller.with_certificate("all"), "ALREADYEXISTS", "reason: CID_EXISTS", "metadata: existing_id=")
        bad = caller.with_certificate("all", ispb="1")
        assert_error(bad, "INVALIDARGUMENT", "reason: INVALID_FIELD", "field: record.ispb ")
        for denied in (caller.with_certificate("reader"), caller.with_key("reader")):
            assert_error(denied, "PERMISSIONDENIED", "reason: METHOD_DENIED")
        assert_error(caller.with_certificate("own"), "PERMISSIONDENIED", "reason: ISPB_DENIED")
        assert_error(caller.with_key(""), "UNAUTHENTICATED", "reason: CREDENTIALS_MISSING")
        assert_error(caller.with_key("impostor"), "UNAUTHENTICATED", "reason: CREDENTIALS_INVALID")
        # The handshake fails without a certificate.
        assert_error(caller.with_certificate(""), "UNAVAILABLE")


def test_buf_generates_the_stubs(build: Build, tmp_path: Path) -> None:
    go, java = build("go"), build("java")
    for package in ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc"):
        execute(["go", "build", "-o", str(tmp_path), package], go)
    for program in ("protoc-gen-grpc-java", "protoc"):
        (downloaded,) = (java / "target/protoc-plugins").glob(f"{program}-[0-9]*.exe")
        shutil.copy(downloaded, tmp_path / program)
    tree = go.parents[1]
    execute(["buf", "generate"], tree, path=tmp_path)
    assert (tree / "gen/go/vsync/v1/cid_grpc.pb.go").exists()
    assert {path.name for path in (tree / "gen/java/vsyncd/vsync/v1").glob("CidS*.java")} >= {"CidServiceGrpc.java"}
