"""Access control of one process: who calls, and what the caller may do, as the settings and their files say."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vsyncd.access.authentication import Caller, CertificateAuthenticator, CredentialsInvalid, bearer_token
from vsyncd.access.certificates import Revocations, is_past, parse_revocations, parse_tls_files
from vsyncd.access.keys import Keys, parse_keys
from vsyncd.access.policy import Policy, parse_policy
from vsyncd.access.requirements import check_requirements, is_insecure
from vsyncd.access.watched_files import Watched, WatchedFiles
from vsyncd.config import Settings
from vsyncd.core.grants import NO_GRANT, Grant
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CERTIFICATE_EXPIRY

if TYPE_CHECKING:
    from vsyncd.access.tokens import TokenAuthenticator

_CHECK_INTERVAL_S: Final = 5.0
_INSECURE: Final = "insecure: everyone who reaches the listen address may read and change all data (ALLOW_INSECURE)"

_log = logger(__name__)


class AccessControl:
    """Authenticates callers and reads their grants. Raises ConfigError for insecure or invalid settings and files.

    `enforced` is false if AUTHN_METHODS is empty: every caller may then call every method. `watch` keeps the files
    up to date.
    """

    def __init__(self, settings: Settings) -> None:
        check_requirements(settings)
        self.enforced = bool(settings.authentication_methods)
        self.is_configured = self.enforced or settings.tls_cert_file is not None or is_insecure(settings)
        self.tls = _files(parse_tls_files, settings, "tls_cert_file", "tls_key_file", "tls_client_ca_file")
        self._policy: WatchedFiles[Policy] | None = _files(parse_policy, settings, "authz_file")
        self._keys: WatchedFiles[Keys] | None = _files(parse_keys, settings, "authn_keys_file")
        self._revocations: WatchedFiles[Revocations] | None = None
        if settings.tls_crl_file:
            self._revocations = _files(parse_revocations, settings, "tls_crl_file", "tls_client_ca_file")
        self._tokens = _tokens(settings, self._grant_of)
        self._certificates = CertificateAuthenticator(self._grant_of, self._current_revocations)
        self._is_insecure = is_insecure(settings)
        self._further: list[Watched[Any]] = []
        self._reload = asyncio.Event()
        self._reload.set()  # AUTHN_JWKS_URL is fetched at the start
        self._publish_expiry()
        if self._is_insecure:
            _log.warning(_INSECURE, listen=settings.grpc_listen)

    def caller_of_certificate(self, pem: bytes) -> Caller:
        """Returns the caller that a client certificate names. Raises CredentialsInvalid."""
        return self._certificates.authenticate(pem)

    async def caller_of_token(self, header: str | bytes | None) -> Caller:
        """Returns the caller of the header `authorization`. Raises CredentialsMissing and CredentialsInvalid."""
        token = bearer_token(header)
        principal = self._keys.value.principal_of(token) if self._keys else None
        if principal is not None:
            return Caller(principal, self._grant_of(principal), float("inf"))
        if self._tokens is None:
            raise CredentialsInvalid
        return await self._tokens.authenticate(token)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Reads changed files every few seconds, and after `reload`. Calls `on_change` after a change."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_INTERVAL_S):
                    await self._reload.wait()
            requested = self._reload.is_set()
            self._reload.clear()
            try:
                await self._refresh(on_change, now=requested)
            except Exception as error:  # noqa: BLE001  a defect must not end the watching
                _log.error("reading the files of access control raised an unexpected error", exc_info=error)

    async def _refresh(self, on_change: Callable[[], None], *, now: bool) -> None:
        # One after the other: each reads on a thread.
        if any([await watched.refresh(now=now) for watched in self._watched()]):
            self._certificates.clear()
            if self._tokens:
                self._tokens.clear()
            self._publish_expiry()
            on_change()

    def also_watch(self, watched: Watched[Any]) -> None:
        """Makes `watch` keep a further file up to date."""
        self._further.append(watched)

    def reload(self) -> None:
        """Makes `watch` read the files now."""
        self._reload.set()

    def warnings(self) -> list[str]:
        """Returns what makes health DEGRADED."""
        found = [problem for watched in self._watched() for problem in watched.problems]
        if self.tls and is_past(self.tls.value.expires_at):
            found.append("TLS_CERT_FILE: the certificate has expired")
        if self._revocations and is_past(self._revocations.value.next_update):
            found.append("TLS_CRL_FILE: a list is out of date")
        return found

    def summary(self) -> str:
        """Returns the state for health, if there are no warnings."""
        return _INSECURE if self._is_insecure else "enforced" if self.enforced else "every local caller is permitted"

    def _watched(self) -> Iterator[Watched[Any]]:
        keys = self._tokens.keys if self._tokens else None
        return filter(None, (self.tls, self._revocations, self._policy, self._keys, keys, *self._further))

    def _grant_of(self, principal: str) -> Grant:
        return self._policy.value.grant_of(principal) if self._policy else NO_GRANT

    def _current_revocations(self) -> Revocations | None:
        return self._revocations.value if self._revocations else None

    def _publish_expiry(self) -> None:
        if self.tls:
            CERTIFICATE_EXPIRY.set(self.tls.value.expires_at.timestamp())


def _files(parse: Callable[..., Any], settings: Settings, *names: str) -> WatchedFiles[Any] | None:
    """Returns the files of these settings that are set; None if the first one is not."""
    paths = {name.upper(): path for name in names if (path := getattr(settings, name)) is not None}
    return WatchedFiles(paths, parse) if names[0].upper() in paths else None


def _tokens(settings: Settings, grant_of: Callable[[str], Grant]) -> "TokenAuthenticator | None":
    if settings.authn_jwt_issuer is None or settings.authn_jwt_audience is None:
        return None
    # Their imports take 70 ms, and most servers need neither.
    from vsyncd.access.tokens import TokenAuthenticator, parse_jwks  # noqa: PLC0415
    from vsyncd.access.watched_url import WatchedUrl  # noqa: PLC0415

    keys: Any
    if settings.authn_jwks_url is not None:
        keys = WatchedUrl("AUTHN_JWKS_URL", settings.authn_jwks_url, partial(parse_jwks, setting="AUTHN_JWKS_URL"))
    else:
        keys = _files(partial(parse_jwks, setting="AUTHN_JWKS_FILE"), settings, "authn_jwks_file")
    return TokenAuthenticator(
        issuer=settings.authn_jwt_issuer, audience=settings.authn_jwt_audience, keys=keys, grant_of=grant_of
    )
