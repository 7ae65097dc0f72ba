"""Convolutions in 8-bit integers: which ones, and between which values their inputs lie.

Weights are rounded by output channel, inputs to 256 levels between the smallest and the largest
value that was seen on some images (Jacob et al. 2018); norms, activations and sums stay in
floating point.
The convolution of the image itself and those of kernel size 1, the output layer above all, are
cheap and stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segkit.errors import UserError
from segkit.files import read_artifact, write_artifact
from segkit.networks.blocks import CONVOLUTIONS
from segkit.structs import read_struct, to_mapping

RANGES_FILE = "int8.json"
"""In the folder of a fold."""
RANGES_VERSION = 1
Ranges = Mapping[str, tuple[float, float]]
"""Name of a convolution -> smallest and largest value of its input; 0 lies between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRanges:
    """What a fold's ``int8.json`` holds."""

    images: int
    """On how many they were measured."""
    ranges: dict[str, tuple[float, float]]


def quantizable(network: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions that can be computed in integers, by name.

    Args:
        network: Fused, see :func:`segkit.networks.unet.fuse_upsamplings`.
    """
    found = [(n, m) for n, m in network.named_modules() if isinstance(m, CONVOLUTIONS)]
    return {name: module for name, module in found[1:] if math.prod(module.kernel_size) > 1}


class RangeObserver:
    """Follows a network's forward passes: between which values the inputs of convolutions lay."""

    def __init__(self, network: nn.Module) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        for name, module in quantizable(network).items():
            module.register_forward_pre_hook(self._follow(name))

    def _follow(self, name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
            low, high = self.ranges.get(name, (0.0, 0.0))
            smallest, largest = (float(value) for value in inputs[0].aminmax())
            self.ranges[name] = min(low, smallest), max(high, largest)

        return look


def save_ranges(fold: Path, measured: MeasuredRanges, weights: str) -> None:
    """Write the ranges of a fold.

    Args:
        fold: Folder of the fold.
        measured: The ranges.
        weights: Hash of the checkpoint they were measured with.
    """
    content = to_mapping(measured)
    write_artifact(fold / RANGES_FILE, content, version=RANGES_VERSION, made_from=weights)


def load_ranges(fold: Path, weights: str) -> Ranges:
    """Read the ranges of a fold.

    Args:
        fold: Folder of the fold.
        weights: Hash of the checkpoint that is to predict.

    Raises:
        UserError: there are none, or they were measured with other weights.
    """
    path = fold / RANGES_FILE
    fix = (
        f"segkit quantize -m {fold.parent} -i IMAGES measures it, on images like those that are "
        "to be predicted"
    )
    if not path.is_file():
        raise UserError("nothing is known of this fold for int8", where=fold, fix=fix)
    if read_artifact(path, version=RANGES_VERSION, remedy=fix)["made_from"] != weights:
        raise UserError("measured with other weights than are to predict", where=path, fix=fix)
    return read_struct(MeasuredRanges, path, version=RANGES_VERSION).ranges
