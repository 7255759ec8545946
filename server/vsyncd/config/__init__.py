"""The settings, which are read and validated once at the start.

settings     every setting with its default and description; loading them, and errors
types        the types of settings, with validation and formatting
connections  the connection strings for PostgreSQL
endpoints, database_url, redis_url, schedules   parsers of structured values
"""

from vsyncd.config.settings import ConfigError, Settings, StartError, load_settings

__all__ = ["ConfigError", "Settings", "StartError", "load_settings"]
