"""Adan, for those who know it from nnU-Net's trainers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

KEPT = (0.98, 0.92, 0.99)
"""What the averages of gradient, difference of gradients and squares keep at every step."""


class Adan(torch.optim.Optimizer):
    """Adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677, algorithm 1).

    Nesterov's look ahead is estimated from the difference of successive gradients, and the step is
    divided by the root of the mean square of what results. Weight decay is decoupled and implicit.

    Args:
        parameters: What is trained; those without a gradient stay as they are.
        lr: Learning rate.
        weight_decay: Of the weights, times the learning rate.
        eps: Added to the divisor.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moved:
                self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["previous"] = gradient.clone()
            for name in ("gradient", "difference", "square"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        mean, change, square = KEPT
        difference = gradient - state["previous"]
        state["previous"].copy_(gradient)
        ahead = torch.add(gradient, difference, alpha=change)
        state["gradient"].lerp_(gradient, 1 - mean)
        state["difference"].lerp_(difference, 1 - change)
        state["square"].lerp_(ahead.square_(), 1 - square)
        # Averages that began at zero are too small at first.
        grown = [1 - kept ** state["step"] for kept in KEPT]
        direction = state["gradient"] / grown[0]
        direction.add_(state["difference"], alpha=change / grown[1])
        direction.div_((state["square"] / grown[2]).sqrt_().add_(group["eps"]))
        parameter.add_(direction, alpha=-group["lr"])
        parameter.div_(1 + group["lr"] * group["weight_decay"])
