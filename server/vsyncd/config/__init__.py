"""The settings, which are read and validated once at the start.

settings     every setting with its default and description, except those that domains declare
types        the types of settings, with validation and formatting
loading      reading the settings
connections  the connection strings for PostgreSQL
aliases      other names of settings
variables    misspelled names of variables
endpoints, database_url, durations, redis_url, schedules   parsers of structured values
"""

from vsyncd.config.errors import ConfigError, StartError, cannot_listen
from vsyncd.config.loading import load_settings
from vsyncd.config.settings import Settings

__all__ = ["ConfigError", "Settings", "StartError", "cannot_listen", "load_settings"]
