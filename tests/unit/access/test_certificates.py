"""Expiry and revocation of client certificates are checked at each call, not only at the handshake."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from vsyncd.access.authentication import CertificateAuthenticator, CredentialsInvalid
from vsyncd.access.certificates import Revocations, parse_revocations
from vsyncd.config import ConfigError
from vsyncd.core.grants import NO_GRANT

from tests.harness.tls import Authority

AUTHORITY = Authority()
AUTHORITY_PEM = AUTHORITY.certificate.public_bytes(Encoding.PEM)


def issued(authority: Authority = AUTHORITY, *, expires_in: timedelta = timedelta(hours=1)) -> x509.Certificate:
    return authority.issue(x509.Name([]), [x509.DNSName("worker")], expires_in=expires_in).certificate


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def test_a_certificate_ends_during_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = CertificateAuthenticator(lambda _: NO_GRANT, lambda: None)
    certificate = issued()
    caller = authenticator.authenticate(pem_of(certificate))
    assert caller.expires_at == certificate.not_valid_after_utc.timestamp()
    monkeypatch.setattr("time.time", lambda: caller.expires_at + 1)
    with pytest.raises(CredentialsInvalid):
        authenticator.authenticate(pem_of(certificate))


def test_a_new_revocation_list_counts_at_the_next_call() -> None:
    certificate, other = issued(), issued()
    revocations: Revocations | None = None
    authenticator = CertificateAuthenticator(lambda _: NO_GRANT, lambda: revocations)
    authenticator.authenticate(pem_of(certificate))
    revocations = parse_revocations(AUTHORITY.revocations(certificate), AUTHORITY_PEM)
    authenticator.clear()
    with pytest.raises(CredentialsInvalid):
        authenticator.authenticate(pem_of(certificate))
    authenticator.authenticate(pem_of(other))


def test_an_authority_revokes_its_own_certificates_only() -> None:
    other = Authority("Other")
    certificate = issued()
    same_serial = Revocations([x509.load_pem_x509_crl(other.revocations(certificate))])
    assert certificate not in same_serial


def test_several_lists_are_read_and_each_must_be_signed_by_an_authority() -> None:
    other = Authority("Other")
    authorities = AUTHORITY_PEM + other.certificate.public_bytes(Encoding.PEM)
    ours, theirs = issued(), issued(other)
    lists = AUTHORITY.revocations(ours) + other.revocations(theirs)
    revocations = parse_revocations(lists, authorities)
    assert ours in revocations
    assert theirs in revocations
    with pytest.raises(ConfigError, match="list 2 is not signed"):
        parse_revocations(lists, AUTHORITY_PEM)
    impostor = Authority()  # the same name as AUTHORITY, and another key
    with pytest.raises(ConfigError, match="list 1 is not signed"):
        parse_revocations(impostor.revocations(ours), AUTHORITY_PEM)
    for garbage in (b"", b"x", AUTHORITY_PEM, lists.replace(b"M", b"!")):
        with pytest.raises(ConfigError, match="must contain certificate revocation lists"):
            parse_revocations(garbage, AUTHORITY_PEM)
