"""Optimisers, and the update step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config import OptimizerConfig
from segkit.precision import choose_precision
from segkit.training.adan import Adan
from segkit.training.muon import Muon

_Parameters = list[nn.Parameter]


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimiser of all parameters.

    Args:
        network: On the device it stays on.
        config: Settled: with learning rate and weight decay in numbers.
    """
    parameters = list(network.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda")
    return _BUILDERS[config.name](parameters, config, fused=fused)


def _sgd(parameters: _Parameters, config: OptimizerConfig, *, fused: bool) -> torch.optim.Optimizer:
    """With Nesterov momentum, as nnU-Net has it."""
    return torch.optim.SGD(
        parameters,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=fused,
        **_common(config),
    )


def _adam(
    parameters: _Parameters, config: OptimizerConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """Kingma & Ba 2015, or with decoupled weight decay Loshchilov & Hutter 2019."""
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        parameters, betas=config.betas, amsgrad=config.amsgrad, fused=fused, **_common(config)
    )


def _adan(
    parameters: _Parameters, config: OptimizerConfig, *, fused: bool
) -> torch.optim.Optimizer:
    return Adan(parameters, **_common(config))


def _muon(
    parameters: _Parameters, config: OptimizerConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """Its products need no more than half precision, where that is the faster one."""
    reduced = choose_precision("auto", parameters[0].device).dtype != torch.float32
    dtype = torch.bfloat16 if reduced else torch.float32
    return Muon(parameters, dtype=dtype, **_common(config))


def _common(config: OptimizerConfig) -> dict[str, Any]:
    return {"lr": config.learning_rate, "weight_decay": config.weight_decay}


_BUILDERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "adan": _adan,
    "muon": _muon,
}


class Stepper:
    """Backward pass and update: loss scaling for fp16, gradient clipping, optimiser step.

    Args:
        network: What is trained.
        optimizer: Of its parameters.
        clip: Largest L2 norm of the gradient; None for no limit.
        scaled: Scale the loss, so that gradients do not vanish in fp16.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: float | None,
        *,
        scaled: bool,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.clip = math.inf if clip is None else clip
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` to what the next update goes by."""
        self.scaler.scale(loss).backward()

    def update(self) -> bool:
        """Update the weights by the gradient so far, and forget it.

        Returns:
            False where it was no number, and so nothing was changed. With scaled losses that is
            the scaler's to find out, and no trouble: it then takes another scale.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        moved = self.scaler.is_enabled() or bool(norm.isfinite())
        if moved:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return moved

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])
