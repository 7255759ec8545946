"""A vsyncd process with client certificates, keys, and a listener for health probes."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc
from cryptography import x509

from tests.harness.access import ROLES, write_keys, write_policy
from tests.harness.clusters import Database
from tests.harness.ports import free_port
from tests.harness.processes import ServerProcess
from tests.harness.tls import Authority

SERVER_NAME = "vsyncd.test"
# Callers have a certificate with their name, and a key. `own` may access one participant only.
CALLERS: Mapping[str, Sequence[str]] = {**{role: [role] for role in ROLES}, "all": ROLES, "own": ROLES, "stranger": ()}
OWN_ISPB = "10000001"


class SecureServer(ServerProcess):
    """Requires certificates on `target` and keys on `token_target`, and serves only health on `health_target`."""

    def __init__(self, database: Database, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.token_target, self.health_target = (f"127.0.0.1:{free_port()}" for _ in range(2))
        _write_files(folder)
        files = {
            "TLS_CERT_FILE": "server.pem",
            "TLS_KEY_FILE": "server.key",
            "TLS_CLIENT_CA_FILE": "authority.pem",
            "AUTHN_KEYS_FILE": "keys.yaml",
            "AUTHZ_FILE": "authz.yaml",
        }
        given = {
            "AUTHN_METHODS": "mtls,key",
            "GRPC_TOKEN_LISTEN": self.token_target,
            "GRPC_HEALTH_LISTEN": self.health_target,
            **{name: str(folder / file) for name, file in files.items()},
        }
        super().__init__(database, folder / "server.log", **given | settings)

    def ready_channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.target, self.credentials("all"), options=self.options)

    @property
    def options(self) -> list[tuple[str, str | int]]:
        """The options of a channel. Each channel has a connection of its own."""
        return [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]

    def credentials(self, caller: str = "") -> grpc.ChannelCredentials:
        """Returns the credentials of a caller with a certificate, or without one."""
        pems = [(self.folder / f"{caller}{suffix}").read_bytes() for suffix in (".key", ".pem")] if caller else []
        return grpc.ssl_channel_credentials((self.folder / "authority.pem").read_bytes(), *pems)


def _write_files(folder: Path) -> None:
    authority = Authority()
    authority.write_to(folder, "authority")
    for name in (SERVER_NAME, *CALLERS):
        issued = authority.issue(x509.Name([]), [x509.DNSName(name)])
        issued.write_to(folder, "server" if name == SERVER_NAME else name)
    write_keys(folder / "keys.yaml", CALLERS)
    roles = {f"{kind}:{name}": given for name, given in CALLERS.items() for kind in ("dns", "key") if given}
    write_policy(folder / "authz.yaml", roles, ispbs={"dns:own": [OWN_ISPB], "key:own": [OWN_ISPB]})


@contextlib.contextmanager
def secure_server(database: Database, folder: Path, **settings: str) -> Iterator[SecureServer]:
    """Runs a server on this database until the end of the block."""
    server = SecureServer(database, folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
