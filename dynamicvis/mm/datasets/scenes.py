"""Scene classification: UC Merced and AID."""

from __future__ import annotations

import difflib
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset

from dynamicvis.data.preparation.scenes import AID_CLASSES, UCMERCED_CLASSES
from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_lines
from dynamicvis.registry import DATASETS


class ListedDataset(BaseDataset):
    """Images that a list file names, of which some may be the queries and others the database of a retrieval.

    Args:
        ann_file: list file, relative to ``data_root``.
        data_root: folder of the data set.
        data_prefix: ``dict(img_path=FOLDER)``, where the images are, relative to ``data_root``.
        role: what the images are for where features are compared, ``"query"`` or ``"database"``: of the test images
            or the training images in classification by frozen features.
        settings: as of ``mmengine.dataset.BaseDataset``.

    Raises:
        DataError: on loading, the list file is missing or has no entries, or as the data set says.
    """

    def __init__(self, ann_file: str, *, role: str | None = None, **settings: Any) -> None:
        if role not in (None, "query", "database"):
            raise ValueError(f"role must be 'query' or 'database', got {role!r}")
        self.role = role
        super().__init__(ann_file=ann_file, **settings)

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return Path(self.data_prefix["img_path"])

    def entries(self) -> list[dict[str, Any]]:
        """``img_path`` and ``gt_label`` of every image; ``gt_label`` is a class, or a list of several."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict[str, Any]]:
        """The entries, each with its role."""
        if not Path(self.ann_file).is_file():
            raise DataError(f"{self.ann_file} does not exist; {self.list_help}")
        entries = self.entries()
        if not entries:
            raise DataError(f"{self.ann_file} names no image, the split is empty; {self.list_help}")
        return [entry | {"role": self.role} for entry in entries]

    list_help = "check ann_file and data_root"

    def label(self, name: str, where: str) -> int:
        """Number of a class.

        Raises:
            DataError: ``name`` is no class of the data set; ``where`` says which file is wrong.
        """
        classes = self.metainfo["classes"]
        if name in classes:
            return classes.index(name)
        close = difflib.get_close_matches(name, classes, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the classes are {', '.join(classes)}"
        raise DataError(f"{where}: {name!r} is no class of {type(self).__name__}; {hint}")


class SceneDataset(ListedDataset):
    """Images in one folder a class; the list file has a line ``CLASS/FILE`` for each image of the split."""

    def entries(self) -> list[dict[str, Any]]:
        result = []
        for number, name in enumerate(read_lines(self.ann_file), start=1):
            if not name:
                continue
            where = f"{self.ann_file}, line {number}"
            path = PurePosixPath(name)
            if len(path.parts) != 2:
                raise DataError(f"{where}: {name!r} has no label; a line is CLASS/FILE, the class being the folder")
            label = self.label(path.parts[0], where)
            file = self.images / path
            if not file.is_file():
                raise DataError(f"{where} names {name}, but {file} does not exist; {self.list_help}")
            result.append({"img_path": str(file), "gt_label": label})
        return result


@DATASETS.register_module()
class UCMerced(SceneDataset):
    """UC Merced Land Use: 21 classes of 100 aerial images of 256 x 256 pixels.

    ``UCMerced_LandUse/Images/CLASS/*.tif`` as published; list files by ``dynamicvis prepare ucmerced``. Source: Yang
    and Newsam 2010, "Bag-of-visual-words and spatial extensions for land-use classification".
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": UCMERCED_CLASSES}
    list_help = "make the lists by `dynamicvis prepare ucmerced`, see its --help"


@DATASETS.register_module()
class AID(SceneDataset):
    """AID: 30 classes of 220 to 420 aerial images of 600 x 600 pixels.

    ``CLASS/*.jpg`` as published; list files by ``dynamicvis prepare aid``. Source: Xia et al. 2017, "AID: A
    benchmark data set for performance evaluation of aerial scene classification".
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": AID_CLASSES}
    list_help = "make the lists by `dynamicvis prepare aid`, see its --help"
