"""Errors of the embedded servers. Every message names the folder and a remedy."""

# ruff: noqa: N818 - the subclasses say what happened


class EmbeddedError(Exception):
    """Root: an embedded server could not be started or stopped."""


class DataDirInUse(EmbeddedError):
    """Another vsyncd has locked this data folder."""


class DataDirUnreachable(EmbeddedError):
    """The data folder cannot be created, entered or written to by the required user."""


class StartFailed(EmbeddedError):
    """The server exited or did not become ready; the message ends with the last lines of its log."""
