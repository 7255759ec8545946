"""A backup, as a list shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from vsyncd.backup.manifest import Manifest, Verification

# So far the clocks of the server and of this machine may be apart.
_CLOCKS_APART: Final = timedelta(hours=1)

# From the worst to the best.
State = Literal["damaged", "unrestorable", "unverified", "verified", "restored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What is known of a backup without reading its dump. `manifest` is None when it cannot be read; `problems` has
    what is wrong at first sight, and `verification` what the last one came to."""

    name: str
    size: int
    manifest: Manifest | None
    problems: tuple[str, ...] = ()
    verification: Verification | None = None

    @property
    def created_at(self) -> datetime:
        """The time in the name: that of the snapshot."""
        return datetime.strptime(self.name.rpartition("-")[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)

    def is_ahead(self, now: datetime) -> bool:
        """Whether it is of a time that is still to come: the server's clock was ahead. Nobody can say how old it is."""
        return self.created_at > now + _CLOCKS_APART

    @property
    def damaged(self) -> bool:
        """Whether its files, or what was restored from them, are not what they should be."""
        return bool(self.problems or (self.verification is not None and self.verification.problems))

    @property
    def unrestorable(self) -> bool:
        """Whether its files are whole, and the last attempt to restore it failed nevertheless."""
        return not self.damaged and self.verification is not None and self.verification.restore_error is not None

    @property
    def good(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return not self.damaged and not self.unrestorable

    @property
    def verified(self) -> bool:
        """Whether a verification found it good."""
        return self.good and self.verification is not None

    @property
    def restored(self) -> bool:
        """Whether it is good, and was restored for a verification."""
        return self.good and self.verification is not None and self.verification.restored

    @property
    def state(self) -> State:
        """In a word."""
        if self.damaged:
            return "damaged"
        if self.unrestorable:
            return "unrestorable"
        if self.restored:
            return "restored"
        return "verified" if self.verified else "unverified"
