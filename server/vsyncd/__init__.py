"""vsyncd: the data service of a Pix participant's VSync system."""

from vsync.version import __version__

__all__ = ["__version__"]
