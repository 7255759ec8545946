"""`vsyncd dev-certs`: an authority, certificates, an AUTHZ_FILE and a key of tenants for development."""

import json
import secrets
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vsyncd.core.grants import UNAUTHENTICATED_GRANT

_HOSTS: Final = ("localhost", "127.0.0.1", "::1", "vsyncd")
_PRINCIPAL: Final = "spiffe://vsyncd.dev/developer"
# Certificates that are valid for less than this time are replaced.
_MIN_REMAINING: Final = timedelta(days=14)


@click.command("dev-certs")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A further name or address of the server.")
@click.option("--days", type=click.IntRange(15, 3650), default=90, show_default=True, help="Validity in days.")
def dev_certs(*, folder: Path, hosts: Sequence[str], days: int) -> None:
    """Create certificates and an AUTHZ_FILE for development in DIR.

    Not for production: everyone who can read DIR may do everything. Prints the settings that use the files. Does
    nothing if DIR has certificates that remain valid for two weeks and have all names.
    """
    names = [*dict.fromkeys((*_HOSTS, *hosts))]
    if _is_usable(folder / "server.pem", names):
        click.echo(f"{folder} has valid certificates.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    authority = _Authority(days)
    authority.write(folder / "ca.pem")
    authority.issue(folder / "server", ExtendedKeyUsageOID.SERVER_AUTH, [_general_name(name) for name in names])
    developer = x509.UniformResourceIdentifier(_PRINCIPAL)
    authority.issue(folder / "client", ExtendedKeyUsageOID.CLIENT_AUTH, [developer])
    grant = UNAUTHENTICATED_GRANT
    roles = sorted(role.value for role in grant.roles)
    entry = {"principal": _PRINCIPAL, "roles": roles, "ispbs": "*", "tenant": grant.tenant}
    (folder / "authz.yaml").write_text(json.dumps({"principals": [entry]}, indent=2) + "\n")  # JSON is YAML
    if not (key := folder / "tenant.key").exists():  # it must never change
        _write_private(key, b64encode(secrets.token_bytes(32)))
    click.echo(_usage(folder.absolute()))


class _Authority:
    """A certificate authority whose key is not stored."""

    def __init__(self, days: int) -> None:
        self._days = days
        self._key = generate_private_key(SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vsyncd development")])
        builder = self._builder(self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    def write(self, path: Path) -> None:
        path.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(self, path: Path, usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]) -> None:
        """Writes a certificate (.pem) and its key (.key)."""
        key = generate_private_key(SECP256R1())
        builder = self._builder(x509.Name([]), key)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        path.with_suffix(".pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_private(path.with_suffix(".key"), private)

    def _builder(self, subject: x509.Name, key: EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=self._days))
        )


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _is_usable(path: Path, names: Sequence[str]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    remaining = certificate.not_valid_after_utc - datetime.now(UTC)
    return remaining > _MIN_REMAINING and {_general_name(name) for name in names} <= set(found)


def _usage(folder: Path) -> str:
    return f"""\
# For the server:
TLS_CERT_FILE={folder}/server.pem
TLS_KEY_FILE={folder}/server.key
TLS_CLIENT_CA_FILE={folder}/ca.pem
AUTHN_METHODS=mtls
AUTHZ_FILE={folder}/authz.yaml
TENANT_HMAC_KEY_FILE={folder}/tenant.key
# For the vsync command:
VSYNC_TLS_CA={folder}/ca.pem
VSYNC_TLS_CERT={folder}/client.pem
VSYNC_TLS_KEY={folder}/client.key"""
