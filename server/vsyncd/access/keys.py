"""AUTHN_KEYS_FILE: the SHA-256 of each caller's key. Several keys of one name allow a rotation.

keys:
  - name: worker
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

import re
from hashlib import sha256
from typing import Final

from vsyncd.access.yaml_files import EntriesFile

_is_name = re.compile(r"[A-Za-z0-9._-]{1,100}").fullmatch
_is_digest = re.compile(r"[0-9a-f]{64}").fullmatch
_EMPTY: Final = sha256(b"").hexdigest()


class Keys:
    """The principal of each key."""

    def __init__(self, by_digest: dict[str, str]) -> None:
        self._by_digest = by_digest

    def principal_of(self, key: str) -> str | None:
        """Returns the principal of a key, or None. A lookup by digest reveals nothing about other keys by its time."""
        return self._by_digest.get(sha256(key.encode()).hexdigest())


def parse_keys(data: bytes) -> Keys:
    """Parses the file. Raises ConfigError with every invalid entry."""
    file = EntriesFile("AUTHN_KEYS_FILE", data, "keys")
    by_digest: dict[str, str] = {}
    for entry, report in file.entries({"name", "sha256"}):
        name, digest = str(entry["name"]), str(entry["sha256"])
        if not _is_name(name):
            report("name: must be 1 to 100 letters, digits and characters of . _ -")
        if not _is_digest(digest) or digest == _EMPTY:
            report("sha256: must be the SHA-256 of a key: 64 hexadecimal digits in lower case")
        elif digest in by_digest:
            report("sha256: occurs in an earlier entry")
        by_digest[digest] = f"key:{name}"
    file.raise_problems()
    return Keys(by_digest)
