"""The participants whose data a call may read and change."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vsyncd.core.context import current_context
from vsyncd.core.errors import PermissionDenied


class IspbDenied(PermissionDenied):
    """The request names a participant that the caller may not access. `index`: the position of the record."""

    def __init__(self, index: int | None = None) -> None:
        metadata = {} if index is None else {"index": str(index)}
        super().__init__("ISPB_DENIED", "The caller may not access the data of this participant.", metadata=metadata)


@dataclass(frozen=True, slots=True)
class Scope:
    """The permitted participants; None: all.

    Data without an ispb is about all participants. It is in the scope of all of them only.
    """

    ispbs: frozenset[str] | None

    def __contains__(self, ispb: str | None) -> bool:
        return self.ispbs is None or ispb in self.ispbs

    @property
    def is_restricted(self) -> bool:
        """Whether some participants are outside the scope."""
        return self.ispbs is not None

    def check(self, ispb: str | None) -> None:
        """Raises IspbDenied unless the participant is in the scope. None or an empty text: all participants."""
        if ispb not in self:
            raise IspbDenied

    def check_each(self, ispbs: Iterable[str | None]) -> None:
        """Raises IspbDenied with the index of the first participant that is not in the scope."""
        if self.ispbs is not None:
            for index, ispb in enumerate(ispbs):
                if ispb not in self.ispbs:
                    raise IspbDenied(index)

    def narrow(self, ispb: str | None) -> tuple[str | None, list[str] | None]:
        """Returns the ispb and the list of ispbs that a filter must match; None: any. At most one is given.

        `ispb` is the filter's own, if it has one. Raises IspbDenied if that is not in the scope.
        """
        if ispb or self.ispbs is None:
            self.check(ispb)
            return ispb, None
        if len(self.ispbs) == 1:
            return next(iter(self.ispbs)), None
        return None, sorted(self.ispbs)


ALL: Final = Scope(None)


def current_scope() -> Scope:
    """Returns the scope of the current call. In a background job it is ALL."""
    ispbs = current_context().grant.ispbs
    return ALL if ispbs is None else Scope(ispbs)
