"""One execution of a transaction."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from vsyncd.core.context import current_context
from vsyncd.observability.metrics import QUERIES
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import WalPosition

T = TypeVar("T")


class Transaction(Generic[T]):
    """`work` between BEGIN and COMMIT; `position` is asked after its commit, for the call's consistency token.

    `committing`: COMMIT was sent. An error from then on may leave its outcome unknown.
    """

    def __init__(
        self,
        work: Callable[[Connection], Awaitable[T]],
        position: Callable[[Connection], Awaitable[WalPosition | None]] | None,
    ) -> None:
        self._work = work
        self._position = position
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
        if self._position is not None:
            position = await self._position(connection)
            self._call.token = position.encode() if position else ""
        return result
