"""The variables of the environment and of .env, and the misspelled ones among them."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final, NamedTuple

from pydantic_settings import DotEnvSettingsSource

from vsyncd.config.aliases import ALIASES
from vsyncd.config.settings import Settings

# Every variable that begins with one of these is expected to be a setting.
_PREFIXES: Final = ("AUTHN_", "AUTHZ_", "BACKUP_", "DATABASE_", "DB_", "RECONCILIATION_", "REDIS_")
# Kubernetes and Docker define such variables for other services, which may be called db or redis.
_SERVICE_LINK: Final = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_.*)?|ENV_.*)")
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://.*")
# One edit away from a shorter name may be another word: DOMAIN is not DOMAINS.
_MIN_LENGTH: Final = 8
_MIN_SIMILARITY: Final = 0.6


class UnknownVariable(NamedTuple):
    """A variable with a misspelled name of a setting. `nearest` is the most similar setting, if there is one."""

    name: str
    nearest: str | None

    def __str__(self) -> str:
        return f"{self.name} is not a setting" + (f": is {self.nearest} meant?" if self.nearest else "")


def read_variables() -> dict[str, str]:
    """Returns the variables that are not empty. The environment has priority over .env.

    Raises OSError or UnicodeDecodeError if .env cannot be read.
    """
    sources = (DotEnvSettingsSource(Settings).env_vars, os.environ)
    return {name.upper(): value for source in sources for name, value in source.items() if value}


def unknown_variables(variables: Mapping[str, str], settings: Iterable[str]) -> list[UnknownVariable]:
    """Returns the variables that look like settings and are none.

    These are the ones with a prefix of _PREFIXES, and those that differ from the name of a setting by one letter: one
    that is missing, additional, wrong or swapped with the next one. Other variables belong to other programs.
    """
    known = {*(name.upper() for name in settings), *ALIASES}
    return [
        UnknownVariable(name, nearest)
        for name, value in sorted(variables.items())
        if name not in known and not _is_service_link(name, value)
        for nearest in (_nearest(name, known),)
        if name.startswith(_PREFIXES) or (nearest is not None and _differ_by_one_letter(name, nearest))
    ]


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or _SERVICE_ADDRESS.fullmatch(value))


def _nearest(name: str, known: Iterable[str]) -> str | None:
    known = sorted(known)
    almost = [other for other in known if _differ_by_one_letter(name, other)]
    short = name.replace("DATABASE_", "DB_", 1)
    if not almost and short in known:
        return short
    return next(iter(almost or get_close_matches(name, known, 1, _MIN_SIMILARITY)), None)


def _differ_by_one_letter(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(short) < _MIN_LENGTH - 1 or len(long) < _MIN_LENGTH:
        return False
    start = next((index for index, letter in enumerate(short) if letter != long[index]), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = short[start : start + 2] == long[start : start + 2][::-1] and short[start + 2 :] == long[start + 2 :]
    return swapped or short[start + 1 :] == long[start + 1 :]
