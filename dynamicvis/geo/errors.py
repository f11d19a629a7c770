"""The error of this package that a user can cause and mend."""

from __future__ import annotations


class GeoError(ValueError):
    """Input or output that cannot be used; the message is one sentence naming the file and the way out."""
