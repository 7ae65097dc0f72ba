"""How much the outputs of the network weigh in the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from segkit.errors import UserError
from segkit.training.sampling import weights_in_order

_KEY = "loss.class_weights"


def settled_loss_weights(
    given: Literal["auto"] | Mapping[str, float] | None,
    names: Sequence[str],
    known: Mapping[str, float],
) -> dict[str, float] | None:
    """Return ``loss.class_weights`` in numbers.

    Args:
        given: What the recipe says.
        names: Of all outputs.
        known: Share of the annotated voxels for every target.

    Raises:
        UserError: weights are to follow frequencies that are unknown.
    """
    if given != "auto":
        return None if given is None else dict(given)
    if missing := [name for name in names if name not in known]:
        what = f"{_KEY} is auto, but nobody has counted how frequent {missing[0]!r} is"
        fix = "run segkit plan_and_preprocess again, or give the weights: "
        fix += f"--set '{_KEY}={{{names[-1]}: 2}}'"
        raise UserError(what, where=_KEY, fix=fix)
    return inverse_log_weights({name: known[name] for name in names})


def inverse_log_weights(shares: Mapping[str, float]) -> dict[str, float]:
    """Weigh rare targets more, but none above 51: 1 / ln(1.02 + share).

    The bounded weighting of ENet (Paszke et al. 2016). What never occurs is nothing to learn from:
    it weighs as little as the most frequent target, and 1 where nothing occurs. It does not weigh
    0, since an output that is never trained would find it anywhere.

    Args:
        shares: Share of the annotated voxels, in 0..1, of every target.
    """
    weights = {name: 1 / math.log(1.02 + share) for name, share in shares.items() if share}
    least = min(weights.values(), default=1.0)
    return {name: weights.get(name, least) for name in shares}


def output_weights(
    settled: Literal["auto"] | Mapping[str, float] | None,
    names: Sequence[str],
    device: torch.device,
) -> Tensor | None:
    """(O,) weight of every network output with mean 1, or None where all weigh the same.

    Raises:
        UserError: a name nobody knows, or no weight above 0.
    """
    assert settled != "auto", "settle the loss first"
    weights = weights_in_order(settled, names, key=_KEY)
    if weights is None or len(set(weights)) == 1:
        return None
    mean = sum(weights) / len(weights)
    return torch.tensor([weight / mean for weight in weights], device=device)
