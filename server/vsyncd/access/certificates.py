"""The server's certificate, the authorities of client certificates, and their revocation lists.

For an unusable file gRPC only reports that it cannot bind the port, so the files are checked first.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from vsyncd.config import ConfigError

T = TypeVar("T")

_CERTIFICATES: Final = "certificates (PEM)"
_CRL_END: Final = b"-----END X509 CRL-----"


class TlsFiles(NamedTuple):
    """The contents of TLS_CERT_FILE, TLS_KEY_FILE and, for mutual TLS, TLS_CLIENT_CA_FILE, which fit together."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    expires_at: datetime


def parse_tls_files(chain: bytes, key: bytes, client_ca: bytes | None = None) -> TlsFiles:
    """Checks the files. Raises ConfigError."""
    certificates = _parse("TLS_CERT_FILE", chain, _CERTIFICATES, x509.load_pem_x509_certificates)
    private = _parse("TLS_KEY_FILE", key, "a private key (PEM) without a passphrase", _private_key)
    if _public_bytes(private) != _public_bytes(certificates[0]):
        raise ConfigError("TLS_KEY_FILE: does not match the first certificate in TLS_CERT_FILE")
    if client_ca is not None:
        _parse("TLS_CLIENT_CA_FILE", client_ca, _CERTIFICATES, x509.load_pem_x509_certificates)
    return TlsFiles(chain, key, client_ca, certificates[0].not_valid_after_utc)


class Revocations:
    """The certificates that the lists revoke. `next_update` is the time at which the first list is out of date."""

    def __init__(self, lists: Sequence[x509.CertificateRevocationList]) -> None:
        self._revoked = {(crl.issuer.public_bytes(), revoked.serial_number) for crl in lists for revoked in crl}
        self.next_update = min((crl.next_update_utc for crl in lists if crl.next_update_utc), default=None)

    def __contains__(self, certificate: object) -> bool:
        return isinstance(certificate, x509.Certificate) and (
            (certificate.issuer.public_bytes(), certificate.serial_number) in self._revoked
        )


def parse_revocations(crls: bytes, client_ca: bytes) -> Revocations:
    """Parses TLS_CRL_FILE. Each list must be signed by an authority of TLS_CLIENT_CA_FILE. Raises ConfigError."""
    authorities = _parse("TLS_CLIENT_CA_FILE", client_ca, _CERTIFICATES, x509.load_pem_x509_certificates)
    lists = _parse("TLS_CRL_FILE", crls, "certificate revocation lists (PEM)", _revocation_lists)
    for number, crl in enumerate(lists, 1):
        if not any(_is_signed_by(crl, authority) for authority in authorities):
            raise ConfigError(f"TLS_CRL_FILE: list {number} is not signed by an authority in TLS_CLIENT_CA_FILE")
    return Revocations(lists)


def is_past(time: datetime | None) -> bool:
    """Returns whether a time is past; None never is."""
    return time is not None and time <= datetime.now(UTC)


def _parse(setting: str, data: bytes, what: str, load: Callable[[bytes], T]) -> T:
    try:
        return load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # TypeError means that the key has a passphrase. Without a cause: it may quote the file.
        raise ConfigError(f"{setting}: the file must contain {what}") from None


def _private_key(data: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(data, password=None)


def _public_bytes(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _revocation_lists(data: bytes) -> list[x509.CertificateRevocationList]:
    parts = [part + _CRL_END for part in data.split(_CRL_END)[:-1]]
    if not parts:
        raise ValueError("no list")
    return [x509.load_pem_x509_crl(part) for part in parts]


def _is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject:
        return False
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # other keys raise TypeError
    except (InvalidSignature, TypeError):
        return False
