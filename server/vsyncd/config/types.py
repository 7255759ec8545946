"""The types of settings: how values are validated, described and formatted."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vsyncd.config.database_url import SslMode, parse_database_url
from vsyncd.config.durations import parse_duration
from vsyncd.config.endpoints import parse_grpc_dependencies, parse_host_port, parse_hosts
from vsyncd.config.redis_url import parse_redis_url
from vsyncd.config.schedules import parse_schedule

V = TypeVar("V", str, SecretStr)


@dataclass(frozen=True, slots=True)
class Takes:
    """Describes the values of a type, for operators. Part of the type's annotation."""

    text: str


# Replaces a secret.
MASK: Final = "********"


def accepted_values(field: FieldInfo) -> str:
    """Returns the description of the values that a setting takes."""
    # In `X | None` the annotation of X is one level deeper.
    inner = (mark for arm in get_args(field.annotation) for mark in getattr(arm, "__metadata__", ()))
    return next(mark.text for mark in (*field.metadata, *inner) if isinstance(mark, Takes))


def error_line(name: str, field: FieldInfo, reason: str = "") -> str:
    """Returns the line about a wrong value. `reason` must not contain the value."""
    return f"{name.upper()}: takes {accepted_values(field)}" + (f" ({reason})" if reason else "")


