"""What can go wrong with the embedded servers. Every message names the folder and what to do about it."""

# ruff: noqa: N818 - the leaves say what happened


class EmbeddedError(Exception):
    """The root: an embedded server could not be started or stopped."""


class DataDirInUse(EmbeddedError):
    """Another vsyncd holds this data folder."""


class DataDirUnreachable(EmbeddedError):
    """The data folder cannot be made, entered or written by who has to."""


class IncompatibleData(EmbeddedError):
    """The data folder holds a cluster of another major version of PostgreSQL."""


class BinariesMissing(EmbeddedError):
    """The wheel with PostgreSQL's programs is not installed, or lacks the version asked for."""


class InitFailed(EmbeddedError):
    """initdb refused; the message ends with what it said."""


class StartFailed(EmbeddedError):
    """The server ended or stayed silent while starting; the message ends with the last lines of its log."""


class RestartsFailed(EmbeddedError):
    """A server that ended by itself could not be kept running; the message ends with the last reason."""


class NotRunning(EmbeddedError):
    """There is no server over this data folder now."""
