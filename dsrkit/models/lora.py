"""LoRA: fine-tune a network through low-rank updates of its linear layers, its own weights frozen.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv 2106.09685. Each weight W, seen as a
matrix, becomes W + α/r·B·A with A: r × in and B: out × r. B starts at 0, so that training starts at the network given.

Built on ``torch.nn.utils.parametrize``, so that layers stay what they are. ``peft`` would bring transformers and tokenizers.
Not to be confused with ``edgeface.LoRaLin``, the low-rank layers that some EdgeFace variants are *made* of: those are linear
layers like others, and get updates too.

    trained = add_lora(edgeface, rank=8)         # give these to the optimiser
    weights = merged_state_dict(edgeface)        # for a checkpoint: as if EdgeFace itself had been trained
    remove_lora(edgeface)                        # the same, in place
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankUpdate(nn.Module):
    """The parametrisation W ↦ W + scale·up·down of one weight [out, in] or [out, in, 1, 1]."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as the authors' code does, and nn.Linear

    def forward(self, weight: Float[Tensor, "out in *one"]) -> Float[Tensor, "out in *one"]:
        with torch.autocast(weight.device.type, enabled=False):  # the sum in fp32: half precision would swallow a small update
            return weight + self.scale * (self.up @ self.down).view_as(weight)


def add_lora(module: nn.Module, rank: int, alpha: float | None = None) -> list[nn.Parameter]:
    """Put a low-rank update on every linear layer and 1×1 convolution, and freeze everything else, in place.

    Afterwards ``state_dict`` has other keys than before (``….parametrizations.weight.…``): an exact resume calls ``add_lora``
    first and then loads. ``copy.deepcopy`` works, pickling the module itself does not (torch refuses).

    Args:
        rank: r, 1 or more. A layer narrower than that gets its full rank, since one r has to serve wide and narrow layers.
        alpha: the update is scaled by alpha/rank, for narrow layers too; left out, alpha is the rank.

    Returns the parameters to train, two a layer. ``module.requires_grad_(True)`` would thaw the others: do not call it.

    Raises ValueError for a rank below 1, an alpha of 0 or less, a module without such layers, or one that has updates already.
    """
    if rank < 1 or (alpha is not None and alpha <= 0):
        raise ValueError(f"LoRA: expected rank ≥ 1 and alpha > 0, got rank {rank} and alpha {alpha}. Without LoRA, train all.")
    if _updated_layers(module):
        raise ValueError("LoRA: expected a module without low-rank updates, got one that has them. Call remove_lora first.")
    layers: list[Any] = [layer for layer in module.modules() if _takes_update(layer)]
    if not layers:
        raise ValueError(f"LoRA: expected linear layers or 1×1 convolutions, got none in {type(module).__name__}.")
    module.requires_grad_(False)
    trained = []
    for layer in layers:
        update = LowRankUpdate(layer.weight, rank, 1.0 if alpha is None else alpha / rank)
        parametrize.register_parametrization(layer, "weight", update)
        trained += [update.down, update.up]
    return trained


def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """``state_dict`` as the module without LoRA would have it, updates added to its weights; the module is not changed.

    A module without updates gives its plain ``state_dict``, so that saving need not ask.
    """
    merged = {}
    for key, value in module.state_dict().items():
        prefix, found, name = key.partition("parametrizations.")
        if not found:
            merged[key] = value
        elif name == "weight.original":
            layer: Any = module.get_submodule(prefix.rstrip("."))
            merged[f"{prefix}weight"] = layer.weight.detach()
    return merged


def remove_lora(module: nn.Module) -> None:
    """Add the updates to the weights for good, in place; a module without updates stays as it is.

    Layers, keys and outputs are then those of an ordinary module. Everything stays frozen until ``requires_grad_(True)``.
    """
    for layer in _updated_layers(module):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _takes_update(layer: nn.Module) -> bool:
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear) or pointwise


def _updated_layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if parametrize.is_parametrized(layer, "weight")]
