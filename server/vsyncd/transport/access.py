"""The interceptors that authenticate and authorize. Public methods need no credentials.

The credentials of health calls are read if there are any, because the grant decides who sees details.
"""

import contextlib
from typing import Any

from vsyncd.access.control import AccessControl
from vsyncd.access.denials import Denials
from vsyncd.access.roles import required_role
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import PermissionDenied, Unauthenticated
from vsyncd.core.grants import UNAUTHENTICATED_GRANT, Role
from vsyncd.transport.pipeline import Handler, Method


class Authentication:
    """Sets the principal and the grant of the context. Raises Unauthenticated."""

    def __init__(self, access: AccessControl) -> None:
        self._access = access

    def wrap(self, method: Method, handler: Handler) -> Handler:
        if not self._access.enforced:
            return _unauthenticated(handler)
        of_certificate, of_token = self._access.caller_of_certificate, self._access.caller_of_token

        async def identify(context: RequestContext) -> None:
            # Only the listener for mutual TLS requests a certificate; there it is the identity.
            pems = context.servicer_context.auth_context().get("x509_pem_cert")
            caller = of_certificate(pems[0]) if pems else await of_token(context.metadata.get("authorization"))
            context.principal, context.grant = caller.principal, caller.grant

        async def authenticate(request: Any, context: RequestContext) -> Any:
            await identify(context)
            return await handler(request, context)

        async def identify_if_possible(request: Any, context: RequestContext) -> Any:
            with contextlib.suppress(Unauthenticated):
                await identify(context)
            return await handler(request, context)

        if required_role(method.name) is not Role.PUBLIC:
            return authenticate
        return identify_if_possible if method.is_exempt else handler


def _unauthenticated(handler: Handler) -> Handler:
    async def permit(request: Any, context: RequestContext) -> Any:
        context.grant = UNAUTHENTICATED_GRANT
        return await handler(request, context)

    return permit


class MethodDenied(PermissionDenied):
    """The caller does not have the role that the method needs."""

    def __init__(self, role: Role) -> None:
        super().__init__("METHOD_DENIED", "The caller may not call this method.", metadata={"role": role.value})


class Authorization:
    """Raises MethodDenied if the caller's grant lacks the role of the method, which `denials` notes."""

    def __init__(self, access: AccessControl, denials: Denials) -> None:
        self._enforced = access.enforced
        self._denials = denials

    def wrap(self, method: Method, handler: Handler) -> Handler:
        if not self._enforced:
            return handler
        role = required_role(method.name)
        if role is Role.PUBLIC:
            return handler

        async def authorize(request: Any, context: RequestContext) -> Any:
            if role not in context.grant.roles:
                self._denials.note(context.principal, method.name, context.correlation_id)
                raise MethodDenied(role)
            return await handler(request, context)

        return authorize
