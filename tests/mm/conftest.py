from __future__ import annotations

from collections.abc import Iterator

import mmengine.runner.runner
import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Resolve bare type names as mmdet's, as a run of mmdet does."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at compilers and Git, and without laying out configs for the eye."""
    monkeypatch.setattr(mmengine.runner.runner, "collect_env", dict)
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, False))
