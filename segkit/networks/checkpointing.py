"""Activation checkpointing (Chen et al. 2016): memory for time, with the same gradient.

Between forward and backward only what goes into a part of the network is kept; the part is
computed once more when its gradient is due.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(run: Callable[..., Any], stage: nn.Module, *features: torch.Tensor) -> Any:
    """Run a part of a network without keeping its activations.

    Random numbers are the same in the second run, and running statistics are updated in the first
    alone.

    Args:
        run: The part, or a function that uses it.
        stage: Holds its batch norms.
        features: What it is given.
    """
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return checkpoint(run, *features, use_reentrant=False)
    # What happens between the two runs is nothing a compiler knows of.
    return torch.compiler.disable(_recomputed_with)(norms, run, *features)


def _recomputed_with(
    norms: Sequence[_BatchNorm], run: Callable[..., Any], *features: torch.Tensor
) -> Any:
    contexts = partial(_contexts, norms)
    return checkpoint(run, *features, use_reentrant=False, context_fn=contexts)


def _contexts(norms: Sequence[_BatchNorm]) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _unchanged_statistics(norms)


@contextlib.contextmanager
def _unchanged_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Normalise by the batch as in training, but leave the running statistics as they are."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
