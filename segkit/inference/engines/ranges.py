"""Post-training static quantization: which convolutions, and between which values inputs lie.

Weights are rounded by output channel, inputs to 256 levels of the range that calibration images
showed, but for outliers (Jacob et al. 2018; Wu et al. 2020, percentile calibration). Norms,
activations, sums and transposed convolutions stay in floating point. The convolution of the image
itself and those of kernel size 1, the output layer above all, are cheap and stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segkit.errors import UserError
from segkit.files import read_json, write_artifact
from segkit.structs import read_struct, to_mapping

RANGES_VERSION = 2
Ranges = Mapping[str, tuple[float, float]]
"""Name of a convolution -> between which values its input lies; 0 is one of them."""
OUTLIERS = 1e-5
"""Share of the values of a pass, at either end, that may lie beyond; few, for what is small in an
image, such as a lesion, makes rare values."""
_LOOKED_AT = 1 << 22
"""Values of a pass that are looked at, at most, evenly spread."""


class NotCalibrated(UserError):
    """Ranges that are missing, or those of other weights: the model has to be quantized first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRanges:
    """What ``CHECKPOINT_int8.json`` in the folder of a fold holds."""

    images: int
    """On how many they were measured."""
    ranges: dict[str, tuple[float, float]]

    def __post_init__(self) -> None:
        if not all(low <= 0 <= high for low, high in self.ranges.values()):
            raise ValueError("every range must hold 0")


def ranges_file(fold: Path, checkpoint: str) -> Path:
    """Where the ranges of a checkpoint lie; of ``final``, those that go along with the model."""
    return fold / f"{checkpoint}_int8.json"


def quantizable(network: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions that are computed in integers, by name.

    Transposed ones are not among them, for they are no faster so.

    Args:
        network: Fused, see :func:`segkit.networks.unet.fuse_upsamplings`.
    """
    found = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    return {name: module for name, module in found[1:] if math.prod(module.kernel_size) > 1}


class RangeObserver:
    """Notes between which values the inputs of a network's convolutions lie, pass after pass.

    Its hooks stay in the network. Without a pass there are no ranges.
    """

    def __init__(self, network: nn.Module) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        for name, module in quantizable(network).items():
            module.register_forward_pre_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
            low, high = self.ranges.get(name, (0.0, 0.0))
            smallest, largest = _range_of(inputs[0])
            self.ranges[name] = min(low, smallest), max(high, largest)

        return note


def _range_of(features: Tensor) -> tuple[float, float]:
    """Return between which values features (B, C, *S) lie, but for outliers."""
    # Voxel by voxel, as they lie in memory.
    values = features.movedim(1, -1).reshape(-1)
    values = values[:: math.ceil(len(values) / _LOOKED_AT)].float()
    beyond = max(1, round(len(values) * OUTLIERS))
    ends = [values.topk(beyond, largest=largest).values[-1] for largest in (False, True)]
    return float(ends[0]), float(ends[1])


def save_ranges(path: Path, measured: MeasuredRanges, weights: str) -> None:
    """Write ranges; ``weights`` is the hash of the checkpoint they were measured with."""
    write_artifact(path, to_mapping(measured), version=RANGES_VERSION, made_from=weights)


def load_ranges(path: Path, weights: str) -> Ranges:
    """Read ranges.

    Args:
        path: See :func:`ranges_file`.
        weights: Hash of the checkpoint that is to predict.

    Raises:
        NotCalibrated: there are none, they are damaged, or were measured with other weights.
    """
    if not path.is_file():
        raise NotCalibrated("this fold was not prepared for int8", where=path.parent)
    try:
        measured = read_struct(MeasuredRanges, path, version=RANGES_VERSION)
    except UserError as error:
        raise NotCalibrated(f"damaged: {error.what}", where=error.where) from None
    if read_json(path)["made_from"] != weights:
        raise NotCalibrated("measured with other weights than are to predict", where=path)
    return measured.ranges
