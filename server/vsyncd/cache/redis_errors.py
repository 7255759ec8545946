"""What redis-py raises when Redis is not there, or answers with something else."""

from typing import Final

from redis.exceptions import RedisError

# RuntimeError is uvloop's for a connection that has just been closed, and, as RecursionError, for an answer that is
# nested without end; ValueError the parser's for garbage and ours for an answer of another kind; TypeError and
# AttributeError redis-py's for one that it makes something of; KeyError its for a cluster of which it does not know the
# slots.
TROUBLE: Final = (RedisError, OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError)
