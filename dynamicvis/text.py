"""Text from files and names, as it may be shown."""

from __future__ import annotations

import unicodedata

# Control characters, marks that turn the direction of text, halves of characters, and breaks of lines.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_JOINERS = "\u200c\u200d"  # format characters that words of several scripts are written with


def is_hidden_character(character: str) -> bool:
    """Whether a terminal obeys a character, or shows nothing of it or other text otherwise because of it."""
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS


def is_plain(text: str) -> bool:
    """Whether a line of text has no hidden character, see `is_hidden_character`."""
    return not any(map(is_hidden_character, text))


def shown(text: str) -> str:
    """Text for a terminal, in one line: a hidden character stands as an escape, such as ``\\x1b``."""
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode() if is_hidden_character(character) else character
        for character in text
    )


def printable(text: str, longest: int = 200) -> str:
    """Text from a file for a message: `shown`, without runs of spaces, cut where it is longer than ``longest``."""
    line = shown(" ".join(text[:2000].split()))
    return line if len(line) <= longest else f"{line[:longest]}..."


def first_sentence(error: Exception) -> str:
    """What an error of another package says first, or its kind, for a message."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].partition(". ")[0] if lines else type(error).__name__)
