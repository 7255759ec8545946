"""The findings of the checks."""

from enum import Enum
from typing import NamedTuple


class Level(Enum):
    """The value is the exit code of the command."""

    OK = 0
    WARNING = 1
    ERROR = 2


class Finding(NamedTuple):
    """The result of one check of `subject`. The message contains no secret."""

    level: Level
    subject: str
    message: str


def ok(subject: str, message: str) -> Finding:
    return Finding(Level.OK, subject, message)


def warning(subject: str, message: str) -> Finding:
    return Finding(Level.WARNING, subject, message)


def error(subject: str, message: str) -> Finding:
    return Finding(Level.ERROR, subject, message)
