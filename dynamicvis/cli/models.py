"""``dynamicvis models``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dynamicvis.cli.errors import reported_errors

if TYPE_CHECKING:
    from dynamicvis.model_card import ModelCard


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the whole cards as JSON.")
def models(as_json: bool) -> None:
    """List the models that come with the package."""
    from dynamicvis.model_card import read_card, shipped_models

    with reported_errors():
        cards = {path: read_card(path) for path in shipped_models().values()}
    if as_json:
        click.echo(json.dumps([{"path": str(path), **asdict(card)} for path, card in cards.items()], indent=2))
    elif cards:
        click.echo("\n\n".join(_describe(card) for card in cards.values()))
    else:
        click.echo("No models come with this installation; give a file to `dynamicvis predict --model`.")


def _describe(card: ModelCard) -> str:
    lowest, highest = card.value_range
    rows = {
        "task": card.task,
        "classes": ", ".join(card.classes),
        "bands": f"{', '.join(card.bands)} ({lowest:g} to {highest:g})",
        "pixel size": f"{card.gsd:g} m",
        "tile": f"{card.tile} pixels, overlap {card.overlap}",
        "score": f"at least {card.score_threshold:g}",
        "metrics": ", ".join(f"{name} {value:.3g}" for name, value in card.metrics.items()),
        "trained on": card.training_data,
        "licence": card.license,
    }
    lines = [f"  {name + ':':<12}{value}" for name, value in rows.items()]
    return "\n".join([f"{card.name}: {card.description}", *lines])
