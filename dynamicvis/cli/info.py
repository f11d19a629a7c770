"""``dynamicvis info``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dynamicvis.cli.errors import reported_errors
from dynamicvis.cli.options import json_option, model_option, scene_options, tiling_options
from dynamicvis.text import shown

if TYPE_CHECKING:
    from dynamicvis.geo.info import BandInfo, SceneInfo


@click.command()
@click.argument("file")
@model_option("trees")
@scene_options
@tiling_options
@json_option
def info(
    file: str,
    model: str,
    bands: tuple[int, ...] | None,
    nodata: float | None,
    bounds: tuple[float, float, float, float] | None,
    tile: int | None,
    overlap: int | None,
    as_json: bool,
) -> None:
    """Show what a model would see of FILE: bands, statistics, NoData, pixel size, tiles, and whether it fits."""
    from dynamicvis.geo.info import describe_scene
    from dynamicvis.model_card import find_model, read_card

    with reported_errors():
        card = read_card(find_model(model))
        found = describe_scene(file, card, bands=bands, nodata=nodata, bounds=bounds, tile=tile, overlap=overlap)
    click.echo(json.dumps(_plain(asdict(found)), indent=2) if as_json else _describe(found))


def _plain(value: Any) -> Any:
    """With text in place of the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _describe(found: SceneInfo) -> str:
    rows = {
        "size": f"{found.width} x {found.height} pixels",
        "CRS": found.crs or "none",
        "bounds": " ".join(f"{value:.10g}" for value in found.bounds) if found.bounds else "none",
        "pixel size": _pixel_size(found),
        "no data": f"{found.nodata_share:.1%} of the pixels{', by a mask or alpha among others' if found.mask else ''}",
        "looked at": "all pixels" if found.sampled == 1 else f"samples, {found.sampled:.2%} of the pixels",
        "model": found.model,
        "tiles": f"{found.tiles} of {found.tile} pixels, overlap {found.overlap}",
        "fits": "yes" if found.fits else f"no: {found.reason}",
    }
    lines = [found.path, *(f"  {name + ':':<12}{value}" for name, value in rows.items())]
    header = [
        "band",
        "name",
        "model's",
        "type",
        "NoData",
        "stands for",
        "min",
        "max",
        "mean",
        "std",
        "seen as",
        "out of range",
    ]
    table = [header, *(_row(band) for band in found.bands)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["", *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table)]
    return "\n".join(map(shown, [*lines, *(f"Note: {note}" for note in found.notes)]))


def _pixel_size(found: SceneInfo) -> str:
    own = "unknown" if found.pixel_size is None else f"{found.pixel_size:.4g} m"
    return f"{own} (the model's: {found.model_pixel_size:.4g} m)"


def _row(band: BandInfo) -> list[str]:
    from dynamicvis.geo.scene.values import formula

    meaning = band.scale, band.offset, band.unit
    seen = "-"
    if band.normalized_mean is not None:
        seen = f"{band.normalized_mean:.2f} ± {band.normalized_std:.2f}"
    statistics = [
        "-" if value is None else f"{value:.6g}" for value in (band.minimum, band.maximum, band.mean, band.std)
    ]
    return [
        str(band.number),
        band.name or "-",
        band.model_name or "-",
        band.dtype,
        "-" if band.nodata is None else f"{band.nodata:.6g}",
        "-" if formula(*meaning) == "n" else formula(*meaning),
        *statistics,
        seen,
        "-" if band.out_of_range is None else f"{band.out_of_range:.1%}",
    ]
