"""Errors that a user can cause; their messages are meant for the command line."""

from __future__ import annotations


class ConfigError(RuntimeError):
    """A config that cannot do what was asked for; the message names what it lacks."""


class PredictionError(RuntimeError):
    """Predictions that cannot be written; the message names what stands in the way."""
