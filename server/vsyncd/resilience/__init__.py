"""Circuit breaker, retry, retry budget, coalescer and asyncio task helpers. Knows neither PostgreSQL nor Redis."""
