"""JSON Web Tokens: their issuer's keys (AUTHN_JWKS_FILE or AUTHN_JWKS_URL), and the principals that they name."""

import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from vsyncd.access.authentication import Caller, CredentialsInvalid
from vsyncd.access.principals import shorten
from vsyncd.access.watched_files import Watched
from vsyncd.config import ConfigError
from vsyncd.core.errors import Unavailable
from vsyncd.core.grants import Grant

# Asymmetric algorithms only. A key verifies only its own algorithm, whatever the token's header says.
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
# The permitted difference between the issuer's clock and this machine's.
_LEEWAY_S: Final = 30.0
_MIN_RSA_BITS: Final = 2048
_CACHED_TOKENS: Final = 4096

Keys = Mapping[str, jwt.PyJWK]


class KeysUnavailable(Unavailable):
    """No token can be verified, because AUTHN_JWKS_URL could not be fetched since the start."""

    def __init__(self) -> None:
        super().__init__("KEYS_UNAVAILABLE", "Tokens cannot be verified at present.", retry_after=5.0)


class _UnknownKeyError(Exception):
    """The token names a key that is not among the issuer's keys."""


def parse_jwks(data: bytes, *, setting: str) -> Keys:
    """Parses a JSON Web Key Set, and ignores keys of other uses. Raises ConfigError."""
    try:
        entries = json.loads(data)["keys"]
        keys = {str(entry["kid"]): jwt.PyJWK(entry) for entry in entries if _is_usable(entry)}
    except (jwt.PyJWTError, ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{setting}: must contain a JSON Web Key Set of public keys, each with a kid") from None
    if not keys:
        raise ConfigError(f"{setting}: contains no key for signatures with {', '.join(ALGORITHMS)}")
    if any(isinstance(key.key, RSAPublicKey) and key.key.key_size < _MIN_RSA_BITS for key in keys.values()):
        raise ConfigError(f"{setting}: contains an RSA key of less than {_MIN_RSA_BITS} bits")
    return keys


class TokenAuthenticator:
    """Verifies tokens: signature, issuer, audience, exp and nbf. The results of the last ones are kept."""

    def __init__(
        self, *, issuer: str, audience: str, keys: Watched[Keys | None], grant_of: Callable[[str], Grant]
    ) -> None:
        self.keys = keys
        self._issuer = issuer
        self._audience = audience
        self._grant_of = grant_of
        self._caller_of = lru_cache(_CACHED_TOKENS)(self._verify)

    def clear(self) -> None:
        """Forgets the results, because keys or grants have changed."""
        self._caller_of.cache_clear()

    async def authenticate(self, token: str) -> Caller:
        """Returns the caller. Raises CredentialsInvalid, and KeysUnavailable if the issuer's keys were never read."""
        try:
            caller = self._caller_of(token)
        except _UnknownKeyError:
            caller = await self._authenticate_with_new_keys(token)
        if caller.expires_at < time.time():
            raise CredentialsInvalid
        return caller

    async def _authenticate_with_new_keys(self, token: str) -> Caller:
        """Reads the issuer's keys again, because the token names an unknown one: the issuer may have replaced them."""
        if await self.keys.refresh(now=True):
            self.clear()
        if self.keys.value is None:
            raise KeysUnavailable
        try:
            return self._caller_of(token)
        except _UnknownKeyError:
            raise CredentialsInvalid from None

    def _verify(self, token: str) -> Caller:
        try:
            key = self._key_of(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            raise CredentialsInvalid from None
        subject = claims["sub"]
        if not subject or not subject.isprintable():
            raise CredentialsInvalid
        principal = shorten(f"jwt:{self._issuer}#{subject}")
        return Caller(principal, self._grant_of(principal), float(claims["exp"]) + _LEEWAY_S)

    def _key_of(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        key = (self.keys.value or {}).get(str(header.get("kid")))
        if key is None:
            raise _UnknownKeyError
        return key


def _is_usable(entry: dict[str, Any]) -> bool:
    if "d" in entry:
        raise ValueError("a private key")
    if entry.get("use", "sig") != "sig" or entry["kty"] not in {"RSA", "EC", "OKP"}:
        return False
    return jwt.PyJWK(entry).algorithm_name in ALGORITHMS
