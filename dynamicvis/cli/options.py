"""Options that several commands share, named as in rasterio's own command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
_WORDS = re.compile(r"[,\s]+")


def _parse_bands(context: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[int, ...] | None:
    """Band numbers of ``1,2,3``, ``1..3`` or several of these; None when the option is not given."""
    bands: list[int] = []
    for item in (item for text in given for item in _WORDS.split(text.strip(" []"))):
        match = re.fullmatch(r"([0-9]+)(?:\.\.([0-9]+))?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise click.BadParameter(f"'{item}' names no bands; give numbers from 1 like 3,2,1 or 1..3")
        bands += range(first, last + 1)
    return tuple(bands) or None


def _parse_bounds(
    context: click.Context, option: click.Parameter, given: str | None
) -> tuple[float, float, float, float] | None:
    if given is None:
        return None
    words = _WORDS.split(given.strip(" ,[]"))
    try:
        left, bottom, right, top = map(float, words)
    except ValueError as error:
        raise click.BadParameter(f"'{given}' are no bounds; give 'left bottom right top'") from error
    return left, bottom, right, top


def _parse_creation_options(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    options = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise click.BadParameter(f"'{text}' is no creation option; give NAME=VALUE")
        options[name.strip().upper()] = value
    return options


bidx_option = click.option(
    "-b",
    "--bidx",
    "bands",
    multiple=True,
    metavar="BANDS",
    callback=_parse_bands,
    help="Numbers of the bands to read, from 1, in the model's order: 3,2,1 or 1..3.  [default: the first ones]",
)
nodata_option = click.option(
    "--nodata", type=float, metavar="NUMBER|nan", help="Value that means no data.  [default: as the file says]"
)
bounds_option = click.option(
    "--bounds",
    metavar="BOUNDS",
    callback=_parse_bounds,
    help="Part of the scene, in its CRS: 'left bottom right top' or '[left, bottom, right, top]'.  [default: all]",
)
tile_option = click.option(
    "--tile", type=click.IntRange(min=1), metavar="PIXELS", help="Edge of a tile.  [default: the model's]"
)
overlap_option = click.option(
    "--overlap",
    type=click.IntRange(min=0),
    metavar="PIXELS",
    help="Overlap of neighbouring tiles.  [default: the model's]",
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="TILES",
    help="Tiles in one call of the model.",
)
device_option = click.option(
    "--device", default="cpu", show_default=True, metavar="DEVICE", help="Where the model runs: cpu, cuda, cuda:1, ..."
)
readers_option = click.option(
    "--readers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="N",
    help="Threads that read ahead of the model.",
)
workers_option = click.option(
    "-j",
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes of --engine ray.  [default: 2; on GPUs, one for each GPU of the cluster]",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where scenes are computed: in this process, or by --workers processes in a Ray cluster (that of RAY_ADDRESS, "
    "or a local one).",
)
max_memory_option = click.option(
    "--max-memory",
    metavar="SIZE",
    help="Memory that the run stays below, such as 4GB: lowers the batch size, or refuses.  [default: no limit]",
)
creation_option = click.option(
    "--co",
    "creation_options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parse_creation_options,
    help="Creation option of GDAL's COG driver for rasters, such as COMPRESS=ZSTD; may be given several times.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
resume_option = click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on with an interrupted run of the same scene, model and options, or begin anew.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done (grid, tiles, memory, size of the output); write nothing."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else on stdout."
)
out_option = click.option(
    "-o",
    "--out",
    required=True,
    metavar="FOLDER|FILE",
    help="Folder of the results, made if needed; or, for one scene, a file whose suffix says what it is to hold.",
)
formats_option = click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    metavar="SUFFIX",
    help="Of tif, gpkg, geojson, fgb, parquet, png, html; may be given several times.  [default: those of the task]",
)
scores_option = click.option("--scores", is_flag=True, help="Also write the probability of each class as a raster.")
selection_option = click.option(
    "--selection",
    is_flag=True,
    help="Also write a raster of where the model looked: percent, a band for each stage of its backbone.",
)
preview_option = click.option("--preview", is_flag=True, help="Also write a page (.html) to look at in a browser.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar and no notes.")
asset_option = click.option(
    "--asset",
    metavar="KEY",
    help="Asset of STAC items.  [default: visual, else data, else the only GeoTIFF]",
)


def model_option(default: str | None) -> Callable[[Command], Command]:
    """``--model``, required when there is no default."""
    # To click, a default of None that is given is a value, and the option then not required.
    presence: dict[str, Any] = {"required": True} if default is None else {"default": default, "show_default": True}
    return click.option(
        "--model",
        **presence,
        metavar="NAME|FILE",
        help="Name listed by `dynamicvis models`, or a model file.",
    )


def scene_options(command: Command) -> Command:
    """What of a scene is read."""
    return _with(command, bidx_option, nodata_option, bounds_option)


def tiling_options(command: Command) -> Command:
    """How it is cut."""
    return _with(command, tile_option, overlap_option)


def run_options(command: Command) -> Command:
    """How it is computed and written."""
    return _with(
        command,
        batch_size_option,
        readers_option,
        device_option,
        max_memory_option,
        creation_option,
        resume_option,
        overwrite_option,
        asset_option,
        dry_run_option,
        json_option,
        quiet_option,
    )


def engine_options(command: Command) -> Command:
    """Where it is computed."""
    return _with(command, engine_option, workers_option)


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    # click lists options in the order of the decorators, which apply from the last to the first.
    for option in reversed(options):
        command = option(command)
    return command
