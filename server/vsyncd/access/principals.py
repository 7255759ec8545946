"""Principals: the names of callers, each with a kind.

`spiffe://…` or `uri:…` (URI SAN), `dns:…` (DNS SAN) and `subject:…` (RFC 4514) come from client certificates,
`key:NAME` and `jwt:ISSUER#SUBJECT` from bearer tokens. Two certificates share a principal exactly when kind and name
are equal, so a renewed certificate keeps its principal.
"""

import re
import warnings
from hashlib import sha256
from typing import Final

from cryptography import x509

from vsyncd.core.context import MAX_ACTOR_CHARS

KINDS: Final = ("spiffe://", "uri:", "dns:", "subject:", "key:", "jwt:")

_is_ascii_name = re.compile(r"[!-~]+").fullmatch
_DIGEST: Final = "#sha256:"
_ends_in_digest = re.compile(rf".*{_DIGEST}[0-9a-f]{{64}}", re.DOTALL).fullmatch

_MALFORMED: Final = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def principal_of(certificate: x509.Certificate) -> str | None:
    """Returns the principal of a certificate, or None if the certificate is malformed or has no name.

    Uses the first URI SAN, else the first DNS SAN, else the subject. Empty names count as absent.
    """
    try:
        uris, dns_names = _alternative_names(certificate)
        # cryptography warns of attributes that are longer than X.520 permits. They are accepted here.
        with warnings.catch_warnings(action="ignore"):
            subject = certificate.subject
    except _MALFORMED:
        return None
    if uris:
        return _ascii_principal(uris[0], "" if uris[0].startswith("spiffe://") else "uri:")
    if dns_names:
        # DNS names are compared without regard to case (RFC 4343).
        return _ascii_principal(dns_names[0].lower(), "dns:")
    if any(attribute.value.strip() for attribute in subject):
        return shorten(f"subject:{_escape_unprintable(subject.rfc4514_string())}")
    return None


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Returns the URI and DNS SANs that are not empty, in the certificate's order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    uris: list[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    dns_names: list[str] = names.get_values_for_type(x509.DNSName)
    return [uri for uri in uris if uri], [name for name in dns_names if name]


def _ascii_principal(name: str, prefix: str) -> str | None:
    """Returns None for a name with characters that neither a URI nor a DNS name may contain."""
    return shorten(prefix + name) if _is_ascii_name(name) else None


def _escape_unprintable(name: str) -> str:
    """RFC 4514 allows any character as the hexadecimal pairs of its UTF-8 encoding. Control, bidirectional and
    zero-width characters are written in this way."""
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else "".join(f"\\{byte:02X}" for byte in character.encode())
        for character in name
    )


def shorten(principal: str) -> str:
    """Replaces the end of an overlong principal by a digest of the whole, so that different ones stay different.

    A shorter principal that already ends like this gets a digest too: it must not equal a shortened one.
    """
    if len(principal) <= MAX_ACTOR_CHARS and not _ends_in_digest(principal):
        return principal
    suffix = _DIGEST + sha256(principal.encode()).hexdigest()
    return principal[: MAX_ACTOR_CHARS - len(suffix)] + suffix
