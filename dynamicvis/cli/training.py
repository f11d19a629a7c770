"""``dynamicvis prepare``, ``export`` and ``convert``: before and after a training."""

from __future__ import annotations

from pathlib import Path

import click

from dynamicvis.cli.errors import reported_errors

_PATH = click.Path(path_type=Path)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
    options_metavar="",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="NAME [OPTIONS]")
def prepare(arguments: tuple[str, ...]) -> None:
    """Prepare a data set for training; `dynamicvis prepare --help` names them, `prepare NAME --help` its options."""
    from dynamicvis.data.preparation.command import prepare

    with reported_errors("interrupted; nothing was written"):
        click.echo(prepare(arguments))


@click.command()
@click.argument("config", type=_PATH)
@click.argument("checkpoint", type=_PATH)
@click.option("-o", "--out", required=True, type=_PATH, metavar="FILE", help="File to write, replaced if it exists.")
@click.option("--name", required=True, help="Name of the model.")
@click.option("--metrics", type=_PATH, metavar="FILE", help="metrics.json of a test, for the card.")
@click.option("--score-threshold", type=float, metavar="NUMBER", help="Instead of the one in the config.")
def export(
    config: Path, checkpoint: Path, out: Path, name: str, metrics: Path | None, score_threshold: float | None
) -> None:
    """Make a single-file model of a CHECKPOINT and the CONFIG that it was trained with, which has a model_card.

    Averaged weights are used where the checkpoint has them.
    """
    from dynamicvis.geo.models import openmmlab_for

    with reported_errors(), openmmlab_for(name):
        from dynamicvis.mm.export import export_model

        card = export_model(config, checkpoint, out, name=name, metrics=metrics, score_threshold=score_threshold)
        click.echo(f"{out}: model '{card.name}', {out.stat().st_size / 1e6:.1f} MB, metrics {card.metrics}")


@click.command()
@click.argument("source", type=_PATH, metavar="CHECKPOINT")
@click.option(
    "-o",
    "--out",
    required=True,
    type=_PATH,
    metavar="FILE",
    help=".pth or .safetensors to write, replaced if it exists.",
)
def convert(source: Path, out: Path) -> None:
    """Convert a CHECKPOINT of the reference, .pth or .safetensors, into the names and layouts of this package."""
    from dynamicvis.conversion import convert_reference

    with reported_errors():
        click.echo(convert_reference(source, out))
        click.echo(f"written to {out}")
