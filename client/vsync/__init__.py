"""The client of vsyncd, the data service of a Pix participant's VSync system.

    import vsync
    from vsync.v1.cid_pb2 import GetCidRequest

    async with vsync.connect("localhost:50051") as client:
        response = await client.cids.GetCid(GetCidRequest(cid="28c06eb4..."))

`connect` is for asyncio, `connect_sync` for threads. A failed call raises a subclass of `CallError`. `compute_cid`,
`vsync_of` and `xor` compute CIDs and VSyncs as the directory (DICT) does. `normalize_key` returns the canonical form of
a key. The messages are in vsync.v1, sample records in vsync.sample.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from vsync.version import __version__ as __version__

if TYPE_CHECKING:
    from vsync.api import *  # noqa: F403 - the names in its __all__


def __getattr__(name: str) -> object:
    """Loads the public names at their first use: most modules of the package do not need gRPC."""
    if name == "__all__" or not name.startswith("_"):
        return getattr(import_module("vsync.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
