"""The outermost interceptor: correlation id, request context and trailing metadata."""

from secrets import token_hex
from typing import Any, Final

from vsyncd.core.context import (
    CONSISTENCY_TOKEN_HEADER,
    CORRELATION_ID_FORM,
    RequestContext,
    reset_current_context,
    set_current_context,
)
from vsyncd.transport.pipeline import Handler, Method

CORRELATION_ID: Final = "x-correlation-id"


class Correlation:
    """Sets the metadata and the correlation id of the context, and makes it the current context.

    Replaces a correlation id that is missing or is not 1 to 128 visible ASCII characters. Returns the id, and the
    consistency token of a write, in the trailing metadata.
    """

    def wrap(self, method: Method, handler: Handler) -> Handler:  # noqa: ARG002  the same for every method
        async def correlate(request: Any, context: RequestContext) -> Any:
            context.metadata = dict(context.servicer_context.invocation_metadata() or ())
            given = context.metadata.get(CORRELATION_ID, "")
            if isinstance(given, str) and CORRELATION_ID_FORM(given) is not None:
                context.correlation_id = given
            else:
                context.correlation_id = token_hex(16)
            context.servicer_context.set_trailing_metadata(((CORRELATION_ID, context.correlation_id),))
            token = set_current_context(context)
            try:
                response = await handler(request, context)
                if context.token:
                    context.servicer_context.set_trailing_metadata(
                        ((CORRELATION_ID, context.correlation_id), (CONSISTENCY_TOKEN_HEADER, context.token))
                    )
                return response
            finally:
                reset_current_context(token)

        return correlate
