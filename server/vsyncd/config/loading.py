"""Read the settings, and say of all that are wrong what they take."""

from __future__ import annotations

from pydantic import ValidationError

from vsyncd.config.errors import ConfigError
from vsyncd.config.rendering import complaint
from vsyncd.config.settings import Settings


def load_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` (by attribute, None for none) win over the environment.

    Raises ConfigError that names every variable that is wrong.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := given.keys() - Settings.model_fields.keys():
        raise TypeError(f"there is no setting {', '.join(sorted(unknown))}")
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        # No cause: pydantic's own text is about types, and its errors hold the values.
        raise ConfigError(*_lines(error)) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError(".env: takes UTF-8 text that can be read") from None


def _lines(error: ValidationError) -> list[str]:
    lines: dict[str, str] = {}
    for details in error.errors(include_url=False, include_input=False):
        name = str(details["loc"][0])
        # Our own checks say why, and never repeat a value.
        reason = str(details["ctx"]["error"]) if details["type"] == "value_error" else ""
        lines.setdefault(name, complaint(name, Settings.model_fields[name], reason))
    return list(lines.values())
