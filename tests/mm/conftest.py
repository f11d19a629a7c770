from __future__ import annotations

from collections.abc import Iterator

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Resolve bare type names as mmdet's, as a run of mmdet does."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield
