"""Checks Redis, gRPC services, folders and ports."""

import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from vsyncd.cache.operations import REDIS_ERRORS, open_clients
from vsyncd.cli.doctor.findings import Finding, error, ok, warning
from vsyncd.config import ConfigError, Settings
from vsyncd.config.endpoints import GrpcDependency, parse_host_port
from vsyncd.core.listening import listening_sockets
from vsyncd.health.checkers import GrpcChecker
from vsyncd.health.status import Status
from vsyncd.http.listeners import admin_address

_MIN_REDIS: Final = 7
_MIN_FREE_BYTES: Final = 1 << 30
_TIMEOUT_S: Final = 5.0


async def check_redis(settings: Settings) -> AsyncIterator[Finding]:
    subject = "redis"
    try:
        address = settings.redis_address
    except ConfigError as problem:
        yield error(subject, str(problem))
        return
    if address is None:
        yield ok(subject, "not configured (REDIS_URL is not set)")
        return
    clients = open_clients(address, connect_timeout=settings.redis_conn_timeout, timeout=_TIMEOUT_S)
    try:
        info = await clients.main.info("server")
    except REDIS_ERRORS as problem:
        # The message may contain the address, but never the password.
        yield error(subject, f"cannot be used: {type(problem).__name__}: {' '.join(str(problem).split())}")
        return
    finally:
        await clients.close()
    valkey = info.get("valkey_version")
    version = str(valkey or info.get("redis_version", ""))
    text = f"{'Valkey' if valkey else 'Redis'} {version}, {'TLS' if address.tls else 'no TLS'}"
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < _MIN_REDIS:
        yield warning(subject, f"{text}; supported are Redis 7 or Valkey 8, and later")
    elif address.is_unprotected:
        yield warning(subject, f"{text}; the connection leaves this machine: use rediss://")
    elif address.is_remote and not settings.cache_encryption_keys:
        yield warning(subject, f"{text}; records are stored unencrypted: set CACHE_ENCRYPTION_KEY")
    else:
        yield ok(subject, text)


async def check_grpc(dependency: GrpcDependency) -> AsyncIterator[Finding]:
    """Checks one of HEALTH_GRPC_DEPENDENCIES."""
    checker = GrpcChecker(dependency, timeout=_TIMEOUT_S)
    try:
        found = await checker.check()
    finally:
        await checker.close()
    subject = f"gRPC service {dependency.name}"
    if found.status is Status.HEALTHY:
        yield ok(subject, found.message)
    else:
        yield (error if dependency.is_critical else warning)(subject, found.message)


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Checks that files can be created in each folder, and its free space."""
    yield _check_folder("SPILL_DIR", Path(settings.spill_dir or tempfile.gettempdir()))
    if settings.backup_dir is not None:
        yield _check_folder("BACKUP_DIR", Path(settings.backup_dir))


def _check_folder(setting: str, folder: Path) -> Finding:
    subject = f"folder {setting}"
    # A new folder is created in the nearest folder that exists.
    existing = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path("/"))
    if not existing.is_dir():
        return error(subject, f"{existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        return error(subject, f"{existing} is not writable")
    try:
        free = shutil.disk_usage(existing).free
    except OSError as problem:
        return error(subject, f"{existing}: {problem.strerror}")
    text = f"{folder}{'' if folder == existing else ' will be created'}, {free / 2**30:,.1f} GiB free"
    return warning(subject, f"{text}: little space") if free < _MIN_FREE_BYTES else ok(subject, text)


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Checks that each address can be listened on. A running vsyncd uses them."""
    addresses = {
        "GRPC_LISTEN": settings.grpc_listen,
        "GRPC_TOKEN_LISTEN": settings.grpc_token_listen,
        "GRPC_HEALTH_LISTEN": settings.grpc_health_listen,
        "HTTP_LISTEN": settings.http_listen,
    }
    if (admin := admin_address(settings)) != settings.http_listen:
        addresses["ADMIN_LISTEN"] = admin
    for setting, address in addresses.items():
        if address is not None:
            yield _check_port(f"port {setting}", address)


def _check_port(subject: str, address: str) -> Finding:
    endpoint = parse_host_port(address)
    try:
        for each in listening_sockets(endpoint.host, endpoint.port):
            with suppress(OSError):
                each.close()
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return warning(subject, f"{address} is in use, perhaps by a running vsyncd")
        return error(subject, f"{address}: {problem.strerror or problem}")
    return ok(subject, f"{address} is free")
