"""The registry of this process, with what the operating system and the interpreter know of it."""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

# Otherwise each counter has a gauge beside it that says when it was made: nobody asks for that.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there

REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)