def format_value(value: object) -> str:
    """Returns a value in the form of an environment variable. Masks secrets."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return "" if value is None else str(value)


def read_secret_file(path: str) -> SecretStr:
    """Returns the text of a file without line ends at its end. Raises ValueError if the file cannot be read."""
    try:
        return SecretStr(Path(path).read_text(encoding="utf-8").rstrip("\r\n"))
    except OSError as error:
        raise ValueError("the file cannot be read") from error


def read_secret(path: str, field: FieldInfo) -> str:
    """Returns the text of a file that contains the value of the setting `field`.

    Raises ValueError without the text if the file cannot be read or the value is invalid.
    """
    secret = read_secret_file(path)
    try:
        TypeAdapter[object](field.annotation or object).validate_python(secret)
    except ValidationError as error:
        (details, *_) = error.errors(include_url=False, include_input=False)
        reason = str(details["ctx"]["error"]) if details["type"] == "value_error" else "invalid"
        raise ValueError(f"its content: {reason}") from None
    return reveal(secret)


def reveal(secret: SecretStr | str) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


def _readable_file(path: str) -> str:
    try:
        with Path(path).open("rb"):
            return path
    except OSError as error:
        raise ValueError("the file cannot be read") from error


def _root_certificate(path: str) -> str:
    # For libpq, `system` means the certificate authorities of the operating system.
    return path if path == "system" else _readable_file(path)


def _folder(path: str) -> str:
    if not Path(path).is_dir():
        raise ValueError("the folder does not exist")
    return path


def _parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    """Returns a validator that accepts what `parse` accepts, and keeps the text."""

    def validate(text: V) -> V:
        parse(reveal(text))
        return text

    return AfterValidator(validate)


def parse_encryption_keys(text: str) -> list[bytes]:
    """Returns one or two comma-separated keys of 32 bytes. Raises ValueError without the text."""
    try:
        keys = [base64.b64decode(part.strip(), validate=True) for part in text.split(",")]
    except ValueError:
        raise ValueError("invalid base64") from None
    if any(len(key) != 32 for key in keys):
        raise ValueError("not 32 bytes")
    if len(keys) > 2:
        raise ValueError("more than two keys")
    return keys


def read_key_file(path: str) -> bytes:
    """Returns the key of 32 bytes in a file, which is given as base64. Raises ValueError."""
    keys = parse_encryption_keys(reveal(read_secret_file(path)))
    if len(keys) != 1:
        raise ValueError("more than one key")
    return keys[0]


def _s3_url(text: str) -> str:
    bucket = urlsplit(text).netloc
    if not text.startswith("s3://") or not bucket or "@" in bucket:
        raise ValueError("expected s3:// and a bucket")
    return text


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("invalid URL")
    return text


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _duration(unit: str) -> BeforeValidator:
    """Returns a validator that accepts a number of `unit`, or a text with units."""
    return BeforeValidator(partial(parse_duration, unit=unit))


_YEAR = 31_536_000
_WITH_UNIT = ", or with a unit: 500ms, 30s, 5m, 1h"
_WITH_DAYS = ", or with a unit: 12h, 7d"
_GIBIBYTE = 1024**3

Text = Annotated[str, Field(min_length=1), Takes("text")]
Secret = Annotated[SecretStr, Takes("text")]
Flag = Annotated[bool, Takes("true or false")]
Count = Annotated[int, Field(ge=1, le=100_000), Takes("a whole number from 1 to 100000")]
LargeCount = Annotated[int, Field(ge=1, le=10**12), Takes(f"a whole number from 1 to {10**12}")]
CountOrZero = Annotated[int, Field(ge=0, le=100_000), Takes("a whole number from 0 to 100000")]
Days = Annotated[
    int,
    _duration("d"),
    Field(ge=0, le=36_500),
    Takes("a whole number of days from 0 to 36500" + _WITH_DAYS),
]
Port = Annotated[int, Field(ge=1, le=65535), Takes("a whole number from 1 to 65535")]
Bytes = Annotated[int, Field(ge=1024, le=_GIBIBYTE), Takes(f"a whole number of bytes from 1024 to {_GIBIBYTE}")]
TotalBytes = Annotated[
    int, Field(ge=1024, le=1024 * _GIBIBYTE), Takes(f"a whole number of bytes from 1024 to {1024 * _GIBIBYTE}")
]
Seconds = Annotated[
    float, _duration("s"), Field(gt=0, le=_YEAR, allow_inf_nan=False), Takes("seconds, more than 0" + _WITH_UNIT)
]
SecondsOrZero = Annotated[
    float, _duration("s"), Field(ge=0, le=_YEAR, allow_inf_nan=False), Takes("seconds, 0 or more" + _WITH_UNIT)
]
# PostgreSQL and gRPC have milliseconds in 32 bits, in part doubled, and 0 means no timeout.
TimeoutSeconds = Annotated[
    float,
    _duration("s"),
    Field(ge=0.001, le=1_000_000, allow_inf_nan=False),
    Takes("seconds from 0.001 to 1000000" + _WITH_UNIT),
]
# libpq has whole seconds, and treats 1 as 2.
ConnectSeconds = Annotated[
    int, _duration("s"), Field(ge=2, le=600), Takes("a whole number of seconds from 2 to 600, or with a unit: 5s, 1m")
]
Milliseconds = Annotated[
    int,
    _duration("ms"),
    Field(ge=0, le=_YEAR * 1000),
    Takes("a whole number of milliseconds, 0 or more" + _WITH_UNIT),
]

Hosts = Annotated[
    str,
    _parsed_by(partial(parse_hosts, default_port=0)),
    Takes("host or host:port, comma separated; [address]:port for IPv6"),
]
Listen = Annotated[str, _parsed_by(parse_host_port), Takes("host:port")]
GrpcDependencies = Annotated[
    str,
    _parsed_by(parse_grpc_dependencies),
    Takes("name=host:port, comma separated; ! at the end: critical"),
]
ReadableFile = Annotated[str, AfterValidator(_readable_file), Takes("the path of a readable file")]
SecretFile = Annotated[str, _parsed_by(read_secret_file), Takes("the path of a readable text file")]
RootCertificate = Annotated[str, AfterValidator(_root_certificate), Takes("the path of a readable file, or system")]
Folder = Annotated[str, AfterValidator(_folder), Takes("the path of a folder")]
ConnectionString = Annotated[
    SecretStr, _parsed_by(parse_database_url), Takes("a libpq URL, such as postgresql://user@host:5432/name")
]
RedisUrl = Annotated[
    SecretStr,
    _parsed_by(parse_redis_url),
    Takes("a URL that begins with redis://, rediss:// or unix://, or with redis+sentinel:// or redis+cluster://"),
]
EncryptionKeys = Annotated[
    SecretStr, _parsed_by(parse_encryption_keys), Takes("32 bytes as base64, or two such keys, comma separated")
]
KeyFile = Annotated[str, _parsed_by(read_key_file), Takes("the path of a readable file with 32 bytes as base64")]

AuthenticationMethods = Annotated[
    str,
    BeforeValidator(_lower),
    Field(pattern=r"^((mtls|key|jwt)( *, *(mtls|key|jwt))*)?$"),
    Takes("mtls, key and jwt, comma separated"),
]
DomainNames = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_]*( *, *[a-z][a-z0-9_]*)*$"),
    Takes("names of domains, comma separated, or all"),
]
SchemaName = Annotated[
    str,
    Field(pattern="^[a-z_][a-z0-9_]{0,40}$"),
    Takes("up to 41 lower case letters, digits and _, not starting with a digit"),
]
KeyPrefix = Annotated[
    str, Field(pattern="^[A-Za-z0-9_.:-]{1,64}$"), Takes("up to 64 letters, digits and characters of _ . : -")
]
SslModeName = Annotated[
    SslMode, BeforeValidator(_lower), Takes("disable, allow, prefer, require, verify-ca or verify-full")
]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper), Takes("DEBUG, INFO, WARNING or ERROR")
]
LogFormat = Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower), Takes("auto, json or console")]

NewFolder = Annotated[str, Field(min_length=1), Takes("the path of a folder, which is created if it does not exist")]
S3Url = Annotated[str, AfterValidator(_s3_url), Takes("s3://bucket or s3://bucket/prefix")]
HttpUrl = Annotated[str, AfterValidator(_http_url), Takes("a URL that begins with https:// or http://")]
Schedule = Annotated[
    str, _parsed_by(parse_schedule), Takes("an interval (30m, 6h, 1d) or a cron expression of five fields, in UTC")
]
FractionalDays = Annotated[
    float, _duration("d"), Field(ge=0, le=36_500, allow_inf_nan=False), Takes("days, 0 or more" + _WITH_DAYS)
]
Jobs = Annotated[int, Field(ge=1, le=128), Takes("a whole number from 1 to 128")]
BackupFormat = Annotated[Literal["directory", "custom"], BeforeValidator(_lower), Takes("directory or custom")]
# The syntax of pg_dump --compress. A method without a level has a default level.
Compression = Annotated[
    str,
    BeforeValidator(_lower),
    Field(pattern=r"^(none|gzip(:[1-9])?|zstd(:([1-9]|1[0-9]|2[0-2]))?)$"),
    Takes("gzip, zstd or none; with a level: gzip:1 to gzip:9, zstd:1 to zstd:22"),
]
BackupCheck = Annotated[Literal["checksums", "restore"], BeforeValidator(_lower), Takes("checksums or restore")]
