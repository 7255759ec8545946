"""AUTHZ_FILE: which principal has which roles, for which participants.

    principals:
      - principal: spiffe://bank.example/vsync-worker
        roles: [reader, sync]
        ispbs: ["10203040"]
      - principal: dns:*          # a prefix: any DNS name that the certificate authority has signed
        roles: [reader]
        ispbs: "*"                # all participants
        tenant: treasury          # only for tenanted domains

The most specific entry decides: the principal itself, or else the longest matching prefix. Entries are not added up.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from vsyncd.access.principals import KINDS
from vsyncd.access.yaml_files import EntriesFile, Report
from vsyncd.core.context import MAX_ACTOR_CHARS
from vsyncd.core.grants import NO_GRANT, Grant, Role

_is_ispb = re.compile(r"[0-9]{8}").fullmatch
_is_tenant = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}").fullmatch
_ROLES: Final = {role.value: role for role in Role if role is not Role.PUBLIC}


class Entry(NamedTuple):
    """An entry: its principal or prefix as written, and what it grants."""

    pattern: str
    grant: Grant


class Policy:
    """The entries of the file: the grant of each principal or prefix."""

    def __init__(self, entries: Mapping[str, Grant]) -> None:
        self.entries = entries
        prefixes = (pattern for pattern in entries if pattern.endswith("*"))
        self._prefixes = sorted(prefixes, key=len, reverse=True)

    def entry_of(self, principal: str) -> Entry | None:
        """Returns the entry that decides about a principal, or None."""
        if not principal.endswith("*") and principal in self.entries:
            return Entry(principal, self.entries[principal])
        for prefix in self._prefixes:
            if principal.startswith(prefix[:-1]):
                return Entry(prefix, self.entries[prefix])
        return None

    def grant_of(self, principal: str) -> Grant:
        """Returns the grant of a principal; that of an unknown one permits nothing."""
        entry = self.entry_of(principal)
        return entry.grant if entry else NO_GRANT


def parse_policy(data: bytes) -> Policy:
    """Parses the file. Raises ConfigError with every invalid entry."""
    file = EntriesFile("AUTHZ_FILE", data, "principals")
    entries: dict[str, Grant] = {}
    for entry, report in file.entries({"principal", "roles", "ispbs"}, {"tenant"}):
        pattern = _pattern(entry["principal"], report)
        if pattern in entries:
            report(f"{pattern!r} occurs in an earlier entry")
        entries[pattern] = Grant(
            roles=_roles(entry["roles"], report),
            ispbs=_ispbs(entry["ispbs"], report),
            tenant=_tenant(entry.get("tenant"), report),
        )
    file.raise_problems()
    return Policy(entries)


def _pattern(value: Any, report: Report) -> str:  # noqa: ANN401  any YAML value
    text = value if isinstance(value, str) else ""
    if not text.startswith(KINDS):
        report(f"principal: must begin with one of {' '.join(KINDS)}")
    elif len(text) > MAX_ACTOR_CHARS:
        report(f"principal: longer than {MAX_ACTOR_CHARS} characters; use its shortened form, which ends in a digest")
    elif not text.isprintable():
        report("principal: has unprintable characters")
    elif text.startswith("dns:") and text != text.lower():
        report("principal: a DNS name must be in lower case")
    elif "*" in text[:-1] and not text.startswith("dns:*."):
        report("principal: `*` is permitted at the end only")
    return text


def _roles(value: Any, report: Report) -> frozenset[Role]:  # noqa: ANN401  any YAML value
    if not isinstance(value, list) or not value:
        report(f"roles: must be a list of {', '.join(_ROLES)}")
        return frozenset()
    names = [str(name) for name in value]
    for name in names:
        if name not in _ROLES:
            report(f"roles: unknown role {name!r}; the roles are {', '.join(_ROLES)}")
    return frozenset(_ROLES[name] for name in names if name in _ROLES)


def _ispbs(value: Any, report: Report) -> frozenset[str] | None:  # noqa: ANN401  any YAML value
    if value == "*":
        return None
    if not isinstance(value, list) or not value:
        report('ispbs: must be a list of ISPBs, or "*" for all')
        return frozenset()
    for ispb in value:
        if not isinstance(ispb, str) or not _is_ispb(ispb):
            report(f"ispbs: {ispb!r} is not an ISPB: 8 digits in quotes")
    return frozenset(map(str, value))


def _tenant(value: Any, report: Report) -> str:  # noqa: ANN401  any YAML value
    if value is None:
        return ""
    if not isinstance(value, str) or not _is_tenant(value):
        report("tenant: must be up to 63 lower case letters, digits, - and _")
    return str(value)
