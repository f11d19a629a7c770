"""Whole images and masks from files, in the type and with the bands that the file has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from dynamicvis.data.orientation import decoded_photo, orientation, upright
from dynamicvis.errors import DynamicVisError
from dynamicvis.raster_files import RasterFileError, reading


class DataError(DynamicVisError):
    """A file of a data set that cannot be used; the message is one sentence naming it and what is wrong."""


def read_raster(path: str | Path, bands: Sequence[int] | None = None) -> NDArray[Any]:
    """A whole image (H, W, C) in the file's type, its bands in the file's order (so RGB, where OpenCV gives BGR).

    A picture without a georeference is turned as its camera says it is to be shown, see `dynamicvis.data.orientation`.

    Args:
        path: GeoTIFF, TIFF, PNG, JPEG, JPEG 2000 or another format of `dynamicvis.raster_files`.
        bands: numbers of the bands to read, in this order, counted from 1 as GDAL does; None reads all.

    Raises:
        DataError: the file is missing, is no image, is cut off or damaged, or lacks a band.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the data folder and the list that names the file")
    return _read(str(path), str(path), bands, path)


def decode_raster(content: bytes, name: str, bands: Sequence[int] | None = None) -> NDArray[Any]:
    """As `read_raster`, from the bytes of a file.

    Args:
        content: the file.
        name: what the message of an error calls it.
        bands: see `read_raster`.

    Raises:
        DataError: see `read_raster`.
    """
    with MemoryFile(content) as file:
        return _read(file.name, name, bands, content)


def _read(path: str, name: str, bands: Sequence[int] | None, source: Path | bytes) -> NDArray[Any]:
    try:
        # GDAL's fast path for whole PNGs reports success on a file that is cut off, and leaves memory as it was.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with reading(path, GDAL_PNG_WHOLE_IMAGE_OPTIM="NO") as file:
                numbers = list(range(1, file.count + 1) if bands is None else bands)
                wrong = [number for number in numbers if not 1 <= number <= file.count]
                if wrong:
                    raise DataError(f"{name} has no band {wrong[0]}; it has bands 1 to {file.count}")
                turn = orientation(file, source)
                photo = None if turn == 1 else decoded_photo(file, source)
                image = file.read(numbers).transpose(1, 2, 0) if photo is None else photo[..., np.array(numbers) - 1]
                return np.ascontiguousarray(upright(image, turn))
    except RasterFileError as error:
        raise DataError(str(error).replace(path, name)) from error
    except DataError:
        raise
    except (MemoryError, ValueError) as error:  # NumPy's ValueError: more than can be addressed
        raise DataError(f"{name} claims more pixels than fit in memory ({error}); get it anew, or cut it") from error
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).replace(path, "").strip(" :'\"")
        raise DataError(
            f"{name} cannot be read as an image and may be damaged ({reason}); get the file anew"
        ) from error


def write_raster(path: str | Path, image: NDArray[Any], crs: Any = None, transform: Affine | None = None) -> None:
    """Write an image (H, W, C) or (H, W) as a compressed GeoTIFF, with its place where it is given.

    Args:
        path: file to write.
        image: values of any type that GeoTIFF holds.
        crs: coordinate reference system as rasterio takes it.
        transform: from pixels to coordinates.
    """
    bands = np.atleast_3d(image).transpose(2, 0, 1)
    place = {} if transform is None else {"crs": crs, "transform": transform}
    count, height, width = bands.shape
    profile = {"width": width, "height": height, "count": count, "dtype": bands.dtype, "compress": "deflate"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **profile, **place) as file:
            file.write(bands)
