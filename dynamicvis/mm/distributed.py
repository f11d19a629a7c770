"""Training in several processes: without a GPU, and with parameters sharded among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dynamicvis.backbone.block import SelectiveBlock
from dynamicvis.mm.checkpoints import inner_model
from dynamicvis.mm.runner import Runner
from dynamicvis.registry import MODEL_WRAPPERS, RUNNERS


def prepare_processes(config: Config) -> None:
    """Start the process group of a run on CPUs, which MMEngine does not: it selects a GPU first.

    Nothing happens where there is a GPU, or a single process.

    Raises:
        ValueError: a launcher other than ``pytorch`` on CPUs.
    """
    if config.launcher == "none" or torch.cuda.is_available():
        return
    if config.launcher != "pytorch":
        raise ValueError(f"without a GPU several processes need --launcher pytorch, not {config.launcher}")
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    if config.get("model_wrapper_cfg") is None:
        unused = config.get("find_unused_parameters", False)
        config.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=unused,
        )


@MODEL_WRAPPERS.register_module()
class FullySharded(nn.Module):
    """Parameters, gradients and optimizer state sharded among all processes (FSDP2), a unit a block of the backbone.

    With ``runner_type="dynamicvis.ShardedRunner"``, which saves and loads whole checkpoints. The model is initialised
    before it is sharded, and then is that of the first process everywhere.

    Args:
        module: the model, on its device.
    """

    def __init__(self, module: BaseModel) -> None:
        super().__init__()
        module.init_weights()
        for value in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(value.detach(), 0)
        device = next(module.parameters()).device
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        for block in [child for child in module.modules() if isinstance(child, SelectiveBlock)]:
            fully_shard(block, mesh=mesh)
        # Scalars cannot be sharded: they are whole everywhere, and their gradients averaged here.
        scalars = {parameter for parameter in module.parameters() if not parameter.ndim}
        for scalar in scalars:
            scalar.register_post_accumulate_grad_hook(_average_gradient)
        fully_shard(module, mesh=mesh, ignored_params=scalars)
        self.module = module

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """As the model's."""
        return self.module(*inputs, **options)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Forward, backward and update; see MMEngine's ``BaseModel``."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> list[Any]:
        """Predictions of a batch."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> list[Any]:
        """Predictions of a batch."""
        return self.module.test_step(data)


@RUNNERS.register_module()
class ShardedRunner(Runner):
    """The runner whose checkpoints are whole where the model is sharded, as those of any other run."""

    def _init_model_weights(self) -> None:
        # A sharded model was initialised before it was sharded.
        if not isinstance(self.model, FullySharded):
            super()._init_model_weights()

    def save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        """Gather what is sharded in all processes, and write it in the first one."""
        model = inner_model(self.model)
        whole_model = _whole(model.state_dict())
        whole_optimizer = _whole(self.optim_wrapper.state_dict())
        if is_main_process():
            with _answering(model, whole_model), _answering(self.optim_wrapper, whole_optimizer):
                super().save_checkpoint(*arguments, **options)

    def call_hook(self, fn_name: str, **arguments: Any) -> None:
        """Call the hooks; a checkpoint that was read is sharded as the model is before it goes in."""
        super().call_hook(fn_name, **arguments)
        if fn_name == "after_load_checkpoint":
            self._shard(arguments["checkpoint"])

    def _shard(self, checkpoint: dict[str, Any]) -> None:
        model = inner_model(self.model)
        own, state = model.state_dict(), checkpoint.get("state_dict", checkpoint)
        for name, value in own.items():
            if name in state:
                state[name] = _like(state[name], value)
        if "optimizer" in checkpoint and isinstance(self.optim_wrapper, OptimWrapper):
            groups = self.optim_wrapper.optimizer.param_groups
            parameters = [parameter for group in groups for parameter in group["params"]]
            for index, entry in checkpoint["optimizer"]["state"].items():
                for name, value in entry.items():
                    if isinstance(value, Tensor) and value.ndim:
                        entry[name] = _like(value, parameters[index])


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None
    distributed.all_reduce(parameter.grad)
    parameter.grad /= distributed.get_world_size()


def _whole(content: Any) -> Any:
    """The same with sharded tensors gathered; on the CPU, so that a large model fits."""
    if isinstance(content, DTensor):
        return content.full_tensor().cpu()
    if isinstance(content, dict):
        return type(content)((key, _whole(value)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return type(content)(_whole(value) for value in content)
    return content


def _like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, sharded as the target is."""
    if not isinstance(target, DTensor) or value.shape != target.shape:
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


@contextmanager
def _answering(owner: Any, state: Any) -> Iterator[None]:
    """Let an object give this as its state."""
    owner.state_dict = lambda *arguments, **options: state
    try:
        yield
    finally:
        del owner.state_dict
