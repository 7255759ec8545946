"""Tokens: what is verified, which keys are accepted, and keys that the issuer replaces."""

import asyncio
import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from vsyncd.access.authentication import CredentialsInvalid
from vsyncd.access.control import AccessControl
from vsyncd.access.tokens import Keys, KeysUnavailable, TokenAuthenticator, parse_jwks
from vsyncd.access.watched_files import Watched
from vsyncd.access.watched_url import WatchedUrl
from vsyncd.config import ConfigError
from vsyncd.core.grants import NO_GRANT
from vsyncd.domains.registry import load_settings

from tests.harness.access import write_policy

ISSUER, AUDIENCE = "https://login.bank.example", "vsyncd"
RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505  it is refused
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str = "1", **fields: str) -> dict[str, Any]:
    """Returns the public key as a JWK."""
    algorithms: dict[Any, Any] = {
        rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
    }
    public = key.public_key()
    (algorithm,) = [each for kind, each in algorithms.items() if isinstance(public, kind)]
    return {**algorithm.to_jwk(public, as_dict=True), "kid": kid, **fields}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "worker", "exp": now + 86_400, "nbf": now - 5} | changes
    return {name: value for name, value in given.items() if value is not None}


def signed(payload: dict[str, Any], key: Any = EC_KEY, algorithm: str = "ES256", **header: Any) -> str:
    return jwt.encode(payload, key, algorithm, headers={"kid": "1", **header})


class Unchanged(Watched[Keys | None]):
    async def refresh(self, *, now: bool = False) -> bool:  # noqa: ARG002  the signature of Watched
        return False


def authenticator(*keys: dict[str, Any]) -> TokenAuthenticator:
    watched: Watched[Keys | None] = Unchanged("AUTHN_JWKS_FILE", parse_jwks(jwks(*keys), setting="AUTHN_JWKS_FILE"))
    return TokenAuthenticator(issuer=ISSUER, audience=AUDIENCE, keys=watched, grant_of=lambda _: NO_GRANT)


async def test_a_token_names_its_issuer_and_subject() -> None:
    tokens = authenticator(jwk(EC_KEY))
    caller = await tokens.authenticate(signed(claims(aud=["other", AUDIENCE])))
    assert caller.principal == "jwt:https://login.bank.example#worker"
    assert caller.expires_at > time.time() + 500


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(EC_KEY, "ES256"), (RSA_KEY, "RS256"), (ed25519.Ed25519PrivateKey.generate(), "EdDSA")],
    ids=["EC", "RSA", "Ed25519"],
)
async def test_the_algorithms_of_the_issuers_keys_are_accepted(key: Any, algorithm: str) -> None:
    await authenticator(jwk(key)).authenticate(signed(claims(), key, algorithm))


SECRET = "0" * 64
REFUSED = {
    "another issuer": signed(claims(iss="https://evil.example")),
    "another audience": signed(claims(aud="other")),
    "expired": signed(claims(exp=int(time.time()) - 60)),
    "not valid yet": signed(claims(nbf=int(time.time()) + 86_400)),
    "no end": signed(claims(exp=None)),
    "no audience": signed(claims(aud=None)),
    "no subject": signed(claims(sub=None)),
    "an empty subject": signed(claims(sub="")),
    "a subject with a newline": signed(claims(sub="a\nb")),
    "a subject with a bidirectional character": signed(claims(sub="a\u202eb")),
    "another key": signed(claims(), OTHER_KEY),
    "another algorithm": signed(claims(), SECRET, "HS256"),
    "an unknown key": signed(claims(), kid="2"),
    "no key": jwt.encode(claims(), EC_KEY, "ES256"),
    "no signature": jwt.encode(claims(), "", "none", headers={"kid": "1"}),
    "nothing": "",
    "no token": "a.b.c",
    "a changed claim": "",
}
_HEAD, _BODY, _SIGNATURE = signed(claims()).split(".")
_CHANGED = base64.urlsafe_b64encode(json.dumps(claims(sub="admin")).encode()).decode().rstrip("=")
REFUSED["a changed claim"] = f"{_HEAD}.{_CHANGED}.{_SIGNATURE}"


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED)
async def test_a_token_is_refused(token: str) -> None:
    with pytest.raises(CredentialsInvalid):
        await authenticator(jwk(EC_KEY)).authenticate(token)


