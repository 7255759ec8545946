"""vsyncd: the data service of a Pix participant's VSync system."""

import os

# Read when gRPC is loaded, which comes next. We start programs and never fork to go on ourselves: gRPC's own handlers
# would run, and can fail, in every child between its fork and its exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from vsync.version import __version__

__all__ = ["__version__"]
