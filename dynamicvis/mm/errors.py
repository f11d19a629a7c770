"""Errors that a user can cause; their messages are meant for the command line."""

from __future__ import annotations


class PredictionError(RuntimeError):
    """Predictions that cannot be written; the message names what stands in the way."""
