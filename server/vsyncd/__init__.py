"""vsyncd: the data service of a Pix participant's VSync system."""

import os
from importlib.metadata import version
from typing import Final

# Read when gRPC is loaded. vsyncd forks only to execute other programs: gRPC's fork handlers would run, and can fail,
# in every child before it executes the program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

__version__: Final = version("vsyncd")

__all__ = ["__version__"]
