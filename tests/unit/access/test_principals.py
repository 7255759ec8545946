"""The caller is the principal that its certificate names."""

import warnings
from collections.abc import Sequence
from functools import partial
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.access.authentication import CertificateAuthenticator, CredentialsInvalid
from vsyncd.access.principals import principal_of
from vsyncd.core.grants import NO_GRANT

from tests.harness.tls import Authority, unchecked_name

AUTHENTICATOR = CertificateAuthenticator(lambda _: NO_GRANT, lambda: None)
AUTHORITY = Authority()
URI = partial(unchecked_name, x509.UniformResourceIdentifier)
DNS = partial(unchecked_name, x509.DNSName)
EMAIL = x509.RFC822Name("worker@bank.test")


def pem_of(subject: x509.Name, names: Sequence[x509.GeneralName] = ()) -> bytes:
    return AUTHORITY.issue(subject, names).certificate.public_bytes(Encoding.PEM)


def named(common_name: str, *names: x509.GeneralName) -> str | None:
    """The principal of a certificate with this CN and these SANs."""
    return principal_of(AUTHORITY.issue(subject(common_name), names).certificate)


def subject(common_name: str) -> x509.Name:
    # Authorities do issue the lengths that cryptography warns of.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        ([URI("spiffe://bank.test/vsync")], "spiffe://bank.test/vsync"),
        ([DNS("worker.bank.test"), EMAIL, URI("spiffe://bank.test/vsync")], "spiffe://bank.test/vsync"),
        ([URI("spiffe://bank.test/b"), URI("spiffe://bank.test/a")], "spiffe://bank.test/b"),
        ([URI(""), DNS(""), URI("spiffe://bank.test/a")], "spiffe://bank.test/a"),
        ([URI("urn:bank:vsync")], "uri:urn:bank:vsync"),
        ([URI("SPIFFE://bank.test/vsync")], "uri:SPIFFE://bank.test/vsync"),
        ([URI("dns:worker")], "uri:dns:worker"),
        ([URI(""), DNS("Worker.Bank.test")], "dns:worker.bank.test"),
        ([DNS("*.bank.test")], "dns:*.bank.test"),
        ([DNS("spiffe://bank.test/vsync")], "dns:spiffe://bank.test/vsync"),
        ([URI(""), DNS(""), EMAIL], "subject:CN=worker"),
        ([], "subject:CN=worker"),
    ],
)
def test_the_first_of_uri_dns_and_subject_is_the_principal(names: list[x509.GeneralName], principal: str) -> None:
    assert named("worker", *names) == principal


@pytest.mark.parametrize(
    ("common_name", "principal"),
    [
        ("João, S.A.", "subject:CN=João\\, S.A."),
        ("a+b=c;d\\", "subject:CN=a\\+b=c\\;d\\\\"),
        (" a ", "subject:CN=\\ a\\ "),
        ("#a", "subject:CN=\\#a"),
        ("a\0b\nc", "subject:CN=a\\00b\\0Ac"),
        ("a\u200bb\u202ec", "subject:CN=a\\E2\\80\\8Bb\\E2\\80\\AEc"),
        ("a\\0Ab", "subject:CN=a\\\\0Ab"),
    ],
)
def test_a_subject_is_written_as_in_rfc_4514_without_unprintable_characters(common_name: str, principal: str) -> None:
    assert named(common_name) == principal


def test_all_attributes_of_a_subject_count() -> None:
    attributes = [(NameOID.COUNTRY_NAME, "BR"), (NameOID.ORGANIZATION_NAME, "Bank"), (NameOID.COMMON_NAME, "worker")]
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    assert principal_of(AUTHORITY.issue(subject).certificate) == "subject:CN=worker,O=Bank,C=BR"


NAMELESS = {
    "no name": pem_of(x509.Name([])),
    "an empty common name": pem_of(subject("")),
    "a blank common name": pem_of(subject("  ")),
    "names of other kinds": pem_of(x509.Name([]), [EMAIL]),
    "empty names": pem_of(x509.Name([]), [URI(""), DNS("")]),
    "a URI with a space": pem_of(subject("worker"), [URI("spiffe://bank.test/a b")]),
    "a DNS name with a newline": pem_of(subject("worker"), [DNS("a\nb")]),
    "no certificate": b"",
    "a malformed certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}


@pytest.mark.parametrize("pem", NAMELESS.values(), ids=NAMELESS)
def test_a_certificate_without_a_usable_name_is_refused(pem: bytes) -> None:
    with pytest.raises(CredentialsInvalid):
        AUTHENTICATOR.authenticate(pem)


def test_a_certificate_of_64_kib_names_its_caller() -> None:
    names = [URI("spiffe://bank.test/vsync"), *(DNS(f"{number:04}.{'x' * 50}.bank.test") for number in range(800))]
    pem = pem_of(subject("worker"), names)
    assert len(pem) > 64 * 1024
    assert AUTHENTICATOR.authenticate(pem).principal == "spiffe://bank.test/vsync"


def test_an_overlong_principal_ends_in_a_digest_of_the_whole() -> None:
    uri = f"spiffe://bank.test/{'x' * 181}"
    assert named("worker", URI(uri)) == uri
    longer = uri + "y"
    assert named("worker", URI(longer)) == longer[:128] + f"#sha256:{sha256(longer.encode()).hexdigest()}"


def test_a_principal_that_imitates_a_shortened_one_is_another() -> None:
    shortened = named("worker", URI(f"spiffe://bank.test/{'x' * 300}"))
    assert shortened is not None
    assert named("worker", URI(shortened)) not in {shortened, None}


ascii_names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=400)
# Long common prefixes are what truncation would merge.
prefixes = st.sampled_from(["", "spiffe://", "uri:", "dns:", "CN=", "x" * 190, "spiffe://bank.test/" + "x" * 200])
common_names = st.builds(str.__add__, prefixes, st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
identities = st.one_of(
    st.tuples(st.just("uri"), st.builds(str.__add__, prefixes, ascii_names)),
    st.tuples(st.just("dns"), st.builds(str.__add__, prefixes, ascii_names).map(str.lower)),
    st.tuples(st.just("subject"), common_names),
).filter(lambda identity: identity[1].strip())


def issued_to(identity: tuple[str, str]) -> str | None:
    kind, name = identity
    match kind:
        case "uri":
            return named("", URI(name), DNS("other.test"))
        case "dns":
            return named("other", DNS(name))
    return named(name)


@given(identities, identities)
def test_certificates_share_a_principal_exactly_when_kind_and_name_are_equal(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    principals = issued_to(one), issued_to(other)
    assert (principals[0] == principals[1]) == (one == other)
    assert issued_to(one) == principals[0], "a renewed certificate is another principal"
    for principal in principals:
        assert principal is not None
        assert 0 < len(principal) <= 200
        assert principal.isprintable()
        assert principal.startswith(("spiffe://", "uri:", "dns:", "subject:"))
