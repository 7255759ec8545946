"""Who is calling: the name in the client's certificate, else `anonymous`."""

from typing import Any

from vsyncd.call import Call
from vsyncd.transport.pipeline import Handler, Method


class Identity:
    """Sets the call's actor. Without mutual TLS there is nothing to look at."""

    def __init__(self, *, mutual_tls: bool) -> None:
        self._mutual_tls = mutual_tls

    def wrap(self, method: Method, handler: Handler) -> Handler:  # noqa: ARG002  every method alike
        """See Interceptor."""
        if not self._mutual_tls:
            return handler

        async def identify(request: Any, call: Call) -> Any:
            call.actor = _name(call.context.auth_context()) or "anonymous"
            return await handler(request, call)

        return identify


def _name(properties: dict[str, list[bytes]]) -> str | None:
    """The certificate's common name, else its first subject alternative name."""
    for field in ("x509_common_name", "x509_subject_alternative_name"):
        for value in properties.get(field, ()):
            return value.decode("utf-8", "replace").replace("\0", "")[:200] or None
    return None
