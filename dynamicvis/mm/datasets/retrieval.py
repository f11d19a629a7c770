"""Image retrieval: BigEarthNet and ForestNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_json, read_rows
from dynamicvis.mm.datasets.scenes import ListedDataset
from dynamicvis.registry import DATASETS

# The nomenclature of 19 classes (Sumbul et al. 2021, "BigEarthNet-MM", table 1), each of some of the 43 CORINE classes.
# CORINE classes in no list were dropped there.
BIGEARTHNET_19: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
BIGEARTHNET_43 = (
    *("Continuous urban fabric", "Discontinuous urban fabric", "Industrial or commercial units"),
    *("Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites"),
    *("Dump sites", "Construction sites", "Green urban areas", "Sport and leisure facilities"),
    *("Non-irrigated arable land", "Permanently irrigated land", "Rice fields", "Vineyards"),
    *("Fruit trees and berry plantations", "Olive groves", "Pastures", "Annual crops associated with permanent crops"),
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    *("Agro-forestry areas", "Broad-leaved forest", "Coniferous forest", "Mixed forest", "Natural grassland"),
    *("Moors and heathland", "Sclerophyllous vegetation", "Transitional woodland/shrub", "Beaches, dunes, sands"),
    *("Bare rock", "Sparsely vegetated areas", "Burnt areas", "Inland marshes", "Peatbogs", "Salt marshes"),
    *("Salines", "Intertidal flats", "Water courses", "Water bodies", "Coastal lagoons", "Estuaries", "Sea and ocean"),
)
FORESTNET_12 = (
    *("Oil palm plantation", "Timber plantation", "Other large-scale plantations", "Grassland shrubland"),
    *("Small-scale agriculture", "Small-scale mixed plantation", "Small-scale oil palm plantation", "Mining"),
    *("Fish pond", "Logging", "Secondary forest", "Other"),
)
FORESTNET_4 = ("Plantation", "Smallholder agriculture", "Grassland shrubland", "Other")


def _with_classes(metainfo: dict[str, Any] | None, sets: dict[int, tuple[str, ...]], number: int) -> dict[str, Any]:
    if number not in sets:
        raise ValueError(f"num_classes must be {' or '.join(map(str, sets))}, got {number}")
    return {"classes": sets[number], **(metainfo or {})}


@DATASETS.register_module()
class BigEarthNet(ListedDataset):
    """BigEarthNet v1, Sentinel-2: patches of 1.2 km with one or several labels.

    A patch is a folder ``PATCH`` with ``PATCH_B01.tif``, ..., ``PATCH_B12.tif`` and ``PATCH_labels_metadata.json``; the
    list file is the CSV of a split as published, whose first column holds the names of patches. Source: Sumbul et al.
    2019, "BigEarthNet: a large-scale benchmark archive for remote sensing image understanding".

    Args:
        ann_file: the CSV, relative to ``data_root``.
        num_classes: 43 for the CORINE classes, 19 for the nomenclature of BigEarthNet-MM; patches without any of the 19
            are left out, and their number is logged.
        settings: as of `ListedDataset`.

    Raises:
        DataError: on loading, a patch or its labels are missing, or a label is no class.
    """

    list_help = "the splits of BigEarthNet are published beside the data set, see configs/image_retrieval/README.md"

    def __init__(
        self, ann_file: str, *, num_classes: int = 43, metainfo: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        sets = {43: BIGEARTHNET_43, 19: tuple(BIGEARTHNET_19)}
        self._merged = None if num_classes == 43 else {old: new for new, olds in BIGEARTHNET_19.items() for old in olds}
        super().__init__(ann_file, metainfo=_with_classes(metainfo, sets, num_classes), **settings)

    def entries(self) -> list[dict[str, Any]]:
        result = []
        dropped = 0
        names = [row[0].strip() for _, row in read_rows(self.ann_file) if row[0].strip()]
        for name in names:
            folder = self.images / name
            labels = self._labels(folder)
            if labels:
                result.append({"img_path": str(folder), "gt_label": labels})
            else:
                dropped += 1
        if dropped:
            print_log(
                f"{self.ann_file}: {dropped} of {len(names)} patches have none of the classes, left out", "current"
            )
        return result

    def _labels(self, folder: Path) -> list[int]:
        path = folder / f"{folder.name}_labels_metadata.json"
        if not path.is_file():
            raise DataError(f"{self.ann_file} names {folder.name}, but {path} does not exist; {self.list_help}")
        try:
            names = read_json(path)["labels"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} holds no labels ({error!r}); get the patch anew") from error
        if self._merged is not None:
            unknown = [name for name in names if name not in BIGEARTHNET_43]
            if unknown:
                raise DataError(f"{path}: {unknown[0]!r} is no class of BigEarthNet")
            names = {self._merged[name] for name in names if name in self._merged}
        return sorted(self.label(name, str(path)) for name in names)


@DATASETS.register_module()
class ForestNet(ListedDataset):
    """ForestNet: Landsat-8 composites of 332 x 332 pixels of forest loss in Indonesia, one driver each.

    The list file is ``train.csv``, ``val.csv`` or ``test.csv`` as published, with the columns ``label``,
    ``merged_label`` and ``example_path``; the image is ``EXAMPLE_PATH/images/visible/composite.png``, 8-bit RGB.
    Source: Irvin et al. 2020, "ForestNet: classifying drivers of deforestation in Indonesia using deep learning on
    satellite imagery".

    Args:
        ann_file: the CSV, relative to ``data_root``.
        num_classes: 12 for the column ``label``, 4 for ``merged_label``.
        settings: as of `ListedDataset`.

    Raises:
        DataError: on loading, an image or a column is missing, or a label is no class.
    """

    list_help = "get ForestNet as configs/image_retrieval/README.md says"

    def __init__(
        self, ann_file: str, *, num_classes: int = 12, metainfo: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        sets = {12: FORESTNET_12, 4: FORESTNET_4}
        self._column = "label" if num_classes == 12 else "merged_label"
        super().__init__(ann_file, metainfo=_with_classes(metainfo, sets, num_classes), **settings)

    def entries(self) -> list[dict[str, Any]]:
        result = []
        rows = read_rows(self.ann_file)
        _, header = next(rows, (0, []))
        missing = {self._column, "example_path"} - set(header)
        if missing:
            raise DataError(f"{self.ann_file} lacks the column {sorted(missing)[0]!r}; {self.list_help}")
        for number, values in rows:
            row = dict(zip(header, values, strict=False))
            where = f"{self.ann_file}, line {number}"
            if not row.get(self._column) or not row.get("example_path"):
                lacking = "example_path" if row.get(self._column) else self._column
                raise DataError(f"{where} has no {lacking}; {self.list_help}")
            path = self.images / row["example_path"] / "images" / "visible" / "composite.png"
            if not path.is_file():
                raise DataError(f"{where} names {row['example_path']}, but {path} does not exist; {self.list_help}")
            result.append({"img_path": str(path), "gt_label": self.label(row[self._column], where)})
        return result
