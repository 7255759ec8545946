"""Finds the principal of a call from its client certificate or its bearer token, and what the principal may do.

Certificates are parsed once: the results of the last ones are kept until a file changes.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509

from vsyncd.access.certificates import Revocations
from vsyncd.access.principals import principal_of
from vsyncd.core.errors import Unauthenticated
from vsyncd.core.grants import Grant

_CACHED_CERTIFICATES: Final = 4096
_BEARER: Final = "bearer "


class Caller(NamedTuple):
    """An authenticated caller. `expires_at` is the end of its certificate's or token's validity (Unix time)."""

    principal: str
    grant: Grant
    expires_at: float


class CredentialsMissing(Unauthenticated):
    """The call has neither a client certificate nor a token."""

    def __init__(self) -> None:
        super().__init__("CREDENTIALS_MISSING", "The call needs credentials.")


class CredentialsInvalid(Unauthenticated):
    """The certificate or token is not accepted. The message does not reveal which part is wrong."""

    def __init__(self) -> None:
        super().__init__("CREDENTIALS_INVALID", "The credentials are not accepted.")


class CertificateAuthenticator:
    """Authenticates client certificates, which TLS has verified. Checks their revocation and expiry at each call."""

    def __init__(self, grant_of: Callable[[str], Grant], revocations: Callable[[], Revocations | None]) -> None:
        self._grant_of = grant_of
        self._revocations = revocations
        self._caller_of = lru_cache(_CACHED_CERTIFICATES)(self._find_caller)

    def clear(self) -> None:
        """Forgets the results, because a file has changed."""
        self._caller_of.cache_clear()

    def authenticate(self, pem: bytes) -> Caller:
        """Returns the caller. Raises CredentialsInvalid."""
        caller = self._caller_of(pem)
        if caller is None or caller.expires_at < time.time():
            raise CredentialsInvalid
        return caller

    def _find_caller(self, pem: bytes) -> Caller | None:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            expires_at = certificate.not_valid_after_utc.timestamp()
        except ValueError:
            return None
        principal = principal_of(certificate)
        revocations = self._revocations()
        if principal is None or (revocations is not None and certificate in revocations):
            return None
        return Caller(principal, self._grant_of(principal), expires_at)


def bearer_token(header: str | bytes | None) -> str:
    """Returns the token of the header `authorization`. Raises CredentialsMissing and CredentialsInvalid."""
    if not header:
        raise CredentialsMissing
    text = header if isinstance(header, str) else ""
    if text[: len(_BEARER)].lower() != _BEARER:
        raise CredentialsInvalid
    return text[len(_BEARER) :].strip()
