"""Validates the values of IOCs, and converts each to its canonical form: equal values have equal texts.

A function returns the canonical form, or None if the value is invalid. Applied to a canonical form it returns the same.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop, inet_pton
from types import MappingProxyType
from typing import Final, TypeAlias

import idna

from vsyncd.domains.iocs.records import MAX_VALUE_CHARS, IocType

Canonicalize: TypeAlias = Callable[[str], str | None]

_MAX_DOMAIN_CHARS: Final = 253
_MAX_EMAIL_CHARS: Final = 254
# A longer name has more than 253 characters in ASCII, too, unless it has many characters that UTS #46 removes.
_MAX_UNICODE_DOMAIN_CHARS: Final = 2 * _MAX_DOMAIN_CHARS

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch
_IPV6_CHARACTERS = re.compile("[0-9a-fA-F:.]{2,45}").fullmatch
# The addresses that inet_ntop may write with a part in IPv4's form begin with ten zero bytes.
_ZEROS: Final = bytes(10)

# Labels to which IDNA applies no mapping and no rule but those on hyphens. `..--` is reserved, also for A-labels.
_LABEL = "(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}").fullmatch

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"(?=.{{1,64}}\Z){_ATOM}(?:\.{_ATOM})*").fullmatch

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://([^/?#]+)([^?#]*)(?:\?([^#]*))?(?:#.*)?").fullmatch
# ASCII characters that a URL cannot have. Browsers remove some of them and read a backslash as a slash.
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]").search
_AUTHORITY = re.compile(r"(?:(.*)@)?(?:\[([^\]]*)\]|([^:]*))(?::([0-9]*))?").fullmatch
# What is encoded, or decoded if it is unreserved (RFC 3986, 2.3).
_ESCAPES = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$&'()*+,;=:@/?-]").sub
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ftp": "21", "ws": "80", "wss": "443"}
_MAX_PORT: Final = 65_535


def canonical_ipv4(value: str) -> str | None:
    """Returns an IPv4 address. The only form that `ipaddress` accepts is the canonical one."""
    return value if _IPV4(value) else None


def canonical_ipv6(value: str) -> str | None:
    """Returns an IPv6 address as in RFC 5952, with IPv4's form for an IPv4-mapped one."""
    if _IPV6_CHARACTERS(value) is None:
        return None
    try:
        packed = inet_pton(AF_INET6, value)
    except OSError:
        return None
    return inet_ntop(AF_INET6, packed) if packed[:10] != _ZEROS else ipv6_text(IPv6Address(packed))


def ipv6_text(address: IPv6Address) -> str:
    """Returns the text of an address, which depends on the version of Python for an IPv4-mapped address."""
    return str(address) if address.ipv4_mapped is None else f"::ffff:{address.ipv4_mapped}"


def canonical_domain(value: str) -> str | None:
    """Returns a host name in ASCII. Names in ASCII without A-labels are validated in a fraction of the time."""
    if value.isascii():
        name = value.lower().removesuffix(".")
        if len(name) <= _MAX_DOMAIN_CHARS and _PLAIN_DOMAIN(name):
            return name
    return domain_by_idna(value)


def domain_by_idna(value: str) -> str | None:
    """Returns the same as canonical_domain."""
    if len(value) > _MAX_UNICODE_DOMAIN_CHARS:
        return None
    try:
        name = idna.encode(value, uts46=True, std3_rules=True).decode("ascii").removesuffix(".")
    except UnicodeError:  # idna.IDNAError is one
        return None
    first, _, last = name.rpartition(".")
    # A name whose last label is a number could be read as an IPv4 address.
    return name if first and not last.isdigit() else None


def canonical_email(value: str) -> str | None:
    """Returns an e-mail address in lower case."""
    local, _, domain = value.rpartition("@")
    if _LOCAL_PART(local) is None or (name := canonical_domain(domain)) is None:
        return None
    address = f"{local.lower()}@{name}"
    return address if len(address) <= _MAX_EMAIL_CHARS else None


def canonical_url(value: str) -> str | None:
    """Returns a URL, normalized by its syntax and its scheme (RFC 3986, 6.2.2 and 6.2.3), without its fragment."""
    if len(value) > MAX_VALUE_CHARS or _NOT_IN_URL(value):
        return None
    parts = _URL(value)
    if parts is None or (authority := _canonical_authority(parts[1].lower(), parts[2])) is None:
        return None
    path = _without_dot_segments(_escaped(parts[3])) or "/"
    query = f"?{_escaped(parts[4])}" if parts[4] else ""
    url = f"{parts[1].lower()}://{authority}{path}{query}"
    return url if len(url) <= MAX_VALUE_CHARS else None


def _canonical_authority(scheme: str, authority: str) -> str | None:
    parts = _AUTHORITY(authority)
    if parts is None:
        return None
    user, ipv6, name, port = parts.groups()
    if ipv6 is None:
        host = canonical_ipv4(name) or canonical_domain(name)
    else:
        host = (address := canonical_ipv6(ipv6)) and f"[{address}]"
    if host is None or (port and int(port) > _MAX_PORT):
        return None
    user = f"{_escaped(user).replace('@', '%40')}@" if user else ""
    port = str(int(port)) if port else ""
    return user + host + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def _escaped(text: str) -> str:
    return _ESCAPES(_escape, text)


def _escape(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) == 3:
        character = chr(int(text[1:], 16))
        return character if character in _UNRESERVED else text.upper()
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _without_dot_segments(path: str) -> str:
    """Returns a path without `.` and `..` (RFC 3986, 5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _hash_of(digits: int) -> Canonicalize:
    is_hash = re.compile(f"[0-9a-fA-F]{{{digits}}}").fullmatch

    def canonical_hash(value: str) -> str | None:
        return value.lower() if is_hash(value) else None

    return canonical_hash


CANONICALIZE: Final[Mapping[int, Canonicalize]] = MappingProxyType(
    {
        IocType.IPV4: canonical_ipv4,
        IocType.IPV6: canonical_ipv6,
        IocType.DOMAIN: canonical_domain,
        IocType.URL: canonical_url,
        IocType.EMAIL: canonical_email,
        IocType.SHA256: _hash_of(64),
        IocType.SHA1: _hash_of(40),
        IocType.MD5: _hash_of(32),
    }
)
RULES: Final[Mapping[int, str]] = MappingProxyType(
    {
        IocType.IPV4: "must be an IPv4 address",
        IocType.IPV6: "must be an IPv6 address without a zone",
        IocType.DOMAIN: "must be a host name with at least two labels (IDNA 2008)",
        IocType.URL: f"must be a URL with a host, of at most {MAX_VALUE_CHARS:,} characters",
        IocType.EMAIL: "must be an e-mail address with an ASCII local part",
        IocType.SHA256: "must be 64 hexadecimal digits",
        IocType.SHA1: "must be 40 hexadecimal digits",
        IocType.MD5: "must be 32 hexadecimal digits",
    }
)
