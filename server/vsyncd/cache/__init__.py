"""Caches CID records in Redis, with a bound on how stale they can be (docs/cache.md).

operations       the Redis commands in use, each bounded in time, counted, and behind a circuit breaker
encoding         the format of keys and values
watermark        the position in PostgreSQL's change feed up to which a Redis has been invalidated
invalidator      reads the change feed, deletes changed entries, and decides whether the cache may be used
lookups          finds records within a call's lookup timeout
read_through     reads records for the domains, and stores what it loads
"""
