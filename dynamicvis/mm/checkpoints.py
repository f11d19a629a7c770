"""Checkpoints of a run: written whole or not at all, and the newest whole one found again."""

from __future__ import annotations

import hashlib
import math
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.distributed.tensor import DTensor

from dynamicvis.checkpoint import CheckpointError, printable, read_checkpoint, read_tensors
from dynamicvis.files import read_text, remove_drafts, replacing
from dynamicvis.mm.errors import ConfigError, DivergedError
from dynamicvis.registry import HOOKS

LAST = "last_checkpoint"  # file in the work folder that names the last checkpoint
_OUTDATED = "outdated_best"  # what a run's state calls the checkpoints that were the best before
_MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}  # of torch's Adam, AdamW and SGD
_STATES = ("state_dict", "ema_state_dict")


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """MMEngine's hook, which never leaves a run without a whole checkpoint, ``type="dynamicvis.CheckpointHook"``.

    A checkpoint is written beside its place, brought to the disk and renamed; ``last_checkpoint`` follows, and only
    then those go that are one too many. Weights that are NaN or infinite are not saved. A run that resumes takes the
    newest checkpoint that is whole, and validates it where the best one is kept and a validation was due. Nothing is
    removed but checkpoints of this run in its own folder, whatever the checkpoint that it resumes from says.

    Arguments are those of MMEngine's hook. Where ``out_dir`` is no local folder, saving is as there.

    Raises:
        CheckpointError: a checkpoint cannot be written, or there are checkpoints to resume from and none is whole.
        DivergedError: weights that are to be saved are NaN or infinite.
    """

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from, and say which."""
        if not runner._resume or "://" in str(runner._load_from or self.out_dir or ""):
            return
        # The first process chooses for all: it is the one that writes.
        choice: list[Any] = [None, None]
        if is_main_process():
            try:
                choice[0] = self._chosen(runner)
            except CheckpointError as error:
                choice[1] = str(error)
        broadcast_object_list(choice)
        if choice[1] is not None:
            raise CheckpointError(choice[1])
        runner._load_from = choice[0]
        runner._resume = choice[0] is not None

    def _chosen(self, runner: Runner) -> str | None:
        parameters = _parameter_names(inner_model(runner.model))
        if runner._load_from is not None:
            path = Path(runner._load_from).expanduser()
            problem = resume_problem(path, parameters)
            if problem is not None:
                raise CheckpointError(f"{problem}; --resume alone takes the newest whole one of the work folder")
            return str(path)
        work = Path(runner.work_dir)
        folder = work if self.out_dir in (None, runner.work_dir) else Path(str(self.out_dir)) / work.name
        found = newest_first(work, folder, self.filename_tmpl)
        problems = []
        for path in found:
            problem = resume_problem(path, parameters)
            if problem is None:
                runner.logger.info(f"resuming from {path}, the newest whole checkpoint")
                return str(path)
            runner.logger.warning(f"not resuming from {path.name}: {problem}")
            problems.append(problem)
        if problems:
            raise CheckpointError(
                f"none of the {len(problems)} checkpoints in {folder} is whole ({problems[0]}); give one that is by "
                "--resume CHECKPOINT, or start anew without --resume"
            )
        runner.logger.info(f"no checkpoint in {folder} to resume from; starting anew")
        return None

    def before_train(self, runner: Runner) -> None:
        info = runner.message_hub.runtime_info
        # MMEngine would remove what these name, and a checkpoint of another run names files of that run.
        kept = info.pop("keep_ckpt_ids", ())
        super().before_train(runner)
        if not self._local:
            if self.max_keep_ckpts > 0:
                self.keep_ckpt_ids.extend(kept)
            return
        self.out_dir: str = str(Path(self.out_dir).absolute())
        here = runner._resume and runner._load_from and _same(Path(runner._load_from).parent, Path(self.out_dir))
        if here and _pattern(self.filename_tmpl).fullmatch(Path(runner._load_from).name):
            # A run killed just before it said so: what it says now may be removed in a moment.
            self._name_last(runner, Path(self.out_dir) / Path(runner._load_from).name)
        own = [step for step in kept if type(step) is int] if here and isinstance(kept, list) else []
        self._keep(runner, own)
        if here and self.save_best:
            self._remove_outdated(runner)
        if is_main_process():
            for folder in {Path(self.out_dir), Path(runner.work_dir)}:
                remove_drafts(folder, ("", ".pth"))
        if here and self.save_best and self._was_to_validate(runner):
            # The run may have been killed between its last checkpoint and what the validation says about the best.
            runner.logger.info("validating the checkpoint that is resumed from")
            runner.val_loop.run()

    def _was_to_validate(self, runner: Runner) -> bool:
        """Whether a validation follows the point at which a run resumes."""
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            done, last = runner.epoch, runner.max_epochs
        else:
            done, last = runner.iter, runner.max_iters
        due = done % loop.val_interval == 0 or done == last
        return runner.val_loop is not None and done >= loop.val_begin and due

    @property
    def _local(self) -> bool:
        return self.file_client_args is None and isinstance(self.file_backend, LocalBackend)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are NaN or infinite."""
        parameters = _parameter_names(inner_model(runner.model))
        name = next((name for key in _STATES if (name := unsound(checkpoint.get(key, {}), parameters))), None)
        if name is not None:
            raise DivergedError(
                f"the weights became NaN or infinite by iteration {runner.iter + 1} ({name}), and are not saved; "
                f"{whole_so_far(runner)}; lower optim_wrapper.optimizer.lr, or clip gradients by "
                "optim_wrapper.clip_grad, and go on with --resume"
            )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        if not self._local:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        kept: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
            # With those that go when this one is whole: a run killed before that removes them when it goes on.
            runner.message_hub.update_info("keep_ckpt_ids", list(kept))
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        runner.message_hub.update_info("last_ckpt", str(path))
        options = {"save_optimizer": self.save_optimizer, "save_param_scheduler": self.save_param_scheduler}
        self._write(runner, path, meta=meta, by_epoch=self.by_epoch, **options, **self.args)
        self._name_last(runner, path)
        self._keep(runner, kept)

    def _name_last(self, runner: Runner, path: Path) -> None:
        self.last_ckpt = str(path)
        last = Path(runner.work_dir) / LAST
        if is_main_process():
            with _explained(last, runner), replacing(last) as draft:
                draft.write_text(str(path))

    def _keep(self, runner: Runner, steps: Sequence[int]) -> None:
        """Of the checkpoints of these steps keep as many of the last ones as are asked for, and remove the others."""
        if self.max_keep_ckpts <= 0:
            return
        if is_main_process():
            for step in steps[: -self.max_keep_ckpts]:
                self._remove(self.filename_tmpl.format(step))
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps[-self.max_keep_ckpts :])
        runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Save the model where it is the best so far; the best one before goes when this one and the last are whole.

        Raises:
            ConfigError: ``save_best`` names no metric.
        """
        if not self.save_best or not self._local:
            super()._save_best_checkpoint(runner, metrics)
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        unknown = [key for key in self.key_indicators if key not in metrics]
        if unknown:
            raise ConfigError(
                f"save_best of the checkpoint hook is {unknown[0]!r}, and validation gives {', '.join(metrics)}; name "
                "one of these"
            )
        step = runner.epoch if self.by_epoch else runner.iter
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        info = runner.message_hub.runtime_info
        outdated: list[str] = []
        better = False
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            suffix = f"_{key}" if len(self.key_indicators) > 1 else ""
            best, score = info.get(f"best_score{suffix}", self.init_value_map[rule]), metrics[key]
            if score is None or not self.is_better_than[key](score, best):
                continue
            path = Path(self.out_dir) / f"best_{key}_{self.filename_tmpl.format(step)}".replace("/", "_")
            if (before := info.get(f"best_ckpt{suffix}")) is not None and before != str(path):
                outdated.append(str(before))
            runner.message_hub.update_info(f"best_score{suffix}", score)
            runner.message_hub.update_info(f"best_ckpt{suffix}", str(path))
            if suffix:
                self.best_ckpt_path_dict[key] = str(path)
            else:
                self.best_ckpt_path = str(path)
            self._write(runner, path, meta=dict(meta), by_epoch=False, save_optimizer=False, save_param_scheduler=False)
            runner.logger.info(f"the best checkpoint, with {score:0.4f} {key}, is {path.name}")
            better = True
        # As with the numbers of those to keep: a run killed before these are removed removes them when it goes on.
        runner.message_hub.update_info(_OUTDATED, outdated)
        if better and self.last_ckpt is not None:
            # Once more, so that a run that goes on from it knows the best one.
            self._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated(runner)

    def _remove_outdated(self, runner: Runner) -> None:
        """Remove the best checkpoints that are so no more, of those in the run's own folder."""
        info = runner.message_hub.runtime_info
        names = info.get(_OUTDATED)
        for name in names if isinstance(names, list) and is_main_process() else ():
            path = Path(str(name))
            own = path.name.startswith("best_") and _same(path.parent, Path(self.out_dir))
            if own and not any(value == str(path) for key, value in info.items() if key.startswith("best_ckpt")):
                self._remove(path.name)
        runner.message_hub.update_info(_OUTDATED, [])

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Write the parts of a checkpoint that ``published_keys`` names, with a checksum in the file's name."""
        content = read_checkpoint(ckpt_path)
        published = {key: value for key, value in content.items() if key in self.published_keys}
        path = Path(ckpt_path)
        path = path.with_name(f"{path.stem}-{hashlib.sha256(pickle.dumps(published)).hexdigest()[:8]}.pth")
        with _explained(path, runner), replacing(path) as draft:
            torch.save(published, draft)
        runner.logger.info(f"{ckpt_path} is published as {path}")

    def _write(self, runner: Runner, path: Path, **options: Any) -> None:
        """Save the run's state; ``path`` is then whole, and as it was where that fails."""
        options["backend_args"] = self.backend_args
        if not is_main_process():
            # A sharded state is gathered from all processes, and written by the main one.
            runner.save_checkpoint(str(path.parent), path.name, **options)
            return
        with _explained(path, runner):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as draft:
                runner.save_checkpoint(str(draft.parent), draft.name, **options)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint of the run; a folder or a link of that name is none."""
        path = Path(self.out_dir) / name
        if path.is_file() and not path.is_symlink():
            path.unlink()


def newest_first(work: Path, folder: Path, template: str) -> list[Path]:
    """Checkpoints to resume from, the most advanced first.

    That is the one that ``last_checkpoint`` names, unless one of a higher number was written after it (the run was
    killed before it could say so); then the others by their numbers, and last those of higher numbers that are older,
    which are of an earlier run in the same folder.

    Args:
        work: work folder, with ``last_checkpoint``.
        folder: of the checkpoints.
        template: name of a checkpoint with ``{}`` for its number.
    """
    pattern = _pattern(template)
    numbers = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if (match := pattern.fullmatch(path.name)) is not None:
            numbers[path] = int(match[1])
    last = _last(work, folder)
    if last is None:
        return sorted(numbers, key=numbers.__getitem__, reverse=True)
    number = numbers.get(last, math.inf)
    written = last.stat().st_mtime_ns

    def rank(path: Path) -> tuple[int, float]:
        if path == last or numbers[path] < number:
            return 1, numbers.get(path, number)
        return (2 if path.stat().st_mtime_ns >= written else 0), numbers[path]

    return sorted({*numbers, last}, key=rank, reverse=True)


def _pattern(template: str) -> re.Pattern[str]:
    """Of the names that a template of MMEngine gives, with their number."""
    return re.compile(r"(\d+)".join(map(re.escape, re.split(r"\{[^}]*\}", template, maxsplit=1))))


def _last(work: Path, folder: Path) -> Path | None:
    """The file that ``last_checkpoint`` names, in ``folder`` first, which may have moved; None where there is none."""
    try:
        named = Path(read_text(work / LAST).strip())
        return next((path for path in (folder / named.name, named) if path.is_file()), None)
    except (OSError, ValueError):  # absent, damaged, or no name at all
        return None


def resume_problem(path: Path, parameters: Collection[str]) -> str | None:
    """Why a run cannot resume from a file, in a sentence that names it, or None; nothing of the file is executed.

    Args:
        path: the file.
        parameters: names of the model's parameters.
    """
    try:
        content = read_whole_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    kinds = {"state_dict": Mapping, "meta": dict, "message_hub": dict}
    lacking = next((key for key, kind in kinds.items() if not isinstance(content.get(key), kind)), None)
    if lacking is not None:
        return f"checkpoint {path} is no state of a run: it has no {lacking}; use it by load_from, not by --resume"
    counts = [content["meta"].get(name) for name in ("epoch", "iter")]
    if not all(type(count) is int and count >= 0 for count in counts):
        return f"checkpoint {path} is no state of a run: its meta has no numbers of epochs and iterations"
    keys = content["message_hub"].get("resumed_keys")
    if not isinstance(keys, dict) or not all(isinstance(value, bool) for value in keys.values()):
        return f"checkpoint {path} is no state of a run: its message_hub has no resumed_keys"
    for key in _STATES:
        if (name := unsound(content.get(key, {}), parameters)) is not None:
            return f"checkpoint {path} has NaN or infinity in {name}; give one from before the run diverged"
    return None


def read_whole_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Content of a checkpoint, read without running anything from it.

    Weights that lie on top come as ``state_dict``. What MMEngine would run as Python, ``config`` in ``meta``, is left
    out.

    Raises:
        CheckpointError: the file is missing, a folder, damaged, of another kind, or holds objects of unknown kinds.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder; give a file in it, such as epoch_12.pth")
    if path.suffix == ".safetensors":
        return {"state_dict": read_tensors(path)}
    content = read_checkpoint(path, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path} holds no weights but a {type(content).__name__}")
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"state_dict": content}
    if isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)
    return content


def unsound(tensors: Any, parameters: Collection[str]) -> str | None:
    """Name of a parameter with NaN or infinity, or of another tensor with NaN: masks are infinite for good reason."""
    for key, value in tensors.items() if isinstance(tensors, Mapping) else ():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        value = value.to_local() if isinstance(value, DTensor) else value
        name = str(key).removeprefix("module.")
        if bool(torch.isnan(value).any() if name not in parameters else (~torch.isfinite(value)).any()):
            return name
    return None


@contextmanager
def loading_into(module: nn.Module, source: str, *, everything: bool = False) -> Iterator[None]:
    """Check what the block loads into a module: MMEngine logs what does not fit, and goes on with what was there.

    Args:
        module: of which the block loads the weights.
        source: of the weights, for a message.
        everything: refuse a source that leaves a parameter of the module as it was, not only one that leaves all.

    Raises:
        CheckpointError: the source has nothing for the module, or NaN or infinity, or not everything.
    """
    before = {name: parameter._version for name, parameter in module.named_parameters()}
    try:
        yield
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, (CheckpointError, DivergedError)):
            raise
        raise CheckpointError(
            f"{source} cannot be loaded into {type(module).__name__} ({printable(str(error))})"
        ) from error
    parameters = dict(module.named_parameters())
    untouched = [name for name, version in before.items() if parameters[name]._version == version]
    if untouched and (everything or len(untouched) == len(before)):
        raise CheckpointError(
            f"{source} is of another model: {type(module).__name__} takes {len(before) - len(untouched)} of its "
            f"{len(before)} parameters from it, and not {untouched[0]}; give a checkpoint of this config, or the "
            "config of this checkpoint"
        )
    if (name := unsound(dict([*parameters.items(), *module.named_buffers()]), parameters)) is not None:
        raise CheckpointError(f"{source} has NaN or infinity in {name}; give one from before the run diverged")


def alike(before: Any, after: Any) -> bool:
    """Whether a setting from a file is of the kind of the one that it replaces: a number, as many numbers, ..."""
    if isinstance(before, bool) or isinstance(after, bool):
        return before is None or isinstance(before, bool) is isinstance(after, bool)
    if isinstance(before, int | float):
        return isinstance(after, int | float) and not math.isnan(after)
    if isinstance(before, str):
        return isinstance(after, str)
    if isinstance(before, list | tuple):
        same = isinstance(after, list | tuple) and len(before) == len(after)
        return same and all(alike(*pair) for pair in zip(before, after, strict=True))
    if isinstance(before, dict):
        return isinstance(after, dict) and all(
            key in after and alike(value, after[key]) for key, value in before.items()
        )
    return True


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Compare what an optimizer keeps of the gradients with its parameters: as much of each, in its shape.

    Raises:
        TypeError: a part is missing, no tensor, or of another shape.
    """
    names = {name for state in optimizer.state.values() for name in state} & {*_MOMENTS, "step"}
    for parameter, state in optimizer.state.items():
        for name in names:
            value = state.get(name, "")
            shape = parameter.shape if name in _MOMENTS else torch.Size(())
            fits = value.shape == shape if isinstance(value, torch.Tensor) else name == "step" and alike(0, value)
            if not fits and value is not None:
                raise TypeError(f"{name} of its optimizer does not fit its parameter")


def whole_so_far(runner: Runner) -> str:
    """For a message: which checkpoint the run has."""
    last = _last(Path(runner.work_dir), Path(runner.work_dir))
    return f"the last whole checkpoint is {last}" if last is not None else "there is no checkpoint yet"


@contextmanager
def _explained(path: Path, runner: Runner) -> Iterator[None]:
    """Say of a file that cannot be written what is left."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror or error}); {whole_so_far(runner)}; make room, or choose "
            "another --work-dir, and go on with --resume"
        ) from error


def inner_model(model: nn.Module) -> nn.Module:
    """The model itself where it is wrapped for several processes."""
    return cast("nn.Module", model.module) if is_model_wrapper(model) else model


def _parameter_names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()
