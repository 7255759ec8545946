"""The uptime, the memory and the disks of this process."""

import asyncio
import resource
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from vsync.health.v1 import health_pb2 as pb

from vsyncd.config import Settings

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_MEMINFO: Final = Path("/proc/meminfo")
_STATM: Final = Path("/proc/self/statm")
# A report must not wait longer for a file system that does not respond.
_DISK_TIMEOUT_S: Final = 0.2


class ProcessResources:
    """Reads the resources at each request. The time since the creation is the uptime."""

    def __init__(self, settings: Settings) -> None:
        folders = {"SPILL_DIR": settings.spill_dir or tempfile.gettempdir(), "BACKUP_DIR": settings.backup_dir}
        self._folders = {setting: folder for setting, folder in folders.items() if folder is not None}
        self._began = time.monotonic()
        self._memory_limit = _memory_limit()
        self._reading: asyncio.Future[list[pb.DiskInfo]] | None = None

    async def read(self) -> pb.ProcessInfo:
        return pb.ProcessInfo(
            uptime_seconds=int(time.monotonic() - self._began),
            memory_bytes=_memory(),
            memory_limit_bytes=self._memory_limit,
            disks=await self._disks(),
        )

    async def _disks(self) -> list[pb.DiskInfo]:
        """Returns the disks, or none if a file system does not respond. Only one thread waits for it."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read_disks))
        reading = self._reading
        await asyncio.wait({reading}, timeout=_DISK_TIMEOUT_S)
        return reading.result() if reading.done() else []

    def _read_disks(self) -> list[pb.DiskInfo]:
        disks = []
        for setting, folder in self._folders.items():
            # The folder of the backups may not exist yet.
            with suppress(OSError):
                usage = shutil.disk_usage(folder)
                disks.append(pb.DiskInfo(setting=setting, total_bytes=usage.total, free_bytes=usage.free))
        return disks


def _memory() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # not Linux: the maximum, which macOS has in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _memory_limit() -> int:
    machine = _memory_of_machine()
    try:
        limit = int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no container, or "max"
        return machine
    return min(limit, machine) if machine else limit


def _memory_of_machine() -> int:
    try:
        # The first line is "MemTotal:  16384256 kB".
        return int(_MEMINFO.read_text().split()[1]) * 1024
    except (OSError, ValueError, IndexError):  # not Linux
        return 0
