"""gRPC's credentials from the TLS files. Each handshake uses their present version; open connections continue."""

import grpc

from vsyncd.access.certificates import TlsFiles
from vsyncd.access.watched_files import WatchedFiles


def server_credentials(files: WatchedFiles[TlsFiles], *, mutual: bool) -> grpc.ServerCredentials:
    """Returns the credentials of a listener. `mutual`: it requires client certificates."""
    used = files.value

    def configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(tls.key, tls.chain)], root_certificates=tls.client_ca if mutual else None
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Returns a new configuration, or None to continue with the last one. Called on a thread of gRPC."""
        nonlocal used
        present = files.value
        if present is used:
            return None
        used = present
        return configuration(present)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        fetch,  # type: ignore[arg-type]  # the published types lack None
        require_client_authentication=mutual,
    )
