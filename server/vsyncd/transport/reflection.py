"""Server reflection (grpc.reflection), for grpcurl, ghz and buf."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection


class _Symbols:
    """protobuf's default pool. Also finds the file of a method, which ghz requests and the pool does not find."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  the name in the pool
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def enable_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Enables reflection for these services and for reflection itself."""
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool=_Symbols())  # type: ignore[arg-type]  # it has the pool's methods
