"""One execution of a transaction."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from vsyncd.core.context import current_context
from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.connection import Connection

T = TypeVar("T")


class Transaction(Generic[T]):
    """`work` between BEGIN and COMMIT; `token` is asked for the call's consistency token after the commit.

    `committing`: COMMIT was sent. An error from then on may leave its outcome unknown.
    """

    def __init__(
        self,
        work: Callable[[Connection], Awaitable[T]],
        token: Callable[[Connection], Awaitable[str]] | None,
    ) -> None:
        self._work = work
        self._token = token
        self._call = current_context()
        self.committing = False

    async def run(self, connection: Connection) -> T:
        """The result of the work."""
        # Behind a pooler the session may not be the one whose settings were set.
        await connection.execute(b"BEGIN ISOLATION LEVEL read committed")
        try:
            result = await self._work(connection)
        except BaseException:
            if not connection.closed:
                await connection.rollback()
            raise
        self.committing = True
        with QUERIES.timed("postgres.commit"), connection.committing():
            await connection.execute(b"COMMIT")
        if self._token is not None:
            self._call.token = await self._token(connection)
        return result
