"""Other names of settings, which services with the same task use. Each one is reported with the name to use instead."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vsyncd.config.endpoints import parse_host_port
from vsyncd.config.redis_url import RedisAddress, parse_redis_url
from vsyncd.config.types import read_secret_file, reveal

# The settings with the same meaning.
_SETTINGS: Final[Mapping[str, str]] = {
    "DB_MAX_OPEN_CONNS": "DB_MAX_CONNECTIONS",
    "DATABASE_MAX_CONNECTIONS": "DB_MAX_CONNECTIONS",
    "DB_MAX_IDLE_CONNS": "DB_MIN_CONNECTIONS",
    "DB_MAX_IDLE_CONNECTIONS": "DB_MIN_CONNECTIONS",
    "DB_CONN_MAX_LIFETIME": "DB_CONNECTION_MAX_LIFETIME",
    "DB_CONN_MAX_IDLE_TIME": "DB_CONNECTION_MAX_IDLE_TIME",
    "DATABASE_CONN_TIMEOUT": "DB_CONNECT_TIMEOUT",
    "PGPASSWORD": "DB_PASSWORD",
    "COMPRESSION": "BACKUP_COMPRESSION",
}
# Parts of REDIS_URL.
_REDIS_PARTS: Final = ("REDIS_ADDR", "REDIS_DB", "REDIS_PASSWORD")
# Flags that REDIS_URL replaces.
_REDIS_FLAGS: Final = ("USE_REDIS_HEALTH_MONITORING", "USE_REDIS_SESSION_CACHE")
_STORAGE_FLAG: Final = "USE_DATABASE_STORAGE"
_REDIS_PORT: Final = 6379

ALIASES: Final = (*_SETTINGS, *_REDIS_PARTS, *_REDIS_FLAGS, _STORAGE_FLAG)


class Aliases:
    """The aliases among the variables.

    `values` are the settings that they define, `names` the alias of each such setting, `errors` one line for each
    contradiction, and `notices` one line for each alias. None of the lines has a value.
    """

    def __init__(self, variables: Mapping[str, str], fields: Mapping[str, FieldInfo]) -> None:
        self._variables = variables
        self.values: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.errors: list[str] = []
        self.notices = list(self._notices())
        for alias, name in _SETTINGS.items():
            if alias in variables:
                self._apply(alias, name, fields[name.lower()])
        self._apply_redis_parts()
        self._apply_flags()

    def _notices(self) -> Iterator[str]:
        for alias in ALIASES:
            if alias not in self._variables:
                continue
            if alias == _STORAGE_FLAG:
                yield f"{alias} is not needed: PostgreSQL always stores the data"
            elif alias in _REDIS_FLAGS:
                yield f"{alias} is not needed: REDIS_URL decides whether Redis is used"
            else:
                yield f"{alias} is an alias: use {_SETTINGS.get(alias, 'REDIS_URL')}"

    def _apply(self, alias: str, name: str, field: FieldInfo) -> None:
        value = self._variables[alias]
        other = self.names.get(name.lower(), name)
        given = self._variables.get(other)
        if f"{name}_FILE" in self._variables:
            self.errors.append(f"{alias}: {name}_FILE is set, too: remove one of them")
        elif given is not None and not _are_equal(field, value, given):
            self.errors.append(f"{alias}: {other} has a different value: remove one of them")
        elif given is None:
            self._set(alias, name, value)

    def _set(self, alias: str, name: str, value: str) -> None:
        self.values[name.lower()] = value
        self.names[name.lower()] = alias

    def _apply_redis_parts(self) -> None:
        parts = {name: self._variables[name] for name in _REDIS_PARTS if name in self._variables}
        if not parts:
            return
        if "REDIS_URL" in self._variables or "REDIS_URL_FILE" in self._variables:
            self._compare_redis_parts(parts)
        elif "REDIS_ADDR" not in parts:
            self.errors.append(f"{next(iter(parts))}: requires REDIS_ADDR")
        else:
            self._join_redis_parts(parts["REDIS_ADDR"], parts.get("REDIS_DB", "0"), parts.get("REDIS_PASSWORD", ""))

    def _join_redis_parts(self, address: str, database: str, password: str) -> None:
        if not _is_host_port(address):
            self.errors.append("REDIS_ADDR: takes host:port")
        elif not (database.isascii() and database.isdecimal()):
            self.errors.append("REDIS_DB: takes the number of a database")
        else:
            account = f":{quote(password, safe='')}@" if password else ""
            self._set("REDIS_ADDR", "REDIS_URL", f"redis://{account}{address}/{database}")

    def _compare_redis_parts(self, parts: Mapping[str, str]) -> None:
        name = "REDIS_URL" if "REDIS_URL" in self._variables else "REDIS_URL_FILE"
        try:
            given = self._variables[name]
            address = parse_redis_url(given if name == "REDIS_URL" else reveal(read_secret_file(given)))
        except ValueError:
            return  # the validator of REDIS_URL reports the error
        for part, value in parts.items():
            if not _is_part_of(address, part, value):
                self.errors.append(f"{part}: {name} has a different value: remove one of them")

    def _apply_flags(self) -> None:
        url = next((name for name in ("REDIS_URL", "REDIS_URL_FILE", "REDIS_ADDR") if name in self._variables), None)
        for name in (*_REDIS_FLAGS, _STORAGE_FLAG):
            if name not in self._variables:
                continue
            try:
                is_wanted = TypeAdapter(bool).validate_python(self._variables[name].strip())
            except ValidationError:
                self.errors.append(f"{name}: takes true or false")
                continue
            if name == _STORAGE_FLAG:
                if not is_wanted:
                    self.errors.append(f"{name}: takes true, because PostgreSQL always stores the data")
            elif not is_wanted and url is not None:
                self.errors.append(f"{name}: false contradicts {url}: remove one of them")


def _are_equal(field: FieldInfo, one: str, other: str) -> bool:
    """Returns whether two texts are the same value of a setting, such as 300 and 5m."""
    annotation: Any = field.annotation
    kind: TypeAdapter[Any] = TypeAdapter(Annotated[(annotation, *field.metadata)] if field.metadata else annotation)
    try:
        return bool(kind.validate_python(one.strip()) == kind.validate_python(other.strip()))
    except ValidationError:
        return one == other


def _is_host_port(text: str) -> bool:
    try:
        parse_host_port(text, default_port=_REDIS_PORT)
    except ValueError:
        return False
    return "/" not in text and "@" not in text


def _is_part_of(address: RedisAddress, part: str, value: str) -> bool:
    if part == "REDIS_PASSWORD":
        return value == address.password
    if part == "REDIS_DB":
        return value.strip() == str(address.database)
    try:
        return address.hosts == (parse_host_port(value, default_port=_REDIS_PORT),)
    except ValueError:
        return False
