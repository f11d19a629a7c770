"""Metrics for OpenMMLab, a module a task."""
