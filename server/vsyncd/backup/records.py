"""A backup, as a list shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from vsyncd.backup.manifest import BackupVerification, Manifest

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
    verification: BackupVerification | None = None

    @property
    def created_at(self) -> datetime:
        """The time in the name: that of the snapshot."""
        return datetime.strptime(self.name.rpartition("-")[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)

    def is_ahead(self, now: datetime) -> bool:
        """Whether it is of a time that is still to come: the server's clock was ahead. Nobody can say how old it is."""
        return self.created_at > now + _CLOCKS_APART

    @property
    def findings(self) -> tuple[str, ...]:
        """What is known to be wrong with it, a line each."""
        if self.problems or self.verification is None:
            return self.problems
        error = self.verification.restore_error
        return self.verification.problems or ((f"it could not be restored: {error}",) if error else ())

    def unfit(self, now: datetime) -> str | None:
        """Why it cannot be `latest`: one line, or None if it can."""
        if not self.good:
            return f"{self.state}: {'; '.join(self.findings)}"
        return "it is dated in the future" if self.is_ahead(now) else None

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


class Skipped(NamedTuple):
    """A backup that a decision passes over, and the reason."""

    name: str
    reason: str


class Latest(NamedTuple):
    """The newest good backup, if there is one, and the newer ones that were passed over, the newest first."""

    backup: Backup | None
    skipped: Sequence[Skipped]


def latest_of(backups: Iterable[Backup], unfit: Callable[[Backup], str | None]) -> Latest:
    """The newest backup that is not unfit; `unfit` returns the reason."""
    skipped: list[Skipped] = []
    for backup in sorted(backups, key=lambda each: each.created_at, reverse=True):
        if (reason := unfit(backup)) is None:
            return Latest(backup, skipped)
        skipped.append(Skipped(backup.name, reason))
    return Latest(None, skipped)
