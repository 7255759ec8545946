"""Reads the server's certificates. Checks them first: for a bad file gRPC only reports that it cannot bind the port."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from vsyncd.config import Settings, StartError

T = TypeVar("T")

_CERTIFICATES: Final = "certificates (PEM)"


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Returns the credentials of the TLS_ settings, or None without TLS. Raises StartError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    chain, certificates = _read("TLS_CERT_FILE", settings.tls_cert_file, _CERTIFICATES, load_pem_x509_certificates)
    private, key = _read(
        "TLS_KEY_FILE",
        settings.tls_key_file,
        "a private key (PEM) without a passphrase",
        partial(load_pem_private_key, password=None),
    )
    if _public(key) != _public(certificates[0]):
        raise StartError("TLS_KEY_FILE: does not match the first certificate in TLS_CERT_FILE")
    authority = settings.tls_client_ca_file
    roots = _read("TLS_CLIENT_CA_FILE", authority, _CERTIFICATES, load_pem_x509_certificates)[0] if authority else None
    return grpc.ssl_server_credentials(
        [(private, chain)], root_certificates=roots, require_client_auth=roots is not None
    )


def _read(setting: str, path: str, what: str, load: Callable[[bytes], T]) -> tuple[bytes, T]:
    try:
        data = Path(path).read_bytes()
        return data, load(data)
    except OSError as error:
        raise StartError(f"{setting}: cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError means that the key has a passphrase.
        raise StartError(f"{setting}: {path} must contain {what}") from error


def _public(holder: Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
