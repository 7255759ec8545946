"""The combinations of access settings that vsyncd refuses to serve with."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from vsyncd.config import ConfigError, Settings
from vsyncd.config.endpoints import parse_host_port
from vsyncd.core.listening import is_loopback

# The settings that belong to each method.
_OWN_SETTINGS: Final = (
    ("mtls", "tls_client_ca_file"),
    ("key", "authn_keys_file"),
    ("jwt", "authn_jwt_issuer"),
    ("jwt", "authn_jwt_audience"),
)


def check_requirements(settings: Settings) -> None:
    """Raises ConfigError with a line for each setting that is missing, without effect or insecure."""
    if lines := [*_inconsistent(settings), *_insecure(settings)]:
        raise ConfigError(*lines)


def is_insecure(settings: Settings) -> bool:
    """Returns whether callers from other machines need no credentials, or are served without TLS."""
    return not (settings.tls_cert_file and settings.authentication_methods) and not _is_local(settings.grpc_listen)


def _inconsistent(settings: Settings) -> Iterator[str]:
    methods = settings.authentication_methods
    for method, name in _OWN_SETTINGS:
        if (method in methods) != (getattr(settings, name) is not None):
            yield f"{name.upper()}: requires AUTHN_METHODS={method}, and vice versa"
    if bool(methods) != (settings.authz_file is not None):
        yield "AUTHZ_FILE: requires AUTHN_METHODS, and vice versa"
    if [settings.authn_jwks_file, settings.authn_jwks_url].count(None) != (1 if "jwt" in methods else 2):
        yield "AUTHN_JWKS_FILE: AUTHN_METHODS=jwt requires either this or AUTHN_JWKS_URL, and vice versa"
    if settings.authn_jwks_url and not _is_confidential(settings.authn_jwks_url):
        yield "AUTHN_JWKS_URL: takes a URL that begins with https://, or one of this machine"
    tokens = methods - {"mtls"}
    if (settings.grpc_token_listen is not None) != (bool(tokens) and "mtls" in methods):
        yield "GRPC_TOKEN_LISTEN: requires AUTHN_METHODS=mtls and a further method, and vice versa"
    if tokens and settings.tls_cert_file is None and not _is_local(settings.grpc_listen):
        yield "TLS_CERT_FILE: required, because AUTHN_METHODS sends secrets to an address that other machines reach"
    if settings.tls_crl_file is not None and "mtls" not in methods:
        yield "TLS_CRL_FILE: requires AUTHN_METHODS=mtls"


def _insecure(settings: Settings) -> Iterator[str]:
    if is_insecure(settings) and not settings.allow_insecure:
        yield (
            "GRPC_LISTEN: an address that other machines reach requires TLS_CERT_FILE and AUTHN_METHODS "
            "(or ALLOW_INSECURE=true: everyone may then read and change all data)"
        )


def _is_local(listen: str) -> bool:
    try:
        return is_loopback(parse_host_port(listen).host)
    except OSError:  # not an address of this machine: the start reports it
        return True


def _is_confidential(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_local(f"{parts.hostname}:0")
