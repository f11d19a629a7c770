"""Text from files, as it may be shown."""

from __future__ import annotations

import unicodedata

# Control characters, marks that turn the direction of text, halves of characters, and breaks of lines.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def is_plain(text: str) -> bool:
    """Whether a line of text holds nothing that a terminal would obey or that changes the text around it."""
    return not any(unicodedata.category(sign) in _HIDDEN for sign in text)


def printable(text: str, longest: int = 200) -> str:
    """Text for a message: one line, ``?`` for what `is_plain` refuses, cut where it is longer than ``longest``."""
    line = "".join("?" if unicodedata.category(sign) in _HIDDEN else sign for sign in " ".join(text[:2000].split()))
    return line if len(line) <= longest else f"{line[:longest]}..."


def first_sentence(error: Exception) -> str:
    """What an error of another package says first, or its kind, for a message."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].partition(". ")[0] if lines else type(error).__name__)
