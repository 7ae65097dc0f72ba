"""Optimiser, learning-rate schedule and the update step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkit.config import OptimizerConfig


def poly_learning_rate(progress: float, config: OptimizerConfig) -> float:
    """Learning rate at a progress of 0..1: lr (1 - progress)^power."""
    return config.learning_rate * (1 - min(max(progress, 0.0), 1.0)) ** config.poly_power


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum over all parameters, as nnU-Net has it."""
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
        fused=next(network.parameters()).device.type in ("cpu", "cuda"),
    )


class Stepper:
    """Backward pass and update: loss scaling for fp16, gradient clipping, optimiser step."""

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, clip: float, *, scaled: bool
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.clip = clip
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    def step(self, loss: Tensor) -> None:
        """Update the weights by one step down ``loss``."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
