"""Mends for version clashes between OpenMMLab packages and their own dependencies."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version


def disable_broken_multimodal() -> bool:
    """Switch off mmpretrain's multimodal models beside transformers 5, with which they cannot be imported.

    mmdet imports mmpretrain where it is present, so that without this mend ``import mmdet.models`` fails as well.

    Returns:
        True when they were switched off.
    """
    try:
        major = int(version("transformers").split(".")[0])
    except PackageNotFoundError:
        return False
    if major < 5 or importlib.util.find_spec("mmpretrain") is None:
        return False
    from mmpretrain.utils import dependency

    dependency.WITH_MULTIMODAL = False
    return True


def find_shipped_configs() -> bool:
    """Let ``_base_ = "mmseg::..."`` find mmseg where its distribution has another name than MMEngine thinks.

    MMEngine asks for a distribution ``mmsegmentation``; the maintained fork is called ``onedl-mmsegmentation``.

    Returns:
        True when MMEngine was told.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    try:
        version(MODULE2PACKAGE["mmseg"])
    except PackageNotFoundError:
        if importlib.util.find_spec("mmseg") is not None:
            MODULE2PACKAGE["mmseg"] = "mmseg"
            return True
    return False
