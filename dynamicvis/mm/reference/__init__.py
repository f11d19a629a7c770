"""The reference's configs on this package, by ``custom_imports = dict(imports=["dynamicvis.mm.reference"])``.

Registers the reference's names, with its keyword arguments, in the scopes that its configs use: ``mmpretrain``,
``mmdet`` and ``mmseg``, and ``opencd``, which is made where open-cd is not installed. A setting without an equivalent
is refused by its name. Checkpoints in the reference's key layout load into models built so, whole or through
``init_cfg``.
"""

from __future__ import annotations

import importlib.util

_missing = [name for name in ("mmpretrain", "mmdet", "mmseg") if importlib.util.find_spec(name) is None]
if _missing:
    raise ImportError(
        f"configs of the reference need mmpretrain, mmdet and mmseg, and {', '.join(_missing)} is missing; "
        'install all with `pip install "dynamicvis[mm]"`'
    )

import dynamicvis.mm  # noqa: E402, F401 - mmcv.ops must be in place before mmdet is imported
from dynamicvis.mm.reference import backbone, change, classification, data  # noqa: E402, F401
