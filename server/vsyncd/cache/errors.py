"""What can go wrong with the cache. None of it reaches a caller: what the cache cannot answer, the database does."""

# ruff: noqa: N818 - the leaves say what happened


class CacheError(Exception):
    """The root."""


class CacheUnavailable(CacheError):
    """Redis is not there, or does not answer in time."""


class CacheRefused(CacheError):
    """Redis answers, and refuses: it is full, or does not know the command."""
