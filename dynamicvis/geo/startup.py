"""A quick start: OpenMMLab without what a model does not use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

from dynamicvis.model_card import OPENMMLAB_PACKAGES, ModelCard
from dynamicvis.model_config import scopes_of

_SIBLINGS = {"mmdet", "mmseg", "mmpretrain"}
_MMSEG_BY_MMDET = ("Mask2FormerHead", "MaskFormerHead")
_TEXT = ("language", "HuggingFace", "Bert", "text_encoder")


@contextmanager
def quick_imports(card: ModelCard) -> Iterator[None]:
    """Import OpenMMLab for a card's model inside, without packages that take a second or more and that it does not use.

    OpenMMLab's packages import each other, transformers and timm where they find them, and do without where they do
    not: so these are hidden. What they do with them (re-identification, models of language, Mask2Former in mmseg) is
    then not there in this process. Where OpenMMLab has been imported before, nothing is hidden.
    """
    if "mmengine" in sys.modules:
        yield
        return
    text = json.dumps(card.config)
    unused = _SIBLINGS - {OPENMMLAB_PACKAGES.get(card.task)} - scopes_of(card.config)
    if any(word in text for word in _MMSEG_BY_MMDET):
        unused -= {"mmdet"}
    if "timm" not in text.lower():
        unused.add("timm")
    text_models = {"transformers"} if not any(word in text for word in _TEXT) else set()
    with _hidden(text_models):
        import_module("dynamicvis.mm")
    # mmpretrain imports its models of images and text with all others, and needs transformers for them.
    with _hidden(unused | text_models if "mmpretrain" in unused else unused):
        yield


@contextmanager
def _hidden(names: Iterable[str]) -> Iterator[None]:
    """Make imports of packages fail as if they were not installed; what is imported already stays so."""
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(before))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
