"""The resources of this process: tasks, file descriptors and memory."""

import asyncio
import gc
from typing import NamedTuple, Self

import psutil

_MEGABYTE = 1024 * 1024


class Footprint(NamedTuple):
    """The resources at one time. Memory in bytes."""

    tasks: int
    descriptors: int
    memory: int

    @classmethod
    def now(cls) -> Self:
        """Returns the resources after a garbage collection."""
        gc.collect()
        process = psutil.Process()
        return cls(len(asyncio.all_tasks()), process.num_fds(), process.memory_info().rss)

    def grown_since(self, before: Self) -> dict[str, float]:
        """Returns the growth, with memory in megabytes."""
        return {
            "tasks": self.tasks - before.tasks,
            "descriptors": self.descriptors - before.descriptors,
            "megabytes": round((self.memory - before.memory) / _MEGABYTE, 1),
        }
