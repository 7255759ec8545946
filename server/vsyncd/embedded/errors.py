"""Errors of the embedded servers. Every message names the folder and a remedy."""

# ruff: noqa: N818 - the subclasses say what happened


class EmbeddedError(Exception):
    """Root: an embedded server could not be started or stopped."""


class DataDirInUse(EmbeddedError):
    """Another vsyncd has locked this data folder."""


class DataDirUnreachable(EmbeddedError):
    """The data folder cannot be created, entered or written to by the required user."""


class IncompatibleData(EmbeddedError):
    """The data folder contains a cluster of another major version of PostgreSQL."""


class BinariesMissing(EmbeddedError):
    """The wheel with PostgreSQL's programs is not installed, or lacks the requested version."""


class InitFailed(EmbeddedError):
    """initdb failed; the message ends with its output."""


class StartFailed(EmbeddedError):
    """The server exited or did not become ready; the message ends with the last lines of its log."""


class RestartsFailed(EmbeddedError):
    """The server exits repeatedly or cannot be restarted; the message ends with the last reason."""


class NotRunning(EmbeddedError):
    """No server runs in this data folder."""
