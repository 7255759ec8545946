"""The error of the cache. It never reaches a caller: without the cache, the database answers."""

from typing import Final

from redis.exceptions import RedisError

# What redis-py raises for a lost connection or an unexpected answer, besides its own errors: RuntimeError is uvloop's
# for a closed connection and, as RecursionError, for a deeply nested answer; ValueError is the parser's for garbage and
# ours for an answer of the wrong type; TypeError and AttributeError come from redis-py's handling of such an answer;
# KeyError from a cluster whose slots it does not know.
REDIS_ERRORS: Final = (RedisError, OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError)


class CacheError(Exception):
    """Redis is unreachable, does not answer in time, or refused a command. The text contains no keys or values."""
