"""Ten rotations of each file of access control under load: no call fails."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from vsync.v1 import cid_pb2, cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.observability.metrics import REGISTRY

from tests.harness.access import write_keys, write_policy
from tests.harness.clusters import Database
from tests.harness.serving import settings_for
from tests.harness.tls import Authority

ROTATIONS = 10
REQUEST = cid_pb2.CountCidsRequest(ispb="10203040")
ISSUER = "https://login.bank.example"


class Files:
    """The files, and the credentials that callers use at present."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.authority.write_to(folder, "ca")
        # The last three of each kind. Callers use the second one, which is in the versions before and after a rotation.
        self.keys = ["key-a", "key-b", "key-c"]
        self.signing = [(kid, ec.generate_private_key(ec.SECP256R1())) for kid in "abc"]
        self.issue("server", x509.DNSName("vsyncd.test"))
        self.issue("client", x509.DNSName("client"))
        self.replace("crl.pem", self.authority.revocations())
        self.write_keys()
        self.write_jwks()
        self.write_policy(0)

    def replace(self, name: str, data: bytes) -> None:
        """Replaces a file as a whole."""
        new = self.folder / f"{name}.new"
        new.write_bytes(data)
        new.replace(self.folder / name)

    def issue(self, name: str, *names: x509.GeneralName) -> None:
        self.authority.issue(x509.Name([]), names).write_to(self.folder, name)

    def write_keys(self) -> None:
        write_keys(self.folder / "keys.yaml.new", self.keys)
        (self.folder / "keys.yaml.new").replace(self.folder / "keys.yaml")

    def write_jwks(self) -> None:
        keys = [
            {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}
            for kid, key in self.signing
        ]
        self.replace("jwks.json", json.dumps({"keys": keys}).encode())

    def write_policy(self, number: int) -> None:
        roles = {"dns:client": ["reader"], "key:*": ["reader"], "jwt:*": ["reader"], f"key:n{number}": ["writer"]}
        write_policy(self.folder / "authz.yaml.new", roles)
        (self.folder / "authz.yaml.new").replace(self.folder / "authz.yaml")

    def token(self) -> str:
        kid, key = self.signing[1]
        claims = {"iss": ISSUER, "aud": "vsyncd", "sub": "worker", "exp": int(time.time()) + 600}
        return jwt.encode(claims, key, "ES256", headers={"kid": kid})

    def rotate_certificate(self, _number: int) -> None:
        self.issue("server", x509.DNSName("vsyncd.test"))

    def rotate_revocations(self, number: int) -> None:
        revoked = self.authority.issue(x509.Name([]), [x509.DNSName(f"revoked-{number}")]).certificate
        self.replace("crl.pem", self.authority.revocations(revoked))

    def add_key(self, number: int) -> None:
        self.keys = [*self.keys[1:], f"key-{number}"]
        self.write_keys()

    def add_signing_key(self, number: int) -> None:
        self.signing = [*self.signing[1:], (str(number), ec.generate_private_key(ec.SECP256R1()))]
        self.write_jwks()


def reloads(setting: str) -> float:
    return REGISTRY.get_sample_value("vsyncd_reloads_total", {"setting": setting, "result": "succeeded"}) or 0.0


def settings_of(database: Database, folder: Path) -> Any:
    return settings_for(
        database.service_url,
        db_auto_migrate=False,
        http_listen="127.0.0.1:0",
        grpc_token_listen="127.0.0.1:0",
        tls_cert_file=str(folder / "server.pem"),
        tls_key_file=str(folder / "server.key"),
        tls_client_ca_file=str(folder / "ca.pem"),
        tls_crl_file=str(folder / "crl.pem"),
        authn_methods="mtls,key,jwt",
        authn_keys_file=str(folder / "keys.yaml"),
        authn_jwt_issuer=ISSUER,
        authn_jwt_audience="vsyncd",
        authn_jwks_file=str(folder / "jwks.json"),
        authz_file=str(folder / "authz.yaml"),
    )


class Load:
    """Callers with a certificate, a key and a token: on one connection each, and with a connection for each call."""

    def __init__(self, files: Files, application: Application) -> None:
        folder, self.calls, self._stopped = files.folder, 0, asyncio.Event()
        ca, key, certificate = ((folder / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
        mutual, tokens = f"127.0.0.1:{application.port}", f"127.0.0.1:{application.token_port}"
        sources: tuple[tuple[str, grpc.ChannelCredentials, Callable[[], str]], ...] = (
            (mutual, grpc.ssl_channel_credentials(ca, key, certificate), str),
            (tokens, grpc.ssl_channel_credentials(ca), lambda: f"secret-of-{files.keys[1]}"),
            (tokens, grpc.ssl_channel_credentials(ca), files.token),
        )
        self.tasks = [
            asyncio.create_task(self._call(*source, reconnects=reconnects))
            for source in sources
            for reconnects in (True, False)
        ]

    async def stop(self) -> None:
        """Raises what a call has raised."""
        self._stopped.set()
        await asyncio.gather(*self.tasks)

    async def _call(
        self, target: str, credentials: grpc.ChannelCredentials, token: Callable[[], str], *, reconnects: bool
    ) -> None:
        options = (("grpc.ssl_target_name_override", "vsyncd.test"), ("grpc.use_local_subchannel_pool", 1))
        while not self._stopped.is_set():
            async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
                stub: Any = cid_pb2_grpc.CidServiceStub(channel)
                is_last = False
                while not is_last:
                    metadata = (("authorization", f"Bearer {token()}"),) if token() else ()
                    await stub.CountCids(REQUEST, metadata=metadata, wait_for_ready=True, timeout=60)
                    self.calls += 1
                    is_last = reconnects or self._stopped.is_set()


@pytest.mark.soak
async def test_rotations_under_load_fail_no_call(database: Database, tmp_path: Path) -> None:
    files = Files(tmp_path)
    rotations = {
        "TLS_CERT_FILE": files.rotate_certificate,
        "TLS_CRL_FILE": files.rotate_revocations,
        "AUTHZ_FILE": files.write_policy,
        "AUTHN_KEYS_FILE": files.add_key,
        "AUTHN_JWKS_FILE": files.add_signing_key,
    }
    async with Application(settings_of(database, tmp_path)) as application:
        load = Load(files, application)
        for number in range(1, ROTATIONS + 1):
            for setting, rotate in rotations.items():
                before, expected = reloads(setting), load.calls + 30
                rotate(number)
                application.reload()
                async with asyncio.timeout(60):
                    while reloads(setting) == before or load.calls < expected:
                        if any(task.done() for task in load.tasks):
                            await load.stop()
                        await asyncio.sleep(0.01)
        await load.stop()
    assert load.calls >= 30 * ROTATIONS * len(rotations)
