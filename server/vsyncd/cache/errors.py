"""Errors of the cache. No caller sees them: when the cache cannot answer, the database does."""

# ruff: noqa: N818 - the leaves say what happened

from typing import Final

from redis.exceptions import RedisError

# What redis-py raises for a lost connection or an unexpected answer. Besides its own errors: RuntimeError is uvloop's
# for a closed connection and, as RecursionError, for a deeply nested answer; ValueError is the parser's for garbage and
# ours for an answer of another kind; TypeError and AttributeError come from redis-py's handling of such an answer;
# KeyError from a cluster whose slots it does not know.
REDIS_ERRORS: Final = (RedisError, OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError)


class CacheError(Exception):
    """The root."""


class CacheUnavailable(CacheError):
    """Redis is not there, or does not answer in time."""


class CacheRefused(CacheError):
    """Redis answers, and refuses: it is full, or does not know the command."""
