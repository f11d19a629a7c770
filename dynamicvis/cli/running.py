"""What ``predict``, ``change`` and ``embed`` share: progress, notes, results and failures of scenes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dynamicvis.geo.batch import Outcome
    from dynamicvis.geo.engine import Progress
    from dynamicvis.geo.pipeline import Estimate, PredictResult
    from dynamicvis.geo.scenes import SceneRef


def report_outcomes(outcomes: Iterable[Outcome], *, as_json: bool, quiet: bool) -> None:
    """Print what was written for each scene; at the end which ones failed, and why, with exit code 1.

    Paths and counts go to stdout, all else to stderr.
    """
    finished: list[Outcome] = []
    for outcome in outcomes:
        finished.append(outcome)
        if outcome.result is not None and not as_json:
            _print_result(outcome.result, quiet=quiet)
    if as_json:
        click.echo(json.dumps([_as_dictionary(outcome) for outcome in finished], indent=2))
    failed = [outcome for outcome in finished if outcome.error is not None]
    if failed and len(finished) == 1:
        raise click.ClickException(failed[0].error or "")
    for outcome in failed:
        click.echo(f"Error: {outcome.error}", err=True)
    if failed:
        click.echo(f"{len(failed)} of {len(finished)} scenes failed", err=True)
        raise SystemExit(1)


def print_estimate(scene: str, estimate: Estimate, *, as_json: bool) -> None:
    """Print what a run would take."""
    if as_json:
        content = {"scene": scene, **asdict(estimate), "paths": [str(path) for path in estimate.paths]}
        click.echo(json.dumps(content, indent=2))
        return
    memory = "unknown on this system" if estimate.memory is None else f"about {_size(estimate.memory)}"
    rows = {
        "grid": f"{estimate.rows} x {estimate.columns} tiles of {estimate.tile} pixels, overlap {estimate.overlap}",
        "memory": memory,
        "scratch": f"up to {_size(estimate.scratch)} next to the output",
        "output": f"rasters of {_size(estimate.output)} before compression" if estimate.output else "no raster",
        "files": ", ".join(str(path) for path in estimate.paths),
    }
    click.echo("\n".join([scene, *(f"  {name + ':':<9}{value}" for name, value in rows.items())]))
    for note in estimate.notes:
        click.echo(f"Note: {note}", err=True)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[SceneRef], Progress]]:
    """A bar for each scene on stderr, when that is a terminal: tiles and megapixels a second, and the time left."""
    from tqdm import tqdm

    with ExitStack() as stack:

        def bar_of(scene: SceneRef) -> Progress:
            bars: list[Any] = []

            def report(done: int, total: int, pixels: int) -> None:
                if not bars:
                    # disable=None: silent when stderr is no terminal.
                    disable = True if quiet else None
                    bars.append(stack.enter_context(tqdm(total=total, unit="tile", desc=scene.name, disable=disable)))
                bar = bars[0]
                advance = done - bar.n
                elapsed = bar.format_dict["elapsed"]
                if elapsed and not bar.disable:
                    bar.set_postfix_str(f"{pixels * done / total / elapsed / 1e6:.1f} Mpx/s", refresh=False)
                bar.update(advance)

            return report

        yield bar_of


def _print_result(result: PredictResult, *, quiet: bool) -> None:
    if not quiet:
        for note in result.notes:
            click.echo(f"Note: {note}", err=True)
        if result.times is None:
            click.echo("Note: these files were written by the same run before; --overwrite makes them anew", err=True)
        if result.times is not None and sys.stderr.isatty():
            click.echo(f"{result.paths[0].stem}: {result.times.report()}", err=True)
    for path in result.paths:
        click.echo(str(path))
    click.echo(_count_line(result))


def _count_line(result: PredictResult) -> str:
    if not result.counts and result.kind != "object":
        return f"{result.tiles} {'cell' if result.kind == 'cell' else 'tile'}{'' if result.tiles == 1 else 's'}"
    total = f"{result.count} {result.kind}{'' if result.count == 1 else 's'}"
    by_class = ", ".join(f"{count} {name}" for name, count in result.counts.items())
    return f"{total}: {by_class}" if by_class else total


def _as_dictionary(outcome: Outcome) -> dict[str, Any]:
    content: dict[str, Any] = {"scene": outcome.scene.path, "error": outcome.error}
    if outcome.result is not None:
        result = outcome.result
        content |= {
            "paths": [str(path) for path in result.paths],
            "counts": result.counts,
            "tiles": result.tiles,
            "notes": list(result.notes),
            "seconds": None if result.times is None else asdict(result.times),
        }
    return content


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"
