"""Records in Redis, and why none of them is ever out of date for long (docs/cache.md).

Cache            the operations: get, set, set_if_absent, delete, refresh_ttl, each bounded and counted
names, envelopes what a key and a value look like
feed             what is known of changes: the place that Redis and PostgreSQL are compared by
follower         brings the changes from PostgreSQL to Redis, and knows whether the cache may be believed
lookups          asks Redis for records, within the time that a call has for it (patience)
read_through     what a domain reads its records through
"""
