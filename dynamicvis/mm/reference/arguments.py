"""Checks of the reference's keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamicvis.errors import DynamicVisError


class UnsupportedSetting(DynamicVisError):
    """A setting of the reference without an equivalent here; the message names it."""

    def __init__(self, owner: str, name: str, value: Any, hint: str) -> None:
        super().__init__(f"{owner}: {name}={value!r} of the reference is not supported; {hint}")


def require(owner: str, name: str, value: Any, *allowed: Any) -> None:
    """Raise `UnsupportedSetting` unless ``value`` is one of ``allowed``, sequences of any kind taken as equal."""
    if _plain(value) not in [_plain(choice) for choice in allowed]:
        listed = " or ".join(repr(choice) for choice in allowed)
        raise UnsupportedSetting(owner, name, value, f"use {name}={listed}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
