"""The training step compiled, where that works and pays."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from segkit.config import Compiling
from segkit.runtime import log
from segkit.training.parts import TrainingParts

SECONDS_WORTH_IT = 1800.0
"""A run shorter than this would spend much of its time compiling: half a minute to minutes."""
STEPS_WORTH_IT = 2000


def wants_compiling(
    mode: Compiling, device: torch.device, steps: int, seconds: float | None
) -> bool:
    """Settle ``auto``: on GPUs under Linux, in runs that are long enough.

    Args:
        mode: Of the recipe.
        device: Where the network is trained.
        steps: Of the whole run, where no time budget rules.
        seconds: Its time budget; None without one.
    """
    if mode != "auto":
        return mode == "on"
    long = steps >= STEPS_WORTH_IT if seconds is None else seconds >= SECONDS_WORTH_IT
    return device.type == "cuda" and sys.platform == "linux" and long


def with_compiled(parts: TrainingParts, input_shape: Sequence[int]) -> TrainingParts:
    """Return the parts with a compiled network for training steps, tried forward and backward.

    It shares the weights with ``network``, whose names stay as they are. Where compiling fails,
    for want of a compiler for example, a line says so and the parts are returned as they are.

    Args:
        parts: As built.
        input_shape: (B, C, *S) of every batch.
    """
    begun = time.monotonic()
    log.info("compiling the network")
    compiled = torch.compile(parts.network, dynamic=False)
    image = torch.zeros(*input_shape, device=parts.device)
    try:
        with _silence(), _nothing_learned(parts.network):
            outputs = parts.precision.forward(compiled, image)
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
            torch.stack([output.float().mean() for output in outputs]).sum().backward()
    # Whatever compilers raise: training without them is no worse than before.
    except Exception as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        log.warning("compiling failed, training goes on without: %s", why[:200])
        return parts
    log.info("compiled in %.0f s", time.monotonic() - begun)
    return replace(parts, compiled=compiled)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep pages of compilers' warnings from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _nothing_learned(network: nn.Module) -> Iterator[None]:
    """Put back what a forward and backward pass in training mode leaves in a network."""
    kept = [buffer.clone() for buffer in network.buffers()]
    network.train()
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, value in zip(network.buffers(), kept, strict=True):
            buffer.copy_(value)