async def test_a_key_verifies_its_own_algorithm_only() -> None:
    with pytest.raises(CredentialsInvalid):
        await authenticator(jwk(RSA_KEY, alg="PS256")).authenticate(signed(claims(), RSA_KEY, "RS256"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "must contain a JSON Web Key Set"),
        (b"[]", "must contain a JSON Web Key Set"),
        (b'{"keys": [1]}', "must contain a JSON Web Key Set"),
        (b'{"keys": []}', "contains no key"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "1"}), "contains no key"),
        (jwks(jwk(EC_KEY, use="enc")), "contains no key"),
        (jwks({**jwk(EC_KEY), "d": "AA"}), "of public keys"),
        (jwks({name: value for name, value in jwk(EC_KEY).items() if name != "kid"}), "each with a kid"),
        (jwks({**jwk(EC_KEY), "x": "AA"}), "must contain a JSON Web Key Set"),
        (jwks(jwk(WEAK_KEY)), "less than 2048 bits"),
    ],
)
def test_an_unusable_key_set_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_jwks(data, setting="AUTHN_JWKS_FILE")


class Issuer(http.server.BaseHTTPRequestHandler):
    """Serves a key set."""

    body = b""
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(200 if self.body else 302)
        self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Writes nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Issuer.body, Issuer.requests = b"", 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/keys"
        server.shutdown()


async def test_new_keys_of_the_issuer_are_fetched_when_a_token_names_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsyncd.access.watched_url._MIN_INTERVAL_S", 0.0)
    keys = WatchedUrl("AUTHN_JWKS_URL", url, lambda data: parse_jwks(data, setting="AUTHN_JWKS_URL"))
    tokens = TokenAuthenticator(issuer=ISSUER, audience=AUDIENCE, keys=keys, grant_of=lambda _: NO_GRANT)
    with pytest.raises(KeysUnavailable):
        await tokens.authenticate(signed(claims()))
    assert keys.problems == ("AUTHN_JWKS_URL: cannot be fetched: HTTP status 302",)
    Issuer.body = jwks(jwk(EC_KEY))
    await tokens.authenticate(signed(claims()))
    assert not keys.problems
    before = Issuer.requests
    for _ in range(3):
        await tokens.authenticate(signed(claims()))
    assert Issuer.requests == before
    Issuer.body = jwks(jwk(OTHER_KEY, "2"))
    await tokens.authenticate(signed(claims(), OTHER_KEY, kid="2"))
    with pytest.raises(CredentialsInvalid):
        await tokens.authenticate(signed(claims()))


async def test_unknown_keys_cause_few_requests(url: str) -> None:
    Issuer.body = jwks(jwk(EC_KEY))
    keys = WatchedUrl("AUTHN_JWKS_URL", url, lambda data: parse_jwks(data, setting="AUTHN_JWKS_URL"))
    tokens = TokenAuthenticator(issuer=ISSUER, audience=AUDIENCE, keys=keys, grant_of=lambda _: NO_GRANT)
    for number in range(20):
        with pytest.raises(CredentialsInvalid):
            await tokens.authenticate(signed(claims(), kid=f"unknown {number}"))
    assert Issuer.requests <= 2


async def test_keys_are_fetched_at_the_start_and_after_a_reload(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsyncd.access.watched_url._MIN_INTERVAL_S", 0.0)
    write_policy(tmp_path / "authz.yaml", {})
    Issuer.body = jwks(jwk(EC_KEY))
    settings = load_settings(
        authn_methods="jwt",
        authn_jwt_issuer=ISSUER,
        authn_jwt_audience=AUDIENCE,
        authn_jwks_url=url,
        authz_file=str(tmp_path / "authz.yaml"),
    )
    access, changed = AccessControl(settings), asyncio.Event()
    assert access.warnings() == ["AUTHN_JWKS_URL: not fetched yet"]
    watching = asyncio.create_task(access.watch(changed.set))
    async with asyncio.timeout(60):
        for key in (EC_KEY, OTHER_KEY):
            Issuer.body = jwks(jwk(key))
            access.reload()
            await changed.wait()
            changed.clear()
            assert access.warnings() == []
            await access.caller_of_token(f"Bearer {signed(claims(), key)}")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
