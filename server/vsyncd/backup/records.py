"""A backup, as a list shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from vsyncd.backup.manifest import Manifest, Verification


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
    def database(self) -> str:
        """The database, as the name has it."""
        return self.name.rpartition("-")[0]

    @property
    def created_at(self) -> datetime:
        """The time in the name: that of the snapshot."""
        return datetime.strptime(self.name.rpartition("-")[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)

    @property
    def good(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return not self.problems and (self.verification is None or not self.verification.problems)

    @property
    def verified(self) -> bool:
        """Whether a verification found it good."""
        return self.good and self.verification is not None

    @property
    def state(self) -> str:
        """In a word: damaged, restored (for a verification), verified, or unverified."""
        if not self.good:
            return "damaged"
        if self.verification is None:
            return "unverified"
        return "restored" if self.verification.restored else "verified"
