"""The version of the distribution: client and server are released together."""

__version__ = "0.1.0"
