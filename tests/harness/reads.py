"""What was written and read through caches, recorded, and how far behind the reads were. Times are of one clock."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# The version of a record that is not there.
ABSENT: Final = 0


class Step(NamedTuple):
    """A version was written or read, between two times."""

    version: int
    begun: float
    ended: float


@dataclass
class Register:
    """One record's history. Its writes come one after the other; at first it is not there."""

    writes: list[Step] = field(default_factory=lambda: [Step(ABSENT, 0.0, 0.0)])
    reads: list[Step] = field(default_factory=list)

    def lag(self, read: Step) -> float:
        """Seconds since which what was read had been replaced for certain when the read began."""
        lags = [
            max(0.0, read.begun - self.writes[at + 1].ended) if at + 1 < len(self.writes) else 0.0
            for at, write in enumerate(self.writes)
            if write.version == read.version and write.begun <= read.ended
        ]
        assert lags, f"nobody had written {read.version}"
        return min(lags)


class Reads:
    """Histories by record."""

    def __init__(self) -> None:
        self.registers: defaultdict[int, Register] = defaultdict(Register)

    @property
    def count(self) -> int:
        """How many reads there were."""
        return sum(len(register.reads) for register in self.registers.values())

    @property
    def writes(self) -> int:
        """How many writes there were."""
        return sum(len(register.writes) - 1 for register in self.registers.values())

    def worst(self) -> float:
        """The most seconds by which a read was behind."""
        return max(register.lag(read) for register in self.registers.values() for read in register.reads)

    def worst_so_far(self) -> float:
        """The same while it goes on: what was read of a write that is under way counts later."""
        lags = (
            register.lag(read)
            for register in self.registers.values()
            for read in register.reads
            if any(write.version == read.version for write in register.writes)
        )
        return max(lags, default=0.0)
