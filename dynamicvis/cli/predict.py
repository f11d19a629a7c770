"""``dynamicvis predict``, ``change`` and ``embed``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import click

from dynamicvis.cli.errors import reported_errors
from dynamicvis.cli.options import (
    engine_options,
    formats_option,
    model_option,
    out_option,
    preview_option,
    run_options,
    scene_options,
    scores_option,
    selection_option,
    tiling_options,
)
from dynamicvis.cli.running import Bars, report_outcomes

if TYPE_CHECKING:
    from dynamicvis.geo import Settings


@click.command()
@click.argument("scenes", nargs=-1, required=True)
@out_option
@model_option("trees")
@formats_option
@scores_option
@selection_option
@preview_option
@scene_options
@tiling_options
@engine_options
@run_options
def predict(scenes: tuple[str, ...], **options: Any) -> None:
    """Run a model over SCENES and write what it finds: objects, classes of pixels, or classes of cells.

    SCENES are rasters, folders, quoted patterns, lists (.txt) or STAC items (.json), local or remote.

    \b
    Examples:
      dynamicvis predict site.tif -o out/
      dynamicvis predict site.tif -o trees.geojson --bounds '404211 3285102 404251 3285142'
      dynamicvis predict 'flight/*.tif' -o out/ --model buildings.safetensors --preview
      dynamicvis predict s3://bucket/site.tif -o out/ -b 4,3,2 --dry-run
    """
    _run_scenes("predict", scenes, options)


@click.command()
@click.argument("scenes", nargs=-1, required=True)
@out_option
@model_option(None)
@formats_option
@selection_option
@preview_option
@scene_options
@tiling_options
@engine_options
@run_options
def embed(scenes: tuple[str, ...], **options: Any) -> None:
    """Write an embedding for every cell of SCENES, a cell being a tile, as raster and as GeoParquet.

    SCENES are as for `dynamicvis predict`. The backbone of any model is used.
    """
    _run_scenes("embed", scenes, options)


@click.command()
@click.argument("before")
@click.argument("after")
@out_option
@model_option(None)
@formats_option
@scores_option
@selection_option
@preview_option
@click.option("--align", is_flag=True, help="Reproject AFTER to the grid of BEFORE while it is read.")
@scene_options
@tiling_options
@run_options
def change(before: str, after: str, **options: Any) -> None:
    """Compare two scenes of one place, BEFORE and AFTER, and write what changed.

    Both have the same bands, CRS and grid of pixels (or see --align); what both cover is compared. The files are called
    like BEFORE.
    """
    from dynamicvis import geo
    from dynamicvis.geo.many import Outcome
    from dynamicvis.geo.scene.finding import find_scenes

    with reported_errors(_interrupted(options)):
        earlier, later = (_single(find_scenes([path], asset=options["asset"]), path) for path in (before, after))
        request = geo.Request(
            "change",
            options["out"],
            options["model"],
            options["device"],
            align=options["align"],
            settings=_settings(options),
        )
        paths = earlier.path, later.path
        with Bars(options["quiet"] or options["as_json"]) as bars:
            if options["dry_run"]:
                outcome = Outcome(earlier, geo.estimate(request, paths, earlier.name), None)
            else:
                outcome = Outcome(earlier, geo.run(request, paths, earlier.name, bars.of(earlier)), None)
        report_outcomes([outcome], as_json=options["as_json"], quiet=options["quiet"])


def _run_scenes(operation: Literal["predict", "embed"], arguments: Sequence[str], options: dict[str, Any]) -> None:
    from dynamicvis import geo
    from dynamicvis.geo.many import estimate_scenes, run_scenes
    from dynamicvis.geo.scene.finding import find_scenes

    workers = options["workers"]
    if workers is not None and options["engine"] != "ray":
        raise click.UsageError("--workers is the number of processes of --engine ray; add that, or leave --workers out")
    with reported_errors(_interrupted(options)):
        scenes = find_scenes(arguments, asset=options["asset"])
        request = geo.Request(
            operation, options["out"], options["model"], options["device"], settings=_settings(options)
        )
        with Bars(options["quiet"] or options["as_json"]) as bars:
            if options["dry_run"]:
                outcomes = estimate_scenes(scenes, request)
            elif options["engine"] == "ray":
                from dynamicvis.geo.many_on_ray import run_scenes_on_ray

                outcomes = run_scenes_on_ray(scenes, request, workers=workers or 2)
            else:
                outcomes = run_scenes(scenes, request, bars.of)
            report_outcomes(bars.between(outcomes), as_json=options["as_json"], quiet=options["quiet"])


def _interrupted(options: dict[str, Any]) -> str:
    if options["dry_run"]:
        return "interrupted; nothing was written"
    again = "the same command" if options["resume"] else "the same command without --no-resume"
    return f"interrupted; finished rows of tiles are kept, and {again} goes on from there"


def _single(scenes: Sequence[Any], argument: str) -> Any:
    from dynamicvis.geo.errors import GeoError

    if len(scenes) != 1:
        raise GeoError(f"{argument} names {len(scenes)} scenes where one is compared with one; give a single raster")
    if scenes[0].problem is not None:
        raise GeoError(scenes[0].problem)
    return scenes[0]


def _settings(options: dict[str, Any]) -> Settings:
    """Options have the names of the settings that they are."""
    from dynamicvis.geo import Settings

    return Settings(**{field.name: options[field.name] for field in fields(Settings) if field.name in options})
