"""A moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 10
"""The average forgets its beginning faster while it has seen few steps: it keeps at most
n / (n + WARM_UP) at step n, as TensorFlow's ExponentialMovingAverage does."""


class WeightAverage:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992).

    Running statistics of batch norm are averaged like weights, as timm does: each of them is an
    average over steps already, and what the averaged weights would measure lies between those of
    the weights that were averaged. Counters are copied.

    Args:
        network: Where the average starts; it is copied.
        decay: What the average keeps at every step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the weights of ``network``; the first time, onto them."""
        keep = min(self.decay, self.updates / (self.updates + WARM_UP))
        averaged, current = _tensors(self.network), _tensors(network)
        floating = [i for i, tensor in enumerate(averaged) if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [averaged[i] for i in floating], [current[i] for i in floating], 1 - keep
        )
        for i in {*range(len(averaged))} - {*floating}:
            averaged[i].copy_(current[i])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the averaged network itself."""
        return {"updates": self.updates}

    def load_state_dict(self, content: dict[str, Any], network: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(network)
        self.updates = content["updates"]


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
