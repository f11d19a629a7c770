"""Provides ``mmcv.ops`` before any test module imports mmdet."""

import dynamicvis.mm  # noqa: F401
