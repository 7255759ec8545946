"""What vsyncd is told: read once at the start, checked, and read-only from then on.

settings     every setting: its name, what it takes, its default and its meaning
kinds        how each kind of value is checked, and put to an operator
connections  the connection strings that the settings come to
endpoints, database_url, redis_url   what some of the values hold
words        settings in words, secrets masked
"""

from vsyncd.config.errors import ConfigError
from vsyncd.config.loading import load_settings
from vsyncd.config.settings import Settings

__all__ = ["ConfigError", "Settings", "load_settings"]
