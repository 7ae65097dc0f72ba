"""What a user's own network must do, tried out before training begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkit.errors import UserError, listing
from segkit.networks.own import OwnNetwork, in_words
from segkit.precision import Precision
from segkit.runtime import log
from segkit.types import Shape

SUMS_TO_ONE = 0.01
"""Outputs whose sums over the channels are that close to 1 everywhere are probabilities."""


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What goes in and must come out."""

    in_channels: int
    out_channels: int
    patch_size: Shape
    batch_size: int
    precision: Precision
    device: torch.device


def check_own_network(network: OwnNetwork, demands: Demands) -> None:
    """Run a network forward and backward on noise, as training and prediction will.

    Its weights, running statistics and mode are left as they are, and so are torch's random
    numbers.

    Raises:
        UserError: it fails, or does not do what is demanded; the message says which demand.
    """
    _check_state(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mode = network.training
    devices = [demands.device] if demands.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        _try_training(network.train(), demands)
        _try_prediction(network.eval(), demands)
    network.load_state_dict(before)
    network.train(mode)


def _check_state(network: OwnNetwork) -> None:
    """Checkpoints hold tensors alone, so that they load without running code."""
    strange = [name for name, x in network.state_dict().items() if not isinstance(x, Tensor)]
    if strange:
        raise _refusal(network, f"keeps other things than tensors in its state: {listing(strange)}")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise _refusal(network, "has no parameter to train")


def _try_training(network: OwnNetwork, demands: Demands) -> None:
    outputs = _run(network, demands, demands.batch_size)
    several = outputs if isinstance(outputs, list) else [outputs]
    if not several:
        raise _refusal(network, "gives an empty list in train mode")
    finest: Sequence[int] = demands.patch_size
    size = finest
    for place, logits in enumerate(several):
        which = f"output {place} in train mode" if len(several) > 1 else "the output in train mode"
        _check_logits(network, logits, which, demands)
        now = logits.shape[2:]
        fits = len(now) == len(size) and all(a <= b for a, b in zip(now, size, strict=True))
        if not fits or (place == 0 and list(now) != list(finest)):
            wanted = "exactly" if place == 0 else "at most"
            what = f"{which} has voxels {list(now)}, {wanted} {list(size)} are needed"
            raise _refusal(network, f"{what}; outputs go finest first")
        size = now
    _try_gradient(network, several, demands)


def _try_gradient(network: OwnNetwork, outputs: Sequence[Tensor], demands: Demands) -> None:
    try:
        torch.stack([logits.float().square().mean() for logits in outputs]).sum().backward()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _refusal(network, f"has no gradient: {in_words(error)}") from error
    trained = [(name, p.grad) for name, p in network.named_parameters() if p.requires_grad]
    network.zero_grad(set_to_none=True)
    missed = [name.removeprefix("network.") for name, gradient in trained if gradient is None]
    if len(missed) == len(trained):
        raise _refusal(network, "has parameters that no gradient reaches")
    if missed:
        log.warning("%s: no gradient reaches %s", network.name, listing(missed))
    # Infinite ones are to be expected in fp16, and scaled away.
    if demands.precision.dtype != torch.float16 and not all(
        bool(gradient.isfinite().all()) for _, gradient in trained if gradient is not None
    ):
        raise _refusal(network, "has a gradient that is NaN or infinite")


@torch.no_grad()
def _try_prediction(network: OwnNetwork, demands: Demands) -> None:
    """Patches are predicted at their full size, and one at a time where memory is short."""
    logits = _run(network, demands, 1)
    which = "the output in eval mode"
    _check_logits(network, logits, which, demands)
    if tuple(logits.shape[2:]) != demands.patch_size:
        what = f"{which} has voxels {list(logits.shape[2:])}, exactly "
        raise _refusal(network, f"{what}{list(demands.patch_size)} are needed")


def _run(network: OwnNetwork, demands: Demands, batch_size: int) -> Any:
    shape = (batch_size, demands.in_channels, *demands.patch_size)
    image = torch.randn(shape).to(demands.device)
    try:
        outputs = demands.precision.forward(network, image)
    except torch.cuda.OutOfMemoryError:
        # Not the network is to blame, but its batch.
        raise
    except Exception as error:
        mode = "train" if network.training else "eval"
        what = f"fails in {mode} mode on an image {list(shape)}: {in_words(error)}"
        raise _refusal(network, what) from error
    for logits in outputs if isinstance(outputs, list) else [outputs]:
        if isinstance(logits, Tensor) and len(logits) != batch_size:
            what = f"gives {len(logits)} outputs for {batch_size} images"
            raise _refusal(network, what)
    return outputs


def _check_logits(network: OwnNetwork, logits: Any, which: str, demands: Demands) -> None:
    """One output: a tensor (B, out, *S) of finite logits."""
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise _refusal(network, f"{which} is of type {kind}; a tensor or a list is needed")
    channels = demands.out_channels
    if logits.ndim != 2 + len(demands.patch_size) or logits.shape[1] != channels:
        needed = ", ".join(["batch", str(channels), *["voxels"] * len(demands.patch_size)])
        what = f"{which} has shape {list(logits.shape)}, ({needed}) is needed"
        raise _refusal(network, what)
    if not logits.is_floating_point():
        raise _refusal(network, f"{which} is of {logits.dtype}; logits are needed")
    found = logits.detach().float()
    if not bool(found.isfinite().all()):
        raise _refusal(network, f"{which} is NaN or infinite on noise")
    sums_to_one = bool(((found.sum(1) - 1).abs() < SUMS_TO_ONE).all())
    if channels > 1 and sums_to_one and bool((found >= 0).all()):
        raise _refusal(network, f"{which} holds probabilities; logits are needed, no softmax")


def _refusal(network: OwnNetwork, what: str) -> UserError:
    fix = "docs/networks.md says what a network of your own must do; -v shows the traceback"
    return UserError(f"{network.name}: {what}", where="network.class", fix=fix)
