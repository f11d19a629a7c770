"""``dynamicvis predict``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from dynamicvis.cli.errors import reported_errors

if TYPE_CHECKING:
    from dynamicvis.geo import PredictResult


@click.command()
@click.argument("scene")
@click.option("-o", "--out-dir", required=True, help="Folder of the results, made if needed.")
@click.option("--model", default="trees", show_default=True, help="Name listed by `dynamicvis models`, or a file.")
@click.option("--tile", type=click.IntRange(min=1), help="Edge of a tile, pixels.  [default: the model's]")
@click.option("--overlap", type=click.IntRange(min=0), help="Overlap of tiles, pixels.  [default: the model's]")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Tiles at a time.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no notes.")
def predict(
    scene: str,
    out_dir: str,
    model: str,
    tile: int | None,
    overlap: int | None,
    batch_size: int,
    device: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Find the objects in SCENE and write them as GeoPackage, GeoJSON and a quicklook PNG."""
    from dynamicvis import geo

    with reported_errors(), _progress_bar(quiet) as progress:
        result = geo.predict(
            scene,
            out_dir,
            model,
            tile=tile,
            overlap=overlap,
            batch_size=batch_size,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    if not quiet:
        for note in result.notes:
            click.echo(f"Note: {note}", err=True)
    for path in result.paths:
        click.echo(str(path))
    click.echo(_count_line(result))


def _count_line(result: PredictResult) -> str:
    total = f"{result.count} object{'' if result.count == 1 else 's'}"
    by_class = ", ".join(f"{count} {name}" for name, count in result.counts.items())
    return f"{total}: {by_class}" if by_class else total


@contextmanager
def _progress_bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over the tiles on stderr, when that is a terminal; it appears with the first report."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: list[tqdm] = []

        def report(done: int, total: int) -> None:
            if not bars:
                # disable=None: silent when stderr is no terminal.
                bars.append(stack.enter_context(tqdm(total=total, unit="tile", disable=True if quiet else None)))
            bars[0].update(done - bars[0].n)

        yield report
