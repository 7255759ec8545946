"""Text that identifies something: what looks equal must be equal, and nothing in it may be invisible."""

import re
import unicodedata
from typing import Final

# Characters that Unicode draws as nothing (Default_Ignorable_Code_Point) and str.isprintable accepts: fillers, joiners
# and variation selectors.
_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

INVISIBLE_RULE: Final = "must not contain control, bidirectional, zero-width or unassigned characters"


def normalize(text: str) -> str:
    """Returns the text with compatible characters replaced by their canonical form (NFKC)."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def has_invisible(text: str) -> bool:
    """Returns whether a normalized text has control, bidirectional, zero-width, private or unassigned characters."""
    return not text.isprintable() or (not text.isascii() and _IGNORABLE.search(text) is not None)


def strip_invisible(text: str) -> str:
    """Returns the text without these characters."""
    return "".join(character for character in _IGNORABLE.sub("", text) if character.isprintable())
