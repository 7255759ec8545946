"""Reads the server's certificates. Checks them first: for a bad file gRPC only reports that it cannot bind the port."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from vsyncd.config import Settings
from vsyncd.core.errors import ServiceError

T = TypeVar("T")


class TlsError(ServiceError):
    """A file with certificates or a key is unusable. The message names the setting."""

    def __init__(self, message: str) -> None:
        super().__init__("BAD_TLS_FILE", message)

    def __str__(self) -> str:
        return self.message


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Returns the credentials of the TLS_ settings, or None without TLS. Raises TlsError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    chain, certificates = _read("TLS_CERT_FILE", settings.tls_cert_file, _CERTIFICATES, _certificates)
    private, key = _read("TLS_KEY_FILE", settings.tls_key_file, "a private key (PEM) without a passphrase", _key)
    if _public(key) != _public(certificates[0]):
        raise TlsError("TLS_KEY_FILE: does not match the first certificate in TLS_CERT_FILE")
    authority = settings.tls_client_ca_file
    roots = _read("TLS_CLIENT_CA_FILE", authority, _CERTIFICATES, _certificates)[0] if authority else None
    return grpc.ssl_server_credentials(
        [(private, chain)], root_certificates=roots, require_client_auth=roots is not None
    )


_CERTIFICATES = "certificates (PEM)"


def _read(setting: str, path: str, what: str, load: Callable[[bytes], T]) -> tuple[bytes, T]:
    try:
        data = Path(path).read_bytes()
        return data, load(data)
    except OSError as error:
        raise TlsError(f"{setting}: cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError means that the key has a passphrase.
        raise TlsError(f"{setting}: {path} must contain {what}") from error


def _certificates(data: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(data)


def _key(data: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(data, password=None)


def _public(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
