"""What is wrong with settings, in words that show no value."""


class ConfigError(Exception):
    """The settings are wrong. `lines` has one line a variable: its name and what it takes, never its value."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
