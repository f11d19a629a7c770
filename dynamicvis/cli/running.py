"""What ``predict``, ``change`` and ``embed`` share: progress, notes, results and failures of scenes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dynamicvis.text import shown

if TYPE_CHECKING:
    from dynamicvis.geo.many import Outcome
    from dynamicvis.geo.prediction import Estimate, PredictResult
    from dynamicvis.geo.runs.engine import Progress
    from dynamicvis.geo.scene.finding import SceneRef


def report_outcomes(outcomes: Iterable[Outcome], *, as_json: bool, quiet: bool) -> None:
    """Print what was written, or would be, for each scene; at the end which ones failed, and why, with exit code 1.

    Paths and counts go to stdout, all else to stderr; a line for each path, in which control characters are escapes
    (JSON holds it exactly). Where the work is broken off, what is known so far is printed.
    """
    finished: list[Outcome] = []
    try:
        for outcome in outcomes:
            finished.append(outcome)
            if outcome.result is not None and not as_json:
                _print_result(outcome.scene, outcome.result, quiet=quiet)
    finally:
        if as_json and finished:
            say(json.dumps([_as_dictionary(outcome) for outcome in finished], indent=2))
        failed = [outcome for outcome in finished if outcome.error is not None]
        if len(finished) > 1:
            for outcome in failed:
                say(f"Error: {shown(outcome.error or '')}", err=True)
    if failed and len(finished) == 1:
        raise click.ClickException(shown(failed[0].error or ""))
    if failed:
        say(f"{len(failed)} of {len(finished)} scenes failed", err=True)
        raise SystemExit(1)


def say(text: str, *, err: bool = False) -> None:
    """Print a line; where nobody reads on (``| head``), go on without a word: the files are what matters."""
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        # What is still in the stream's buffer goes nowhere, too.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, (sys.stderr if err else sys.stdout).fileno())
        os.close(nothing)
    except OSError as error:
        stream = "standard error" if err else "standard output"
        raise click.ClickException(
            f"{stream} cannot be written to ({error.strerror}); the files of finished scenes are written all the same"
        ) from error


class Bars:
    """A bar for each scene on stderr, when that is a terminal: tiles and megapixels a second, and the time left.

    Args:
        quiet: show none.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def of(self, scene: SceneRef) -> Progress:
        """What is to be called while a scene is worked on."""
        from tqdm import tqdm

        self.close()
        first = 0

        def report(done: int, total: int, pixels: int) -> None:
            nonlocal first
            if self._bar is None:
                # What an interrupted run has done does not count for the speed. disable=None: not on a terminal.
                first = done
                disable = True if self._quiet else None
                self._bar = tqdm(total=total, initial=done, unit="tile", desc=shown(scene.name), disable=disable)
            bar = self._bar
            elapsed = bar.format_dict["elapsed"]
            if elapsed and not bar.disable:
                rate = pixels * (done - first) / total / elapsed / 1e6
                bar.set_postfix_str(f"{rate:.1f} Mpx/s", refresh=False)
            bar.update(done - bar.n)

        return report

    def between(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """The outcomes, with the bar closed before something is printed about one."""
        for outcome in outcomes:
            self.close()
            yield outcome


def _print_result(scene: SceneRef, result: PredictResult | Estimate, *, quiet: bool) -> None:
    from dynamicvis.geo.prediction import Estimate

    if not quiet:
        for note in result.notes:
            say(f"Note: {shown(note)}", err=True)
    if isinstance(result, Estimate):
        _print_estimate(scene, result)
        return
    name = shown(result.paths[0].stem)
    if not quiet:
        if result.times is None:
            say(f"Note: {name} was done before, by the same command; --overwrite does it anew", err=True)
        elif sys.stderr.isatty():
            say(f"{name}: {result.times.report()}", err=True)
    for path in result.paths:
        say(shown(str(path)))
    say(shown(_count_line(result)))


def _print_estimate(scene: SceneRef, estimate: Estimate) -> None:
    memory = "unknown on this system" if estimate.memory is None else f"about {_size(estimate.memory)}"
    tiles = f"{estimate.rows} x {estimate.columns} tiles of {estimate.tile} pixels"
    rows = {
        "grid": tiles + (f", overlap {estimate.overlap}" if estimate.overlap else ""),
        "memory": memory,
        "scratch": f"up to {_size(estimate.scratch)} next to the output",
        "output": f"rasters of {_size(estimate.output)} before compression" if estimate.output else "no raster",
    }
    say("\n".join([shown(scene.path), *(f"  {name + ':':<9}{value}" for name, value in rows.items())]))
    for path in estimate.paths:
        say(f"  file:    {shown(str(path))}")


def _count_line(result: PredictResult) -> str:
    if not result.counts and result.kind != "object":
        return f"{result.tiles} {'cell' if result.kind == 'cell' else 'tile'}{'' if result.tiles == 1 else 's'}"
    total = f"{result.count} {result.kind}{'' if result.count == 1 else 's'}"
    by_class = ", ".join(f"{count} {name}" for name, count in result.counts.items())
    return f"{total}: {by_class}" if by_class else total


def _as_dictionary(outcome: Outcome) -> dict[str, Any]:
    from dynamicvis.geo.prediction import Estimate

    content: dict[str, Any] = {"scene": outcome.scene.path, "error": outcome.error}
    result = outcome.result
    if isinstance(result, Estimate):
        content |= asdict(result)
    elif result is not None:
        content |= {
            "paths": result.paths,
            "counts": result.counts,
            "tiles": result.tiles,
            "notes": result.notes,
            "seconds": None if result.times is None else asdict(result.times),
        }
    if result is not None:
        content["paths"] = [str(path) for path in result.paths]
    return content


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"
