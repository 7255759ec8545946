"""A service in Go calls vsyncd with a certificate and with a key: its stubs are generated from the protos."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson

from tests.harness.access import key_of
from tests.harness.cids import a_record, cid_of
from tests.harness.clusters import Database
from tests.harness.processes import SCRIPTS
from tests.harness.secure_server import OWN_ISPB, SERVER_NAME, SecureServer, secure_server

ROOT = Path(__file__).parents[2]
CREATED = {"code": "OK", "reason": "", "domain": "", "metadata": None, "fields": None}

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed, or `go` is not on the PATH"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled client. Go downloads its modules."""
    folder = tmp_path_factory.mktemp("grpc-go") / "client"
    shutil.copytree(ROOT / "tests" / "grpc_go", folder)
    for command in ([str(SCRIPTS / "buf"), "generate", str(ROOT)], ["go", "build", "-o", "client", "."]):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
        assert ran.returncode == 0, ran.stderr
    return folder / "client"


@pytest.fixture
def server(database: Database, folder: Path) -> Iterator[SecureServer]:
    with secure_server(database, folder) as server:
        yield server


class Caller:
    """Runs the client with the credentials of a caller."""

    def __init__(self, program: Path, server: SecureServer) -> None:
        self._program = program
        self._server = server

    def with_certificate(self, name: str, number: int, **changes: Any) -> list[dict[str, Any]]:
        """Returns the outcomes of CreateCid and GetCid of a record. Without a name no certificate is sent."""
        folder = self._server.folder
        own = [f"-cert={folder / name}.pem", f"-key={folder / name}.key"] if name else []
        return self._run(self._server.target, own, number, changes)

    def with_key(self, name: str, number: int, **changes: Any) -> list[dict[str, Any]]:
        """Returns the outcomes of CreateCid and GetCid of a record. Without a name no key is sent."""
        own = [f"-token={key_of(name)}"] if name else []
        return self._run(self._server.token_target, own, number, changes)

    def _run(self, target: str, credentials: list[str], number: int, changes: dict[str, Any]) -> list[dict[str, Any]]:
        record = MessageToJson(a_record(number, **{"ispb": OWN_ISPB, **changes}))
        command = [str(self._program), f"-target={target}", f"-server-name={SERVER_NAME}", f"-record={record}"]
        command += [f"-ca={self._server.folder / 'authority.pem'}", *credentials]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
        assert ran.returncode == 0, ran.stderr
        outcomes: list[dict[str, Any]] = json.loads(ran.stdout)
        return outcomes


def test_a_go_client_authenticates_and_decodes_errors(program: Path, server: SecureServer) -> None:
    caller = Caller(program, server)
    for number, created in ((1, caller.with_certificate("all", 1)), (2, caller.with_key("own", 2))):
        assert created == [{**CREATED, "cid": cid_of(number)}] * 2
    # The handshake fails without a certificate.
    assert [each["code"] for each in caller.with_certificate("", 3)] == ["Unavailable"] * 2
    for name, reason in (("", "CREDENTIALS_MISSING"), ("impostor", "CREDENTIALS_INVALID")):
        assert [(each["code"], each["reason"]) for each in caller.with_key(name, 3)] == [
            ("Unauthenticated", reason)
        ] * 2
    for create, get in (caller.with_certificate("reader", 1), caller.with_key("reader", 1)):
        assert (create["code"], create["reason"], create["domain"]) == ("PermissionDenied", "METHOD_DENIED", "vsyncd")
        assert get["cid"] == cid_of(1)
    foreign, _ = caller.with_certificate("own", 4, ispb="20000001")
    assert (foreign["code"], foreign["reason"]) == ("PermissionDenied", "ISPB_DENIED")
    conflict, _ = caller.with_certificate("all", 1, branch="0002")
    assert (conflict["code"], conflict["reason"]) == ("AlreadyExists", "CID_EXISTS")
    assert "existing_id" in conflict["metadata"]
    invalid, _ = caller.with_certificate("all", 5, ispb="1", branch="")
    assert (invalid["code"], invalid["reason"]) == ("InvalidArgument", "INVALID_FIELD")
    assert "record.ispb" in invalid["fields"]
