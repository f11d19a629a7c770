"""Data sets of pairs of images and the map of what changed between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset

from dynamicvis.data.matching import images_by_name, read_names
from dynamicvis.data.oscd import label_file, place_files, read_places
from dynamicvis.data.raster import DataError
from dynamicvis.registry import DATASETS

Pair = tuple[Path, Path, Path]


class PairDataset(BaseSegDataset):
    """Pairs of images with a label of the pixels that changed; a subclass knows the layout.

    A sample has ``img_path``, ``img_path2`` and ``seg_map_path``, for :class:`LoadRasterPair` and :class:`LoadMask`.

    Args:
        data_root: folder of the data set.
        split: name of the split.
        **settings: as for mmseg's data sets.

    Raises:
        DataError: a file of a pair is missing, or the split has no pair.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": ("unchanged", "changed"),
        "palette": [[0, 0, 0], [255, 255, 255]],
    }

    def __init__(self, data_root: str, split: str, **settings: Any) -> None:
        self.split = split
        super().__init__(data_root=data_root, **settings)

    @abstractmethod
    def list_pairs(self) -> list[Pair]:
        """Files of all pairs: first date, second date, label."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """All samples of the split."""
        pairs = self.list_pairs()
        if not pairs:
            raise DataError(f"the split {self.split!r} of {self.data_root} has no pair of images; check the folder")
        return [self._sample(pair) for pair in pairs]

    def _sample(self, pair: Pair) -> dict[str, Any]:
        first, second, label = map(str, pair)
        return {
            "img_path": first,
            "img_path2": second,
            "seg_map_path": label,
            "label_map": self.label_map,
            "reduce_zero_label": False,
            "seg_fields": [],
        }


@DATASETS.register_module()
class ChangeFolder(PairDataset):
    """The layout of LEVIR-CD: ``SPLIT/A/NAME.png``, ``SPLIT/B/NAME.png``, ``SPLIT/label/NAME.png``.

    Files belong together by their names without suffix. ``dynamicvis prepare`` writes other sets in it.
    """

    def list_pairs(self) -> list[Pair]:
        folders = [Path(self.data_root) / self.split / name for name in ("A", "B", "label")]
        first, second, labels = (images_by_name(folder) for folder in folders)
        for folder, files in zip(folders[1:], (second, labels), strict=True):
            _check_partners(first, folders[0], files, folder)
        _check_partners(second, folders[1], first, folders[0])
        return [(first[name], second[name], labels[name]) for name in sorted(first)]


@DATASETS.register_module()
class WHUCD(PairDataset):
    """The layout of WHU-CD as tiles: ``A/NAME``, ``B/NAME``, ``label/NAME``, and names in ``list/SPLIT.txt``."""

    def list_pairs(self) -> list[Pair]:
        root = Path(self.data_root)
        path = root / "list" / f"{self.split}.txt"
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; it names the tiles of the split, one a line (to hold some of the training "
                "out for validation, move lines of train.txt to val.txt)"
            )
        names = read_names(path)
        present = {name: images_by_name(root / name) for name in ("A", "B", "label")}
        for name in names:
            for folder, by_name in present.items():
                if name not in by_name:
                    raise DataError(f"{root / folder} has no image {name}, which {path} names")
        return [(present["A"][name], present["B"][name], present["label"][name]) for name in names]


@DATASETS.register_module()
class OSCD(PairDataset):
    """OSCD as its three archives unpack side by side: whole pairs of Sentinel-2 images, some 600 pixels wide.

    ``IMAGES/PLACE/imgs_{1,2}_rect/*_B02.tif`` or ``B02.tif``, a file a band, or ``IMAGES/PLACE/pair/img{1,2}.png``
    in RGB; ``LABELS/PLACE/cm/cm.png``; ``IMAGES/{train,test}.txt`` with the places, between commas. ``IMAGES`` is the
    folder below ``data_root`` with these lists, ``LABELS`` any that has the place.

    Args:
        data_root: folder that holds the unpacked archives.
        split: ``"train"`` or ``"test"``: the list to read.
        bands: names of Sentinel-2 bands to load, in this order, such as ``("B04", "B03", "B02")``; None takes the RGB
            previews.
        places: only these places of the list.
        exclude: all but these places of the list.
        **settings: as for mmseg's data sets.

    Raises:
        DataError: a file is missing, or ``places`` or ``exclude`` names a place that the list lacks.
    """

    def __init__(
        self,
        data_root: str,
        split: str,
        bands: Sequence[str] | None = None,
        places: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.bands = None if bands is None else tuple(bands)
        self.places = None if places is None else tuple(places)
        self.exclude = tuple(exclude)
        super().__init__(data_root, split, **settings)

    def list_pairs(self) -> list[Pair]:
        images, names = read_places(self.data_root, self.split)
        for name in (*(self.places or ()), *self.exclude):
            if name not in names:
                raise DataError(f"{images / self.split}.txt has no place {name!r}; it has {', '.join(names)}")
        chosen = [name for name in names if name not in self.exclude and (self.places is None or name in self.places)]
        return [
            (
                place_files(images / name, 1, self.bands)[0],
                place_files(images / name, 2, self.bands)[0],
                label_file(self.data_root, name),
            )
            for name in chosen
        ]

    def _sample(self, pair: Pair) -> dict[str, Any]:
        sample = super()._sample(pair)
        if self.bands is not None:
            place = pair[0].parents[1]
            sample["band_paths"] = [[str(path) for path in place_files(place, date, self.bands)] for date in (1, 2)]
        return sample


def _check_partners(files: dict[str, Path], folder: Path, others: dict[str, Path], other_folder: Path) -> None:
    missing = sorted(set(files) - set(others))
    if missing:
        raise DataError(
            f"{other_folder} lacks the partner of {files[missing[0]]} ({len(missing)} of {len(files)} images of "
            f"{folder} have none); complete the pair or remove the image"
        )
