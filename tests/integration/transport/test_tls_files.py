"""An invalid certificate or key file stops the start with one line that names its setting."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from vsyncd.config import ConfigError
from vsyncd.transport.server import build_server

from tests.harness.access import write_policy
from tests.harness.serving import settings_for

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """A folder with a certificate, its key, the key with a passphrase, another key, and files that are neither."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    issued = authority.issue_cert("vsyncd.test")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "server.pem"), append=True)
    private = issued.private_key_pem.bytes()
    (tmp_path / "server.key").write_bytes(private)
    authority.issue_cert("other.test").private_key_pem.write_to_path(str(tmp_path / "other.key"))
    locked = load_pem_private_key(private, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "garbage").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def mutual_tls(folder: Path, authority: Path) -> dict[str, str]:
    write_policy(folder / "authz.yaml", {})
    return {"tls_client_ca_file": str(authority), "authn_methods": "mtls", "authz_file": str(folder / "authz.yaml")}


@pytest.mark.parametrize(
    ("certificate", "key", "authority", "setting"),
    [
        ("garbage", "server.key", None, "TLS_CERT_FILE"),
        ("empty", "server.key", None, "TLS_CERT_FILE"),
        ("server.key", "server.key", None, "TLS_CERT_FILE"),
        ("server.pem", "garbage", None, "TLS_KEY_FILE"),
        ("server.pem", "server.pem", None, "TLS_KEY_FILE"),
        ("server.pem", "locked.key", None, "TLS_KEY_FILE"),
        ("server.pem", "other.key", None, "TLS_KEY_FILE"),
        ("server.pem", "server.key", "garbage", "TLS_CLIENT_CA_FILE"),
        ("server.pem", "server.key", "server.key", "TLS_CLIENT_CA_FILE"),
    ],
)
async def test_an_invalid_file_is_named(
    pems: Path, certificate: str, key: str, authority: str | None, setting: str
) -> None:
    files = {
        "tls_cert_file": str(pems / certificate),
        "tls_key_file": str(pems / key),
        **(mutual_tls(pems, pems / authority) if authority else {}),
    }
    with pytest.raises(ConfigError) as caught:
        build_server(settings_for(NO_DATABASE, **files), [])
    assert str(caught.value).startswith(f"{setting}: ")
    assert "\n" not in str(caught.value)


async def test_a_file_that_was_removed_after_the_settings_were_read_is_named(pems: Path) -> None:
    settings = settings_for(NO_DATABASE, tls_cert_file=str(pems / "server.pem"), tls_key_file=str(pems / "server.key"))
    (pems / "server.key").unlink()
    with pytest.raises(ConfigError, match="TLS_KEY_FILE: cannot read"):
        build_server(settings, [])
