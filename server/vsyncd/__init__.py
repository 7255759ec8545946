"""vsyncd: the data service of a Pix participant's VSync system."""

import os
from importlib.metadata import version
from typing import Final

# Read when gRPC is loaded. We start programs and never fork to go on ourselves: gRPC's own handlers
# would run, and can fail, in every child between its fork and its exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__version__: Final = version("vsyncd")

__all__ = ["__version__"]
