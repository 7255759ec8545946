"""vsyncd refuses to serve insecurely, and with settings that do not fit together."""

from pathlib import Path

import pytest
from vsyncd.access.control import AccessControl
from vsyncd.access.requirements import check_requirements
from vsyncd.config import ConfigError, load_settings

from tests.harness.access import key_settings

OPEN = "0.0.0.0:50051"
FILE = __file__
TLS = {"tls_cert_file": FILE, "tls_key_file": FILE}
MUTUAL = {**TLS, "tls_client_ca_file": FILE, "authn_methods": "mtls", "authz_file": FILE}
KEYS = {"authn_methods": "key", "authn_keys_file": FILE, "authz_file": FILE}
JWT = {"authn_methods": "jwt", "authn_jwt_issuer": "x", "authn_jwt_audience": "y", "authz_file": FILE}
BOTH = {**MUTUAL, **KEYS, "authn_methods": "mtls, key"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, []),
        ({"grpc_listen": "localhost:1"}, []),
        ({"grpc_listen": "[::1]:1"}, []),
        ({"grpc_listen": OPEN}, ["GRPC_LISTEN"]),
        ({"grpc_listen": "[::]:1"}, ["GRPC_LISTEN"]),
        ({"grpc_listen": OPEN, "allow_insecure": True}, []),
        ({"grpc_listen": OPEN, **TLS}, ["GRPC_LISTEN"]),
        ({"grpc_listen": OPEN, **MUTUAL}, []),
        ({"grpc_listen": OPEN, **TLS, **KEYS}, []),
        (KEYS, []),
        ({"grpc_listen": OPEN, **KEYS, "allow_insecure": True}, ["TLS_CERT_FILE"]),
        (BOTH, ["GRPC_TOKEN_LISTEN"]),
        ({**BOTH, "grpc_token_listen": OPEN}, []),
        ({**MUTUAL, "grpc_token_listen": OPEN}, ["GRPC_TOKEN_LISTEN"]),
        ({**KEYS, "grpc_token_listen": OPEN}, ["GRPC_TOKEN_LISTEN"]),
        ({**MUTUAL, "authn_methods": ""}, ["TLS_CLIENT_CA_FILE", "AUTHZ_FILE"]),
        ({"authn_methods": "key"}, ["AUTHN_KEYS_FILE", "AUTHZ_FILE"]),
        ({"authz_file": FILE}, ["AUTHZ_FILE"]),
        ({**TLS, "tls_crl_file": FILE}, ["TLS_CRL_FILE"]),
        ({**JWT, "authn_jwks_file": FILE}, []),
        ({**JWT, "authn_jwks_url": "https://login.example/keys"}, []),
        ({**JWT, "authn_jwks_url": "http://127.0.0.1:1/keys"}, []),
        ({**JWT, "authn_jwks_url": "http://192.0.2.1/keys"}, ["AUTHN_JWKS_URL"]),
        (JWT, ["AUTHN_JWKS_FILE"]),
        ({**JWT, "authn_jwks_file": FILE, "authn_jwks_url": "https://login.example/keys"}, ["AUTHN_JWKS_FILE"]),
        ({**JWT, "authn_jwks_file": FILE, "authn_jwt_audience": None}, ["AUTHN_JWT_AUDIENCE"]),
        ({"authn_jwks_file": FILE, "authn_jwt_issuer": "x"}, ["AUTHN_JWT_ISSUER", "AUTHN_JWKS_FILE"]),
    ],
)
def test_settings_that_are_refused(given: dict[str, object], named: list[str]) -> None:
    try:
        check_requirements(load_settings(**given))
        found: list[str] = []
    except ConfigError as error:
        found = [line.partition(":")[0] for line in error.lines]
    assert found == named


def test_an_insecure_server_says_so(tmp_path: Path) -> None:
    insecure = AccessControl(load_settings(grpc_listen=OPEN, allow_insecure=True))
    assert (insecure.enforced, insecure.is_configured) == (False, True)
    assert insecure.summary().startswith("insecure: ")
    assert not AccessControl(load_settings()).is_configured
    enforced = AccessControl(load_settings(**key_settings(tmp_path, {"a": ["reader"]})))
    assert (enforced.enforced, enforced.is_configured, enforced.warnings()) == (True, True, [])
