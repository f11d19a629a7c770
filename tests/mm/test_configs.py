"""Every config of the project resolves, its pipelines can be built, and it stands for one data set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from tools_helpers import ROOT

from dynamicvis.data.preparation.command import DATASETS as PREPARED

CONFIGS = ROOT / "configs"
PUBLIC = sorted(
    path
    for path in CONFIGS.glob("*/*.py")
    if not path.name.startswith("_base_") and path.parent.name not in ("_base_", "examples")
)
# More lines than these that are the same in two files belong into a common base.
LONGEST_COPY = 12


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets of files inside wrappers."""
    inner = dataset.get("datasets") or ([dataset.dataset] if "dataset" in dataset else [])
    if not inner:
        yield dataset
    for part in inner:
        yield from leaves(part)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DYNAMICVIS_DATA", raising=False)
    return Path("data")


def test_every_config_builds_its_pipelines_and_is_named_after_its_data(data: Path) -> None:
    assert PUBLIC
    built = set()
    for path in PUBLIC:
        config = Config.fromfile(path)
        loaders = [config[name].dataset for name in config if name.endswith("_dataloader")]
        assert config.get("test_dataloader"), path
        with DefaultScope.overwrite_default_scope(config.default_scope):
            for dataset in (leaf for loader in loaders for leaf in leaves(loader)):
                assert DATASETS.get(dataset.type), (path, dataset.type)
                folder = Path(dataset.data_root).relative_to(data).parts[0]
                assert path.stem.rsplit("_", 1)[1].startswith(folder), path
                pipelines = [dataset.pipeline, *([config.tta_pipeline] if "tta_pipeline" in config else [])]
                for pipeline in pipelines:
                    if (config.default_scope, str(pipeline)) not in built:
                        Compose(pipeline)
                        built.add((config.default_scope, str(pipeline)))


def test_commands_in_the_documentation_prepare_data_sets_that_exist() -> None:
    named = defaultdict(set)
    for path in [ROOT / "README.md", *CONFIGS.rglob("*.md"), *CONFIGS.rglob("*.py")]:
        for name in re.findall(
            r"(?:prepare_data\.py|dynamicvis prepare) ([a-z][\w-]*)", path.read_text(encoding="utf-8")
        ):
            named[name].add(path.name)
    assert named
    assert {name: files for name, files in named.items() if name not in PREPARED} == {}


def test_no_config_repeats_a_block_of_another() -> None:
    places = defaultdict(set)
    for path in CONFIGS.rglob("*.py"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        for start in range(len(lines) - LONGEST_COPY):
            places["\n".join(lines[start : start + LONGEST_COPY + 1])].add(str(path.relative_to(CONFIGS)))
    copies = [(sorted(files), block) for block, files in places.items() if len(files) > 1]
    assert not copies, f"{copies[0][0]} share the lines\n{copies[0][1]}"
