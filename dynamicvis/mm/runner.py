"""Training and testing from config files: what ``tools/train.py`` and ``tools/test.py`` do."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.hooks.test_time_aug_hook import PrepareTTAHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from dynamicvis.mm.errors import ConfigError


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument("--work-dir", help="folder for logs and results; default: work_dirs/<config name>")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override config values, e.g. optim_wrapper.optimizer.lr=1e-4",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torchrun's predecessor passes the rank as an argument instead of an environment variable.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of ``tools/train.py`` and ``tools/pretrain.py``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue a run, from CHECKPOINT or from the last one in the work folder",
    )
    add_run_arguments(parser)
    return parser


def build_config(options: argparse.Namespace) -> Config:
    """Config of a run: the file, then the options of the command line."""
    os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    config = Config.fromfile(options.config)
    config.launcher = options.launcher
    if options.cfg_options is not None:
        config.merge_from_dict(options.cfg_options)
    if options.work_dir is not None:
        config.work_dir = options.work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(options.config).stem)
    return config


def build_runner(config: Config) -> Runner:
    """MMEngine runner, or the one that the config's ``runner_type`` names."""
    from dynamicvis.mm.distributed import prepare_processes

    prepare_processes(config)
    return RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)


def train(options: argparse.Namespace) -> Runner:
    """Train from the options of ``tools/train.py``."""
    config = build_config(options)
    if options.resume is not None:
        config.resume = True
        config.load_from = None if options.resume == "auto" else options.resume
    runner = build_runner(config)
    runner.train()
    return runner


def test(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate from the options of ``tools/test.py``; results also go to ``WORK_DIR/metrics.json``.

    Raises:
        ConfigError: flips are asked for, and the config does not say how.
        DataSourceError: the folder for predictions exists.
        PredictionError: the predictions are of a kind that cannot be written.
    """
    config = build_config(options)
    config.load_from = options.checkpoint
    runner = _with_flips(config) if options.tta else build_runner(config)
    with _predictions(runner, options):
        metrics = runner.test()
    path = Path(config.work_dir) / "metrics.json"
    path.write_text(json.dumps(metrics, indent=2, default=lambda value: value.tolist()) + "\n")
    print(f"metrics written to {path}")
    if options.out is not None:
        print(f"predictions and sheet.png written to {options.out}")
    return metrics


def _with_flips(config: Config) -> Runner:
    """Runner whose test merges several views of each image."""
    missing = [name for name in ("tta_model", "tta_pipeline") if name not in config]
    if missing:
        raise ConfigError(f"--tta needs {' and '.join(missing)}, which {config.filename} lacks; leave --tta away")
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    runner = build_runner(config)
    # The model is wrapped once its checkpoint is loaded, whose names would not fit the wrapper.
    runner.register_hook(PrepareTTAHook(tta_cfg=config.tta_model))
    return runner


def _predictions(runner: Runner, options: argparse.Namespace) -> AbstractContextManager[None]:
    if options.out is None:
        return nullcontext()
    from dynamicvis.mm.predictions import writing_predictions

    return writing_predictions(runner, options.out, options.overwrite)
