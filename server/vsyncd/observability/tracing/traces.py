"""What the parts of the service tell of what they do. Costs next to nothing while nobody listens."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Final, Protocol


class TracingError(Exception):
    """The OTEL_* variables ask for something that is not available."""


class Spans(Protocol):
    """What makes spans. Names and attributes are ours alone: nothing of a request's content is in them."""

    def call(
        self, method: str, metadata: Mapping[str, str | bytes], correlation_id: str, code: Callable[[], int]
    ) -> AbstractContextManager[None]:
        """A call that is served; its caller's span is in the metadata. `code` returns gRPC's status code once the
        call has ended."""
        ...

    def operation(self, name: str, system: str) -> AbstractContextManager[None]:
        """One request to PostgreSQL or Redis."""
        ...

    def batch(self, name: str, members: Sequence[object]) -> AbstractContextManager[None]:
        """Calls that were gathered; `members` are what `here` gave in each."""
        ...

    def here(self) -> object:
        """The present span, to be linked to."""
        ...

    def apart(self) -> Context:
        """An empty context but for the present span."""
        ...


class Traces:
    """Passes everything on to `spans`; None: nobody listens."""

    def __init__(self) -> None:
        self.spans: Spans | None = None

    def operation(self, name: str, system: str) -> AbstractContextManager[None]:
        """The block of a `with` is one request to PostgreSQL or Redis."""
        return _NOTHING if self.spans is None else self.spans.operation(name, system)

    def batch(self, name: str, members: Sequence[object]) -> AbstractContextManager[None]:
        """The block of a `with` serves several calls, which said `here`, at once."""
        return _NOTHING if self.spans is None else self.spans.batch(name, members)

    def here(self) -> object:
        """What a call says of itself to a batch."""
        return None if self.spans is None else self.spans.here()

    def apart(self) -> Context:
        """A context for what is nobody's call, and yet belongs to the present one's trace."""
        return Context() if self.spans is None else self.spans.apart()


_NOTHING: Final = nullcontext()
TRACES: Final = Traces()
