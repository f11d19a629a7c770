"""Training and testing from config files: what ``tools/train.py`` and ``tools/test.py`` do."""

from __future__ import annotations

import argparse
import copy
import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import mmengine.hooks
import mmengine.runner
from mmengine.config import Config, DictAction
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.hooks.test_time_aug_hook import PrepareTTAHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from dynamicvis.checkpoint import CheckpointError, printable
from dynamicvis.files import replacing
from dynamicvis.mm.checkpoints import CheckpointHook, alike, check_moments, inner_model, loading_into
from dynamicvis.mm.errors import ConfigError
from dynamicvis.mm.hooks import FiniteLossHook
from dynamicvis.mm.loading import IGNORE_INDEX
from dynamicvis.mm.samples import check_classes, check_samples


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


class Runner(mmengine.runner.Runner):
    """MMEngine's runner of any config, with checkpoints and losses that are looked after.

    `CheckpointHook` takes the place of MMEngine's, with the same settings, and `FiniteLossHook` is there without being
    named. What is loaded must fit: for a test every parameter of the model must come from the checkpoint.
    """

    _everything = False

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Register the default hooks, and the one for losses where it is not among them."""
        super().register_default_hooks(hooks)
        if not any(isinstance(hook, FiniteLossHook) for hook in self.hooks):
            self.register_hook(FiniteLossHook())

    def register_hook(self, hook: Hook | dict[str, Any], priority: Any = None) -> None:
        """Register a hook; where a config names MMEngine's for checkpoints, it is this package's."""
        if isinstance(hook, dict) and _is_stock(hook.get("type")):
            hook = {**hook, "type": CheckpointHook}
        super().register_hook(hook, priority)

    def build_dataloader(self, *arguments: Any, **options: Any) -> DataLoader:
        """A loader whose samples are checked, see `check_samples`.

        Raises:
            ConfigError: its data set has more classes than the model.
        """
        loader = super().build_dataloader(*arguments, **options)
        model = inner_model(self.model)
        check_classes(model, loader.dataset)
        ignored = {getattr(module, "ignore_index", None) for module in model.modules()} | {IGNORE_INDEX}
        check_samples(loader.dataset, {value for value in ignored if isinstance(value, int)})
        return loader

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """The loop of training, whose epochs have iterations.

        Raises:
            ConfigError: they have none.
        """
        built = super().build_train_loop(loop)
        loader = built.dataloader
        if not len(loader) and not isinstance(loader.sampler, InfiniteSampler):
            size = loader.batch_size
            raise ConfigError(
                f"the training set has {len(loader.dataset)} images, and an epoch no batch of {size}; check the split, "
                "or lower train_dataloader.batch_size"
            )
        return built

    def load_checkpoint(self, filename: str, *arguments: Any, **options: Any) -> Any:
        """Load weights that fit the model.

        Raises:
            CheckpointError: they are missing, damaged, of another model, NaN or infinite, or hold code.
        """
        everything = self._everything or self._resume
        with loading_into(inner_model(self.model), f"checkpoint {filename}", everything=everything):
            return super().load_checkpoint(filename, *arguments, **options)

    def resume(self, filename: str, *arguments: Any, **options: Any) -> None:
        """Go on with the run that a checkpoint holds.

        Raises:
            CheckpointError: see `load_checkpoint`; or its optimizer or schedule are of another config.
        """
        try:
            before = self._settings()
            super().resume(filename, *arguments, **options)
            if not alike(before, self._settings()):
                raise TypeError("its optimizer or schedule has settings of another kind")
            if isinstance(self.optim_wrapper, OptimWrapper):
                check_moments(self.optim_wrapper.optimizer)
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"the run of checkpoint {filename} cannot go on ({type(error).__name__}: {printable(str(error))}); "
                "resume with the config that it was trained with, or take its weights alone by load_from"
            ) from error

    def _settings(self) -> list[Any]:
        """What a checkpoint sets of optimizer and schedule, besides weights."""
        settings: list[Any] = []
        if isinstance(self.optim_wrapper, OptimWrapper):
            for group in self.optim_wrapper.optimizer.param_groups:
                settings.append({key: value for key, value in group.items() if key != "params"})
        if isinstance(self.param_schedulers, list):
            settings += [scheduler.state_dict() for scheduler in self.param_schedulers]
        return copy.deepcopy(settings)

    def val(self) -> dict[str, float]:
        """Validate a whole model."""
        self._everything = True
        return super().val()

    def test(self) -> dict[str, float]:
        """Test a whole model."""
        self._everything = True
        return super().test()


def _is_stock(kind: Any) -> bool:
    stock = mmengine.hooks.CheckpointHook
    return kind is stock or (isinstance(kind, str) and kind.endswith("CheckpointHook") and HOOKS.get(kind) is stock)


def build_runner(config: Config) -> mmengine.runner.Runner:
    """The runner of a config, or the one that its ``runner_type`` names."""
    from dynamicvis.mm.distributed import prepare_processes

    prepare_processes(config)
    stock = config.get("runner_type", "Runner") in ("Runner", "mmengine.Runner")
    return Runner.from_cfg(config) if stock else RUNNERS.build(config)


def train(options: argparse.Namespace) -> mmengine.runner.Runner:
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
    config.load_from, config.resume = options.checkpoint, False
    runner = _with_flips(config) if options.tta else build_runner(config)
    with _predictions(runner, options):
        metrics = runner.test()
    path = Path(config.work_dir) / "metrics.json"
    with replacing(path) as draft:
        draft.write_text(json.dumps(metrics, indent=2, default=lambda value: value.tolist()) + "\n")
    print(f"metrics written to {path}")
    if options.out is not None:
        print(f"predictions and sheet.png written to {options.out}")
    return metrics


def _with_flips(config: Config) -> mmengine.runner.Runner:
    """Runner whose test merges several views of each image."""
    missing = [name for name in ("tta_model", "tta_pipeline") if name not in config]
    if missing:
        raise ConfigError(f"--tta needs {' and '.join(missing)}, which {config.filename} lacks; leave --tta away")
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    runner = build_runner(config)
    # The model is wrapped once its checkpoint is loaded, whose names would not fit the wrapper.
    runner.register_hook(PrepareTTAHook(tta_cfg=config.tta_model))
    return runner


def _predictions(runner: mmengine.runner.Runner, options: argparse.Namespace) -> AbstractContextManager[None]:
    if options.out is None:
        return nullcontext()
    from dynamicvis.mm.predictions import writing_predictions

    return writing_predictions(runner, options.out, options.overwrite)
