"""Mends of OpenMMLab: clashes of versions, and checkpoints that are read as data."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlparse


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


def read_checkpoints_as_data() -> None:
    """Let MMEngine read every checkpoint without running code from it, or refuse it, wherever it comes from.

    MMEngine unpickles whatever its safe reader refuses. And weights of ``init_cfg=dict(type="Pretrained")`` of which a
    module takes none, it only logs: that is an error here, as are weights that are NaN or infinite.
    """
    from mmengine.model.weight_init import PretrainedInit
    from mmengine.runner import checkpoint as reader
    from mmengine.runner.checkpoint import CheckpointLoader

    if reader.load_url is _load_url:
        return
    CheckpointLoader.register_scheme("", loader=load_from_local, force=True)
    reader.load_url = _load_url
    reader._safe_torch_load = _load_opened
    unchecked = PretrainedInit.__call__

    def checked(initializer: Any, module: Any) -> None:
        from dynamicvis.mm.checkpoints import loading_into

        source = f"checkpoint {initializer.checkpoint}"
        with loading_into(module, f"{source}, below {initializer.prefix}" if initializer.prefix else source):
            unchecked(initializer, module)

    PretrainedInit.__call__ = checked


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Content of a checkpoint on this machine; MMEngine names the way of reading after this function."""
    from dynamicvis.mm.checkpoints import read_whole_checkpoint

    return read_whole_checkpoint(Path(filename).expanduser(), map_location)


def _load_opened(file: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
    """Content of a checkpoint by its path, or in memory, as a store of objects gives it."""
    if isinstance(file, (str, Path)):
        return load_from_local(str(file), map_location)
    with NamedTemporaryFile(suffix=".pth") as copy:
        copy.write(file.read())
        copy.flush()
        return load_from_local(copy.name, map_location)


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None, **options: Any) -> dict[str, Any]:
    """Content of a checkpoint behind an address, which is kept where torch keeps its own."""
    from torch.hub import download_url_to_file, get_dir

    path = (Path(get_dir()) / "checkpoints" if model_dir is None else Path(model_dir)) / Path(urlparse(url).path).name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        download_url_to_file(url, str(path), progress=bool(options.get("progress")))
    return load_from_local(str(path), map_location)
