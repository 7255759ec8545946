"""Loads the settings, and reports all wrong ones."""

from collections.abc import Mapping
from functools import cache

from pydantic import ValidationError, create_model

from vsyncd.config.aliases import Aliases
from vsyncd.config.errors import ConfigError
from vsyncd.config.settings import Settings
from vsyncd.config.types import error_line
from vsyncd.config.variables import read_variables, unknown_variables


@cache
def combined_settings(*domain_settings: type[Settings]) -> type[Settings]:
    """Returns the class of the settings, followed by those that these subclasses declare."""
    # Fields of a class precede those of the classes before it in the list of bases.
    return create_model("Settings", __base__=domain_settings[::-1]) if domain_settings else Settings


def load_settings(*domain_settings: type[Settings], **overrides: object) -> Settings:
    """Returns the settings, including those that `domain_settings` declare.

    `overrides` have priority over the environment, unless they are None. Raises ConfigError with every wrong variable.
    """
    kind = combined_settings(*domain_settings)
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := given.keys() - kind.model_fields.keys():
        raise TypeError(f"there is no setting {', '.join(sorted(unknown))}")
    try:
        aliases = Aliases(read_variables(), kind.model_fields)
        settings = kind(**{**aliases.values, **given})  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        # Without a cause: pydantic's errors contain the values.
        raise ConfigError(*aliases.errors, *_lines(kind, error, aliases.names)) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError(".env: takes readable UTF-8 text") from None
    if aliases.errors:
        raise ConfigError(*aliases.errors)
    return settings


def variable_notes(*domain_settings: type[Settings]) -> list[str]:
    """Returns a line for each alias and each misspelled name among the variables.

    Raises OSError or UnicodeDecodeError if .env cannot be read.
    """
    fields = combined_settings(*domain_settings).model_fields
    variables = read_variables()
    return [*Aliases(variables, fields).notices, *map(str, unknown_variables(variables, fields))]


def _lines(kind: type[Settings], error: ValidationError, names: Mapping[str, str]) -> list[str]:
    """Returns the line about each setting, under the name in `names` if it was given under another one."""
    lines: dict[str, str] = {}
    for details in error.errors(include_url=False, include_input=False):
        name = str(details["loc"][0])
        # A ValueError of this package gives a reason, without the value.
        reason = str(details["ctx"]["error"]) if details["type"] == "value_error" else ""
        lines.setdefault(name, error_line(names.get(name, name), kind.model_fields[name], reason))
    return list(lines.values())
