"""The models of the benchmark, by name.

``base``, and likewise every other variant, is the backbone; ``base-dense`` the same without selection: no router, all
tokens in raster order, no global tokens, which is the paper's model without token reduction by its parameter count;
``base-reference`` has the weights of ``base`` and runs its mixers as the reference implementation does. Beside them
stand ``resnet18``, ``resnet101`` (torchvision) and ``vit-b-16`` (timm) with random weights.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dynamicvis import create_backbone
from dynamicvis.backbone import VARIANTS, DynamicVis
from dynamicvis.backbone.block import SelectiveBlock
from dynamicvis.backbone.mixer import CONV_WIDTH, EXPAND, STATES, BidirectionalMamba

DENSE, REFERENCE = "-dense", "-reference"
BASELINES = ("resnet18", "resnet101", "vit-b-16")
Module = TypeVar("Module", bound=nn.Module)
_PERTURBED = ("A_log", "D", "bias", "norm.weight", "pos_embed")


class MissingPackageError(RuntimeError):
    """A baseline's package is not installed; the message says how to get it."""


def model_names() -> tuple[str, ...]:
    """Every name that `build_model` knows."""
    return tuple(variant + suffix for variant in VARIANTS for suffix in ("", DENSE, REFERENCE)) + BASELINES


def variant_of(name: str) -> str | None:
    """The variant that a model is made from; None for a baseline of other origin."""
    return None if name in BASELINES else name.removesuffix(DENSE).removesuffix(REFERENCE)


def build_model(name: str) -> nn.Module:
    """A model in evaluation mode, float32, on the CPU; the same name gives the same weights.

    Raises:
        MissingPackageError: the baseline's package is not installed.
    """
    variant = variant_of(name)
    if variant is not None:
        backbone = build_backbone(variant, dense=name.endswith(DENSE))
        return use_reference_mixers(backbone) if name.endswith(REFERENCE) else backbone
    torch.manual_seed(0)
    if name == "vit-b-16":
        return FusedViT().eval()
    return getattr(require("torchvision.models"), name)().eval()


def build_backbone(variant: str, dense: bool) -> DynamicVis:
    """A perturbed backbone in evaluation mode, with or without selection."""
    torch.manual_seed(0)
    settings: dict[str, Any] = dict(keep_ratios=(None,) * 4, global_tokens=False) if dense else {}
    return perturb(create_backbone(variant, **settings).eval())


def perturb(module: Module) -> Module:
    """Move biases, norms, rates and position embedding, in place, away from their initial constants.

    Otherwise a comparison would not notice, say, a skip weight that is left out.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(_PERTURBED):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def require(module: str) -> ModuleType:
    """Import a module of the extra `bench`.

    Raises:
        MissingPackageError: it is not installed.
    """
    package = module.partition(".")[0]
    # The benchmark measures what is installed: nothing may be fetched from a hub meanwhile.
    os.environ["USE_HUB_KERNELS"] = "NO"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'{package} is not installed: pip install "dynamicvis[bench]"') from error
    if package == "transformers":
        importlib.import_module("transformers.utils.logging").set_verbosity_error()
    return imported


def use_reference_mixers(backbone: DynamicVis) -> DynamicVis:
    """Replace norm and mixer of every block, in place, by the reference's way of running them, weights included.

    Raises:
        MissingPackageError: transformers is not installed.
    """
    for block in backbone.modules():
        if isinstance(block, SelectiveBlock):
            block.mixer = ReferenceMixer(block.norm, block.mixer)  # type: ignore[assignment]
            block.norm = nn.Identity()  # type: ignore[assignment]
    return backbone


class ReferenceMixer(nn.Module):
    """Norm and bidirectional mixer as the reference runs them: transformers' ``MambaMixer`` on a doubled batch.

    The forward and the flipped sequences are concatenated on the batch, normalised in float32, mixed, flipped back and
    averaged. In evaluation the scan is transformers' loop over the tokens, in training mambapy's parallel scan.

    Args:
        norm, mixer: the modules whose weights are taken.

    Raises:
        MissingPackageError: transformers is not installed.

    Source: arXiv 2503.16426, section 3.3, and its reference implementation.
    """

    def __init__(self, norm: nn.RMSNorm, mixer: BidirectionalMamba) -> None:
        super().__init__()
        mamba = require("transformers.models.mamba.modeling_mamba")
        dim = norm.normalized_shape[0]
        config = mamba.MambaConfig(
            hidden_size=dim,
            state_size=STATES,
            conv_kernel=CONV_WIDTH,
            expand=EXPAND,
            time_step_rank=mixer.rank,
            num_hidden_layers=1,
        )
        self.norm = mamba.MambaRMSNorm(dim, eps=1e-5)
        self.norm.load_state_dict(norm.state_dict())
        self.mixer = mamba.MambaMixer(config, layer_idx=0)
        self.mixer.load_state_dict(mixer.state_dict())

    def forward(self, tokens: torch.Tensor, workspace: object = None) -> torch.Tensor:
        """(batch, length, dim) -> (batch, length, dim), always in new memory."""
        if self.training:
            require("mambapy")
        self.mixer.use_mambapy = self.training
        both = self.mixer(self.norm(torch.cat([tokens, tokens.flip(1)])))
        forward, backward = both.chunk(2)
        return (forward + backward.flip(1)) / 2


class FusedViT(nn.Module):
    """timm's ViT-B/16 with fused attention only: no matrix of tokens by tokens can come into being.

    Any image size that is a multiple of 16; the position embedding is interpolated to the grid.

    Raises:
        MissingPackageError: timm is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        require("timm.layers").set_fused_attn(True)
        self.vit = require("timm").create_model(
            "vit_base_patch16_224", num_classes=0, global_pool="", dynamic_img_size=True
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, 1 + height / 16 * width / 16, 768)."""
        with fused_attention():
            return self.vit(images)


def fused_attention() -> Any:
    """Context in which `scaled_dot_product_attention` takes a fused kernel or raises."""
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION])
