"""The innermost interceptor: ends a unary call at its deadline. Streams have their own limits."""

import asyncio
from typing import Any

from vsyncd.core.context import RequestContext
from vsyncd.transport.pipeline import Handler, Method


class Deadline:
    """Sets the deadline and cancels the handler when it has passed. `default`: seconds for calls without one."""

    def __init__(self, *, default: float) -> None:
        self._default = default

    def wrap(self, method: Method, handler: Handler) -> Handler:
        if not method.unary or method.is_health:
            return handler

        async def limit(request: Any, context: RequestContext) -> Any:
            given = context.servicer_context.time_remaining()
            seconds = self._default if given is None else given
            context.deadline = asyncio.get_running_loop().time() + seconds
            async with asyncio.timeout_at(context.deadline):
                return await handler(request, context)

        return limit
