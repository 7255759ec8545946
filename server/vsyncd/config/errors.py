"""Errors of the settings."""


class ConfigError(Exception):
    """The settings are wrong. `lines` has one line per variable: its name and what it takes, but not its value."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class StartError(Exception):
    """The process cannot start with a setting. The text begins with the name of the setting."""


def cannot_listen(*, setting: str, address: str) -> StartError:
    """Returns the error for an address that the operating system rejects."""
    return StartError(f"{setting}: cannot listen on {address}: it is in use, or not an address of this machine")
