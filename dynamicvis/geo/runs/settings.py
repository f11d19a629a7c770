"""How a run reads, computes and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dynamicvis.geo.errors import GeoError


@dataclass(frozen=True)
class Settings:
    """How scenes are read, computed and written; the same for any number of them.

    Attributes:
        formats: suffixes of the files in an output folder; those that suit the task if there are none.
        scores, selection, preview: also write a raster of class probabilities, a raster of where the backbone looked,
            a page to look at.
        tile, overlap: pixels; the card's if not given. A given tile alone has at most half of it as overlap.
        batch_size: tiles in one call of the model.
        readers: threads that read ahead.
        max_memory: bytes, or text such as ``"4GB"``: lowers ``batch_size`` until the process stays below it, or
            refuses.
        bands: numbers of the bands to read, in the order of the card's.
        nodata: value that means no data, instead of the file's.
        bounds: left, bottom, right, top in the CRS of the scene: only this part is read.
        creation_options: of GDAL's COG driver.
        resume: go on with an interrupted run, and take a finished one for the result; otherwise begin anew.
        overwrite: replace files of an earlier run.
        campaign: a name that the processes of one call share: what one of them has finished is the result for those
            that come later, even if they are to begin anew or to overwrite.
    """

    formats: Sequence[str] = ()
    scores: bool = False
    selection: bool = False
    preview: bool = False
    tile: int | None = None
    overlap: int | None = None
    batch_size: int = 4
    readers: int = 2
    max_memory: int | str | None = None
    bands: Sequence[int] | None = None
    nodata: float | None = None
    bounds: tuple[float, float, float, float] | None = None
    creation_options: Mapping[str, str] = field(default_factory=dict)
    resume: bool = True
    overwrite: bool = False
    campaign: str | None = None

    def tiling(self, tile: int, overlap: int) -> tuple[int, int]:
        """Tile and overlap in pixels: as set, else those given. For a set tile alone, overlap is at most half of it.

        Raises:
            GeoError: tile below 1, or overlap below 0 or not below tile.
        """
        size = tile if self.tile is None else self.tile
        if self.overlap is not None:
            overlap = self.overlap
        elif self.tile is not None:
            overlap = min(overlap, size // 2)
        if size < 1:
            raise GeoError(f"tile must be at least 1 pixel, not {size}")
        if not 0 <= overlap < size:
            raise GeoError(f"overlap must be at least 0 and less than tile ({size} pixels), not {overlap}")
        return size, overlap

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            GeoError: batch size or readers below 1.
        """
        if self.batch_size < 1:
            raise GeoError(f"batch size must be at least 1, not {self.batch_size}")
        if self.readers < 1:
            raise GeoError(f"readers must be at least 1, not {self.readers}")
